"""Plays a scenario on a stage and notes what came of each step; knows neither stage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from firstboot.model import EPOCH_LABEL, GENERATION_LABEL, Engine, Entry, Swarm, Token
from tests.lab.conformance.steps import Scenario, Step

ROOM = {"room": "attic"}
_REFUSALS = (
    ("already part of a swarm", "already in a swarm"),
    ("not a swarm manager", "no manager"),
    ("last manager", "last manager"),
    ("does not have a leader", "no leader"),
    ("is a cluster manager", "is a manager"),
    ("is not down", "not down"),
    ("not found", "no such node"),
)


class RefusedError(Exception):
    """An engine refused; the message is its own."""


class EndedError(Exception):
    """An engine ended instead of starting."""


class Stage(Protocol):
    """Engines by the names of their machines, and what can be done to them.

    `act` does a verb of scenarios.py that is not about a join or a node's entry, on one machine.
    """

    def act(self, verb: str, name: str, argument: str) -> None: ...
    def join(self, name: str, target: str, token: Token, *, wait: bool) -> None: ...
    def change(self, verb: str, node_id: str, on: str) -> None: ...
    def token(self, name: str) -> Token: ...
    def engine(self, name: str) -> Engine: ...
    def swarm(self, name: str) -> Swarm | None: ...
    def digest(self, name: str) -> str:
        """Of the CA that the machine holds, as join tokens have it."""

    def lasts(self, name: str) -> float:
        """Seconds for which its own certificate is valid."""

    def unknown(self, entry: Entry) -> bool:
        """Whether the list says of it that nobody knows how it is."""

    def wait(self, seconds: float) -> None: ...
    def now(self) -> float: ...


@dataclass(frozen=True)
class Outcome:
    """What came of a step, and how many seconds it took."""

    step: Step
    gave: str
    seconds: float

    @property
    def as_wanted(self) -> bool:
        return self.gave == self.step.gives

    def __str__(self) -> str:
        wanted = "" if self.as_wanted else f", not {self.step.gives!r}"
        return f"{self.seconds:6.1f} s  {self.step.kind} {self.step.text}: {self.gave!r}{wanted}"


class Play:
    """One scenario on one stage. `patience`: seconds for which a question is asked again."""

    def __init__(self, stage: Stage, *, patience: float, every: float) -> None:
        self._stage = stage
        self._patience = patience
        self._every = every
        self._kept: dict[str, str] = {}
        self._kept_token = Token("")

    def run(self, scenario: Scenario) -> list[Outcome]:
        """Play it, up to the first step that does not give what it should."""
        outcomes: list[Outcome] = []
        for step in scenario.steps:
            begun = self._stage.now()
            gave = self._do(step.text) if step.kind == "do" else self._ask(step)
            outcomes.append(Outcome(step, gave, self._stage.now() - begun))
            if not outcomes[-1].as_wanted:
                break
        return outcomes

    # --- commands -------------------------------------------------------------------------------

    def _do(self, text: str) -> str:
        try:
            return self._command(text.split())
        except RefusedError as error:
            return refusal(str(error))
        except EndedError:
            return "ended"

    def _command(self, words: Sequence[str]) -> str:
        verb, *rest = words
        if verb in ("join", "begin"):
            return self._join(rest, wait=verb == "join")
        if verb == "keep":
            self._keep(*rest)
        elif verb == "wait":
            self._stage.wait(float(rest[0]))
        elif "on" in rest:
            on = rest[-1]
            node_id = self._id(rest[0], on) if len(rest) == 3 else ""
            self._stage.change(verb, node_id, on)
        else:
            self._stage.act(verb, rest[0], rest[1] if len(rest) > 1 else "")
        return "ok"

    def _join(self, words: Sequence[str], *, wait: bool) -> str:
        """`b to a`, `b to a with TOKEN`; TOKEN: kept, wrong-secret, wrong-ca, or whose it is."""
        name, target = words[0], words[2]
        with_ = words[4] if len(words) > 3 else ""
        token = self._kept_token if with_ == "kept" else self._stage.token(self._whose(with_))
        if with_.startswith("wrong-"):
            parts = token.reveal().split("-")
            place = 3 if with_ == "wrong-secret" else 2
            parts[place] = re.sub("[0-9a-z]", "0", parts[place])
            token = Token("-".join(parts))
        self._stage.join(name, target, token, wait=wait)
        if not wait:
            return "ok"
        return "joined" if self._stage.engine(name).state == "active" else "failed"

    @staticmethod
    def _whose(with_: str) -> str:
        return with_ if len(with_) == 1 else "a"

    def _keep(self, what: str, name: str) -> None:
        if what == "token":
            self._kept_token = self._stage.token(name)
        else:
            self._kept["id"] = self._stage.engine(name).node_id

    def _id(self, who: str, on: str) -> str:
        if who == "kept":
            return self._kept["id"]
        if who == "unknown":
            swarm = self._stage.swarm(on)
            return next((one.id for one in swarm.entries if not one.name), "") if swarm else ""
        return self._stage.engine(who).node_id

    # --- questions ------------------------------------------------------------------------------

    def _ask(self, step: Step) -> str:
        patience = self._patience if step.kind == "see" else 0.0
        deadline = self._stage.now() + patience
        while True:
            gave = self._answer(step.text.split())
            if gave == step.gives or self._stage.now() >= deadline:
                return gave
            self._stage.wait(self._every)

    def _answer(self, words: Sequence[str]) -> str:
        about, name = words[0], words[1]
        if about in ("state", "trouble", "id"):
            return self._of_engine(about, self._stage.engine(name))
        if about == "lasts":
            days = self._stage.lasts(name) / 86400
            return "10 years" if 3640 < days < 3660 else f"{days:.0f} days"
        if about == "token":
            return "same" if self._stage.token(name) == self._kept_token else "new"
        if about == "digest":
            digest = self._stage.token(words[2]).reveal().split("-", 2)[2].rpartition("-")[0]
            return "same" if self._stage.digest(name) == digest else "other"
        return self._of_swarm(words)

    def _of_engine(self, about: str, engine: Engine) -> str:
        if about == "state":
            role = (" manager" if engine.manager else " worker") if engine.state == "active" else ""
            return engine.state + role
        if about == "trouble":
            return trouble(engine.error)
        return "same" if engine.node_id == self._kept["id"] else "new"

    def _of_swarm(self, words: Sequence[str]) -> str:
        about, name, on = words[0], words[1], words[-1]
        swarm = self._stage.swarm(on)
        if swarm is None:
            return "no quorum"
        if about == "list":
            return ", ".join(sorted(self._line(entry) for entry in swarm.entries))
        if about == "quorum":
            names = sorted(one.name for one in swarm.entries if one.reachable and one.ready)
            return ", ".join(names) if any(one.leader for one in swarm.entries) else "no leader"
        if about == "rotation":
            return "done" if swarm.rotations and not swarm.rotating else "under way"
        if about == "epoch":
            return swarm.labels.get(EPOCH_LABEL, "")
        if about == "generations":
            return _told(swarm.labels, GENERATION_LABEL + ".")
        node_id = self._id(name, on)
        found = [entry for entry in swarm.entries if entry.id == node_id]
        return _told(found[0].labels, "piflash.") if found else "no entry"

    def _line(self, entry: Entry) -> str:
        parts = [entry.name or "?", entry.role]
        if entry.role == "manager":
            parts.append(
                "leader" if entry.leader else "reachable" if entry.reachable else "unreachable"
            )
        unknown = not entry.ready and self._stage.unknown(entry)
        parts.append("ready" if entry.ready else "unknown" if unknown else "down")
        return " ".join(parts)


def _told(labels: object, prefix: str) -> str:
    assert isinstance(labels, dict)
    mine = {key: text for key, text in labels.items() if key.startswith(prefix) or "." not in key}
    return " ".join(sorted(f"{key.removeprefix(prefix)}={text}" for key, text in mine.items()))


def refusal(message: str) -> str:
    """Say what a refusal is about; the message itself if it is about nothing known."""
    return next((what for part, what in _REFUSALS if part in message), message)


def trouble(message: str) -> str:
    """Say what an engine's error is about; the message itself if it is about no certificate."""
    # dockerd does not say which of the two.
    return "its dates" if "expired or is not yet valid" in message else message
