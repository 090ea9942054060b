"""What goes wrong, all of it from one seed: the plan beforehand, and its execution.

Faults stop at `Plan.heal`: from then on every current card is in a Pi with power, the network is
whole, and everybody has to get ready. Old cards and copies are out of their Pis by then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from firstboot.model import Action, AskJoin, Bind, Join, Remember, ReportJoined
from flasher.model import ClusterSpec
from tests.sim import cards
from tests.sim.cards import Card

if TYPE_CHECKING:
    from firstboot.model import Ask, Hello
    from tests.sim.shell import Shell
    from tests.sim.world import Box, World

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


def _with_faults(dice: random.Random, base: Plan, names: list[str]) -> Plan:
    kinds = ("cut", "cut", "divide", "loss", "restart", "reflash", "reflash", "old", "copy")
    kinds = (*kinds, "wrong", "forget", "again")
    faults = []
    honest = True
    reflashed = 0
    for _ in range(dice.choice((0, 1, 2, 3, 5))):
        kind = dice.choice(kinds)
        node = dice.choice(names)
        if kind in ("reflash", "wrong", "forget") and len(base.spec.managers) > 1:
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
        at = dice.uniform(1.0, base.heal)
        faults.append(Fault(at, kind, node, dice.uniform(1.0, 60.0)))
    return replace(base, faults=tuple(sorted(faults, key=lambda one: one.at)), honest=honest)


class Faults:
    """Makes a plan happen in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan
        self.loss = 0.0
        self.left = self.plan.cuts
        self.old: list[Card] = []
        self.healed = False
        self.remedies: list[str] = []
        self._begin()

    def _begin(self) -> None:
        world, plan = self.world, self.plan
        flashed = world.now(-plan.age)
        for name in world.plan.names:
            box = world.boxes[name]
            box.docker_delay = plan.docker.get(name, 2.0)
            box.ntp_at = plan.ntp.get(name, 1.0)
            if name != SPARE:
                box.insert(world.operator.flash(name, now=flashed))
                world.at(plan.boots[name], self._on, box)
        for fault in plan.faults:
            world.at(fault.at, self._happens, fault)
        world.at(plan.heal, self._heal)

    # --- the power --------------------------------------------------------------------------------

    def strike(self, shell: Shell, action: Action) -> tuple[str, float] | None:
        """Say whether the power goes at this action: at which stage, and for how long."""
        if self.healed or self.left <= 0 or self.plan.cut_chance <= 0:
            return None
        dice = self.world.random
        weight = 1.0 if isinstance(action, (Join, Bind, Remember, AskJoin, ReportJoined)) else 3.0
        if dice.random() >= self.plan.cut_chance * weight:
            return None
        self.left -= 1
        return dice.choice(("before", "during", "after")), dice.choice((0.5, 5.0, 20.0, 70.0))

    def cut(self, box: Box, t: float, away: float) -> None:
        """Pull a plug, and put it in again later."""
        box.power_off(t)
        self.world.at(t + away, self._on, box)

    def _on(self, t: float, box: Box) -> None:
        if box.name != SPARE or not self.healed:
            box.power_on(t)

    # --- what happens -----------------------------------------------------------------------------

    def _happens(self, t: float, fault: Fault) -> None:
        kinds: dict[str, Callable[[float, Fault], None]] = {
            "cut": self._cut,
            "divide": self._divide,
            "loss": self._lose,
            "restart": self._restart,
            "reflash": self._reflash,
            "old": self._old,
            "copy": self._copy,
            "wrong": self._wrong,
            "apart": self._apart,
            "rebuild": self._rebuild,
            "again": self._again,
            "forget": self._forget,
        }
        kinds[fault.kind](t, fault)

    def _cut(self, t: float, fault: Fault) -> None:
        self.cut(self.world.boxes[fault.node], t, fault.seconds)

    def _divide(self, t: float, fault: Fault) -> None:
        for box in self.world.boxes.values():
            box.side = self.world.random.choice((0, 1))
        self.world.fabric.dirty = True
        self.world.at(t + fault.seconds, self._unite)

    def _unite(self, _t: float) -> None:
        for box in self.world.boxes.values():
            box.side = 0
        self.world.fabric.dirty = True

    def _lose(self, t: float, fault: Fault) -> None:
        self.loss = self.world.random.choice((0.1, 0.3, 0.6))
        self.world.at(t + fault.seconds, self._quiet)

    def _quiet(self, _t: float) -> None:
        self.loss = 0.0

    def _restart(self, t: float, fault: Fault) -> None:
        box = self.world.boxes[fault.node]
        if box.on and box.card and box.card.engine.running:
            box.restart_docker(t)

    def _reflash(self, t: float, fault: Fault) -> None:
        self.reflash(t, fault.node, rebuild=False)

    def reflash(self, t: float, node: str, *, rebuild: bool) -> None:
        """A new card for a node: the Pi goes off, gets it, and comes on again."""
        box = self.world.boxes[node]
        box.power_off(t)
        if box.card:
            self.old.append(box.card)
        delivered = self.healed or self.world.random.random() > 0.1
        card = self.world.operator.flash(
            node, now=self.world.now(t), rebuild=rebuild, delivered=delivered
        )
        if not delivered:
            # The writer failed; the card stays unbootable, and another one is made.
            card = self.world.operator.flash(node, now=self.world.now(t), rebuild=rebuild)
        box.insert(card)
        self.world.at(t + 5.0, self._on, box)

    def _wrong(self, t: float, fault: Fault) -> None:
        self._divide(t, fault)
        self.reflash(t, fault.node, rebuild=True)

    def _apart(self, t: float, fault: Fault) -> None:
        """A node is plugged into another network."""
        self.world.boxes[fault.node].side = 1
        self.world.fabric.dirty = True
        self.world.at(t + fault.seconds, self._back, fault.node)

    def _back(self, _t: float, node: str) -> None:
        self.world.boxes[node].side = 0
        self.world.fabric.dirty = True

    def _rebuild(self, t: float, fault: Fault) -> None:
        self.reflash(t, fault.node, rebuild=True)

    def _again(self, t: float, fault: Fault) -> None:
        """The seed is flashed with --rebuild, although nothing is wrong with the swarm."""
        if self.plan.honest and (len(self.plan.faults) > 1 or self.plan.cut_chance):
            return
        self.reflash(t, self.plan.spec.managers[0].name, rebuild=True)

    def _forget(self, t: float, fault: Fault) -> None:
        """What dockerd kept of its swarm is damaged, and was put aside at the next start (S9)."""
        box = self.world.boxes[fault.node]
        if box.card and box.card.engine.papers:
            box.power_off(t)
            box.card.engine.torn = True
            self.world.at(t + fault.seconds, self._on, box)

    def _old(self, t: float, fault: Fault) -> None:
        """A card that was replaced goes into another Pi."""
        spare = self.world.boxes[SPARE]
        if not spare.on and self.old:
            spare.insert(self.world.random.choice(self.old))
            spare.power_on(t)
            self.world.at(t + fault.seconds, self._out)

    def _copy(self, t: float, fault: Fault) -> None:
        """A worker's card was copied, with all that is on it, and both are in a Pi."""
        spare, card = self.world.boxes[SPARE], self.world.boxes[fault.node].card
        if spare.on or card is None or card.config.role == "manager":
            return
        copied = Card(card.config, permit=card.permit, charter=card.charter)
        copied.memory, copied.tick = card.memory, card.tick
        spare.insert(copied)
        spare.power_on(t)
        self.world.at(t + fault.seconds, self._out)

    def _out(self, t: float) -> None:
        self.world.boxes[SPARE].power_off(t)

    def _heal(self, t: float) -> None:
        self.healed = True
        self._out(t)
        self._unite(t)
        self._quiet(t)
        for box in self.world.boxes.values():
            if box.name != SPARE:
                box.power_on(t)

    # --- a node that was taken over ---------------------------------------------------------------

    def lie(self, shell: Shell, hello: Hello) -> Hello:
        """What a worker in foreign hands says of itself, with its own good certificate."""
        if self.healed or shell.card.name != self.plan.rogue:
            return hello
        dice = self.world.random
        charter = self.world.plan_charter
        return dice.choice(
            (
                hello,
                replace(hello, quorum=True, leader=hello.name, swarm_epoch=1, charter=charter),
                replace(hello, quorum=True, grants=True, leader=hello.name, swarm_epoch=9),
                replace(hello, role="manager", quorum=True, swarm_epoch=9),
                replace(hello, name="m1", generation=99),
                replace(hello, epoch=99, swarm_epoch=9),
                replace(hello, node_id=self._some_id(), was_member=False),
            )
        )

    def forge(self, shell: Shell, ask: Ask) -> Ask:
        """What it asks for: another's place in the swarm."""
        if self.healed or shell.card.name != self.plan.rogue or ask.kind != "joined":
            return ask
        return replace(ask, node_id=self._some_id() or ask.node_id)

    def _some_id(self) -> str:
        ids = [id_ for store in self.world.fabric.stores.values() for id_ in store.nodes]
        return self.world.random.choice(ids) if ids else ""
