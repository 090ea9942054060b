"""The story of a seed before it is told: who boots when, by which clock, what goes wrong. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from flasher.model import ClusterSpec
from tests.sim import cards

ORIGIN = 1_790_000_000.0
YEAR = 365 * 86400.0
DAY = 86400.0
ROSTERS = ((1, 1), (1, 2), (1, 3), (1, 3), (3, 0), (3, 1), (3, 2), (5, 1))
ROSTER_WEIGHTS = (3, 4, 3, 3, 4, 4, 4, 1)
SPARE = "spare"


@dataclass(frozen=True)
class Fault:
    """Something that happens at a time. `seconds`: for how long, where it ends by itself."""

    at: float
    kind: str
    node: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A whole story, before it is told. `ntp`: when time servers answer a node, None for never."""

    seed: int
    spec: ClusterSpec
    heal: float = 0.0
    origin: float = ORIGIN
    boots: dict[str, float] = field(default_factory=dict)
    ntp: dict[str, float | None] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    docker: dict[str, float] = field(default_factory=dict)
    delay: tuple[float, float] = (0.001, 0.01)
    cut_chance: float = 0.0
    cuts: int = 0
    faults: tuple[Fault, ...] = ()
    age: float = 0.0  # of the first cards when they are used, seconds
    rogue: str = ""
    forged: str = ""  # how the permit of the first card is wrong
    later: bool = False
    honest: bool = True

    @property
    def names(self) -> list[str]:
        """Every Pi: one for each node, and one more."""
        return [*(node.name for node in self.spec.nodes), SPARE]

    def clock(self, name: str, boot: int, t: float, tick: float) -> float:
        """Give how far a Pi's clock is ahead when it boots; it has no battery."""
        offset = self.clocks.get(name, 0.0)
        if offset > 0:
            return offset
        return offset - (t if boot > 1 else 0.0)


def plain(managers: int, workers: int, *, seed: int = 0, **more: Any) -> Plan:
    """Give a story in which nothing goes wrong: all at once, right clocks."""
    spec = cards.spec(managers, workers, labels={"w1": {"zone": "attic"}})
    names = [node.name for node in spec.nodes]
    return replace(
        Plan(
            seed,
            spec,
            boots=dict.fromkeys(names, 0.5),
            ntp=dict.fromkeys(names, 1.0),
        ),
        **more,
    )


def plan(seed: int) -> Plan:
    """Give the story of a seed."""
    dice = random.Random(seed)
    managers, workers = dice.choices(ROSTERS, ROSTER_WEIGHTS)[0]
    spec = cards.spec(managers, workers, labels={"w1": {"zone": "attic"}, "m1": {"disk": "big"}})
    names = [node.name for node in spec.nodes]
    heal = dice.choice((10.0, 30.0, 60.0, 100.0, 160.0))
    spread = dice.choice((0.0, 5.0, 30.0, 100.0))
    times, clocks = _clocks(dice, names)
    base = Plan(
        seed,
        spec,
        heal=heal,
        boots={name: dice.uniform(0.0, min(spread, heal)) for name in names},
        ntp=times,
        clocks=clocks,
        docker={name: dice.choice((0.5, 2.0, 2.0, 8.0, 40.0)) for name in names},
        delay=dice.choice(((0.001, 0.01), (0.001, 0.01), (0.02, 0.4))),
        cut_chance=dice.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
        cuts=dice.choice((1, 2, 3, 6)),
        age=dice.choice((0.0, 3600.0, 20 * DAY, 300 * DAY)),
        rogue=dice.choice([*names[managers:], ""]) if dice.random() < 0.15 else "",
        later=dice.random() < 0.1,
        forged=dice.choice(cards.FORGERIES) if dice.random() < 0.02 else "",
    )
    return _with_faults(dice, base, names)


def _clocks(
    dice: random.Random, names: list[str]
) -> tuple[dict[str, float | None], dict[str, float]]:
    """When time servers answer whom, and what the clocks show until then."""
    manner = dice.choice(("good", "good", "late", "none", "years"))
    if manner == "good":
        return dict.fromkeys(names, 1.0), {}
    if manner == "none":
        return dict.fromkeys(names), dict.fromkeys(names, -6 * YEAR)
    choices: tuple[float | None, ...] = (1.0, 20.0, 95.0, 200.0, None)
    times: dict[str, float | None] = {name: dice.choice(choices) for name in names}
    years = {name: dice.choice((-56 * YEAR, -7 * YEAR, -90 * DAY, -2000.0, 0.0)) for name in names}
    if manner == "years":
        years[dice.choice(names)] = dice.choice((3 * YEAR, 4000.0, 200.0))
    return times, years


KINDS = (
    *("cut", "cut", "divide", "loss", "restart", "reflash", "reflash", "old", "copy"),
    *("wrong", "forget", "again", "rot", "spoil", "house"),
)
# After these something has to be missed for half a minute before it is cleared away.
SLOW = ("reflash", "forget", "rot", "spoil")


def _with_faults(dice: random.Random, base: Plan, names: list[str]) -> Plan:
    drawn = [dice.choice(KINDS) for _ in range(dice.choice((0, 1, 2, 3, 5)))]
    if any(kind in SLOW for kind in drawn):
        base = replace(base, heal=max(base.heal, dice.choice((60.0, 130.0, 200.0))))
    faults = []
    honest = True
    reflashed = 0
    for kind in drawn:
        node = dice.choice(names)
        if kind in SLOW and dice.random() < 0.3:
            node = dice.choice(base.spec.managers).name
        if kind in (*SLOW, "wrong") and len(base.spec.managers) > 1:
            reflashed += 1
            if reflashed > 1:
                continue
        if kind == "wrong":
            # A rebuild while a part of the network is away: the operator was told not to.
            if len(base.spec.managers) == 1 or dice.random() < 0.7:
                continue
            honest, node = False, "m1"
        if kind in ("old", "copy"):
            honest = False
        at = dice.uniform(1.0, base.heal * (0.6 if kind in SLOW else 1.0))
        seconds = dice.uniform(1.0, 60.0)
        if kind == "house":
            seconds = dice.choice((5.0, 100.0, 400.0))
            base = replace(base, heal=max(base.heal, at + seconds))
        faults.append(Fault(at, kind, node, seconds))
    return replace(base, faults=tuple(sorted(faults, key=lambda one: one.at)), honest=honest)


def kinds(plan: Plan) -> set[str]:
    """Give what goes wrong from the beginning, by its name in the tally."""
    skews, answers = plan.clocks.values(), plan.ntp.values()
    kinds = {
        "clock years behind": any(skew <= -YEAR for skew in skews),
        "clock minutes to months behind": any(-YEAR < skew < 0 for skew in skews),
        "clock ahead": any(skew > 0 for skew in skews),
        "time server late": any(at is not None and at > 1.0 for at in answers),
        "no time server": None in answers,
        "network slow": plan.delay[1] > 0.1,
        "dockerd takes 40 s": any(seconds >= 40.0 for seconds in plan.docker.values()),
        "cards 300 days old": plan.age >= 300 * DAY,
        "permit that is not the card's": bool(plan.forged),
    }
    return {kind for kind, it_is in kinds.items() if it_is}
