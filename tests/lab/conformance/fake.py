"""The stage of the simulator's fake engines (tests/sim/fakeswarm.py), with a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from firstboot.model import Bind, Entry, Swarm, Token
from firstboot.model import Engine as View
from tests.lab.conformance.stage import ROOM, EndedError, Outcome, Play, RefusedError
from tests.lab.conformance.steps import Scenario
from tests.sim.fakeswarm import INIT, DockerError, Fabric
from tests.sim.raft import Engine

ORIGIN = 1.6e9  # any day


def play(scenario: Scenario) -> list[Outcome]:
    """Play a scenario with fakes; its seconds are simulated."""
    return Play(FakeStage(scenario), patience=120.0, every=0.5).run(scenario)


class FakeStage:
    """Stage for a scenario's machines, all of them on."""

    def __init__(self, scenario: Scenario) -> None:
        self._t = 0.0
        self._fabric = Fabric(self._linked, origin=ORIGIN)
        self._unplugged: set[str] = set()
        self._machines: dict[str, Engine] = {}
        for number, name in enumerate(scenario.nodes, start=11):
            engine = Engine(name, f"198.18.0.{number}")
            self._machines[name] = engine
            self._fabric.engines.append(engine)
            self._fabric.start(engine, 0.0)

    def _linked(self, one: Engine, other: Engine) -> bool:
        # A machine that is off and one whose dockerd is: for its peers that is the same here.
        fine = all(each.running and each.name not in self._unplugged for each in (one, other))
        return fine and self._machines[one.name] is one and self._machines[other.name] is other

    # --- doing ----------------------------------------------------------------------------------

    def act(self, verb: str, name: str, argument: str) -> None:
        acts: dict[str, Callable[[str, str], None]] = {
            "init": self._init,
            "leave": lambda name, _: self._fabric.leave(self._machines[name], self._t),
            "rotate-ca": lambda name, _: self._fabric.rotate_ca(self._machines[name], self._t),
            "rotate-token": lambda name, _: self._fabric.rotate_token(
                self._machines[name], self._t
            ),
            "clock": self._clock,
            "cut": lambda name, _: self._fabric.stop(self._machines[name]),
            "start": self._start,
            "restart": self._restart,
            "wipe": self._wipe,
            "tear": self._tear,
            "tear-certificate": self._tear_certificate,
            "repair": self._repair,
            "unplug": lambda name, _: self._unplugged.add(name),
            "plug": lambda name, _: self._unplugged.remove(name),
        }
        self._told(lambda: acts[verb](name, argument))

    def _told(self, act: Callable[[], object]) -> None:
        self._fabric.advance(self._t)
        try:
            act()
        except DockerError as error:
            raise RefusedError(str(error)) from None
        finally:
            self._fabric.dirty = True
            self.wait(0.1)

    def _init(self, name: str, _argument: str) -> None:
        self._fabric.init(self._machines[name], self._t, epoch=1, charter="")
        self.wait(INIT)

    def _clock(self, name: str, argument: str) -> None:
        self._machines[name].skew = float(argument)

    def _start(self, name: str, _argument: str) -> None:
        try:
            self._fabric.start(self._machines[name], self._t)
        except DockerError as error:
            raise EndedError(str(error)) from None

    def _restart(self, name: str, argument: str) -> None:
        self._fabric.stop(self._machines[name])
        self._start(name, argument)

    def _wipe(self, name: str, _argument: str) -> None:
        old = self._machines[name]
        self._fabric.stop(old)
        self._fabric.engines.remove(old)
        new = self._machines[name] = Engine(name, old.address)
        new.skew = old.skew
        self._fabric.engines.append(new)

    def _tear(self, name: str, _argument: str) -> None:
        self._machines[name].torn = True

    def _tear_certificate(self, name: str, _argument: str) -> None:
        papers = self._machines[name].papers
        assert papers is not None
        papers.begins = papers.ends = 0.0

    def _repair(self, name: str, _argument: str) -> None:
        self._machines[name].torn = False

    def join(self, name: str, target: str, token: Token, *, wait: bool) -> None:
        def act() -> None:
            seconds = self._fabric.join(
                self._machines[name], self._t, target=self._machines.get(target), token=token
            )
            if wait:
                self.wait(seconds)

        self._told(act)

    def change(self, verb: str, node_id: str, on: str) -> None:
        fabric, engine, t = self._fabric, self._machines[on], self._t
        if verb == "label":
            name = self._name(node_id)
            self._told(lambda: fabric.bind(engine, t, Bind(node_id, name, 1, "worker", ROOM)))
        elif verb == "supersede":
            self._told(lambda: fabric.supersede(engine, t, name="pi9", generation=7))
        else:
            act = {"promote": fabric.promote, "demote": fabric.demote, "remove": fabric.remove}
            self._told(lambda: act[verb](engine, t, node_id))

    def _name(self, node_id: str) -> str:
        found = [one for one in self._machines.values() if one.papers]
        return next(one.name for one in found if one.papers and one.papers.node_id == node_id)

    # --- looking --------------------------------------------------------------------------------

    def token(self, name: str) -> Token:
        return self._fabric.worker_token(self._machines[name], self._t)

    def engine(self, name: str) -> View:
        self._fabric.advance(self._t)
        one = self._machines[name]
        papers = one.papers if one.said != "pending" or one.looking else None
        return View(
            state=one.said,
            since=0.0,
            node_id=papers.node_id if papers else "",
            manager=bool(papers) and one.said == "active" and one.manager,
            error=one.error,
        )

    def swarm(self, name: str) -> Swarm | None:
        swarm = self._fabric.view(self._machines[name], self._t)
        return replace(swarm) if swarm else None

    def digest(self, name: str) -> str:
        papers = self._machines[name].papers
        return papers.root.digest if papers else ""

    def lasts(self, name: str) -> float:
        papers = self._machines[name].papers
        return papers.ends - papers.begins if papers else 0.0

    def unknown(self, entry: Entry) -> bool:
        return not entry.name

    def wait(self, seconds: float) -> None:
        self._t += seconds
        self._fabric.advance(self._t)

    def now(self) -> float:
        return self._t
