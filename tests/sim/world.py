"""Fake time, Pis, their clocks and the network between them. It decides nothing.

Everything that happens is an event at a time; the same seed gives the same events.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from firstboot.model import Action, Decision, Init, Join, Leave, Remember
from tests.sim import effects
from tests.sim import shell as shells
from tests.sim.cards import Card, Operator
from tests.sim.core import REAL, Core
from tests.sim.fakeswarm import INIT, Fabric
from tests.sim.faults import Faults
from tests.sim.invariants import Judge
from tests.sim.plans import Plan
from tests.sim.raft import Engine
from tests.sim.shell import Shell

Trace = Callable[[float, Shell, Decision], None]


class Box:
    """A Pi. Without a battery for its clock, without a card it is nothing.

    `skew`: how far its wall clock is ahead of the true time. `side`: which part of a divided
    network it is in.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.card: Card | None = None
        self.on = False
        self.booted = 0
        self.skew = 0.0
        self.ntp = False
        self.ntp_at: float | None = None
        self.address_up = False
        self.shell: Shell | None = None
        self.docker_delay = 2.0
        self.side = 0
        self.since_step: float | None = None

    def power_on(self, t: float) -> None:
        """Boot: the clock first, dockerd and the service side by side."""
        if self.on or self.card is None:
            return
        self.on, self.booted, self.ntp, self.address_up = True, self.booted + 1, False, False
        boot = self.booted
        self.skew = self.world.plan.clock(self.name, boot, t, self.card.tick)
        self.card.engine.host = self
        world = self.world
        world.at(t + self.docker_delay, self._docker, boot)
        world.at(t + world.random.uniform(0.5, 3.0), self._service, boot)
        if self.ntp_at is not None:
            world.at(max(t + 4.0, self.ntp_at), self.synchronise, boot)

    def power_off(self, t: float) -> None:
        """Pull the plug."""
        if not self.on or self.card is None:
            return
        self.on = False
        self.world.fabric.stop(self.card.engine)
        if self.shell:
            self.shell.dead = True
            self.shell = None

    def insert(self, card: Card) -> None:
        """Put another card in; it is off then."""
        if self.card and self.card.engine in self.world.fabric.engines:
            self.world.fabric.engines.remove(self.card.engine)
        self.card = card
        card.engine.host = self
        self.world.fabric.engines.append(card.engine)

    def synchronise(self, t: float, boot: int) -> None:
        """NTP answered: the clock steps to the true time."""
        if self.on and self.booted == boot:
            self.set_clock(self.world.origin + t, t)
            self.ntp = True
            if self.shell:
                self.shell.wake(t)

    def set_clock(self, to: float, t: float) -> None:
        before = self.skew
        self.skew = to - self.world.origin - t
        if self.shell and abs(self.skew - before) > shells.STEP:
            self.shell.stepped = self.shell.now(t)
        if self.card:
            self.card.engine.skew = self.skew
        self.world.fabric.dirty = True

    def restart_docker(self, t: float) -> float:
        assert self.card is not None
        self.world.fabric.stop(self.card.engine)
        seconds = self.docker_delay + 1.0
        self.world.at(t + seconds, self._docker, self.booted)
        return seconds + 0.1

    def _docker(self, t: float, boot: int) -> None:
        """What `early` does, and then dockerd's start."""
        if not self.on or self.booted != boot or self.card is None:
            return
        engine = self.card.engine
        if engine.torn:
            engine.torn, engine.spoilt, engine.papers = False, False, None
            self.world.happened.add("S9: torn state file repaired")
        certified = engine.papers.begins if engine.papers else 0.0
        floor = max(float(self.card.config.flashed_at), self.card.tick, certified)
        wall = self.world.origin + t + self.skew
        if wall < floor:
            self.set_clock(floor, t)
        engine.skew = self.skew
        self.world.judge.docker_starts(self, floor, t)
        self.world.fabric.start(engine, t)
        if self.shell:
            self.shell.wake(t)

    def _service(self, t: float, boot: int) -> None:
        if self.on and self.booted == boot and self.card is not None:
            self.shell = Shell(self.world, self, self.card, t)


class World:
    """All of it. `random` is the seed's; everything uncertain asks it."""

    def __init__(self, plan: Plan, *, core: Core = REAL, trace: Trace | None = None) -> None:
        self.plan = plan
        self.core = core
        self.trace = trace
        self.random = random.Random(plan.seed + 1)
        self.t = 0.0
        self.origin = plan.origin
        self.turns = 0
        self.apply = effects.APPLY
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.fabric = Fabric(self._linked, origin=plan.origin)
        self.judge = Judge(self)
        self.fabric.on_leader = self.judge.leader
        self.operator = Operator(plan.spec)
        self.happened = self.fabric.happened
        self.boxes: dict[str, Box] = {}
        for name in plan.names:
            self.boxes[name] = Box(self, name)
        self.faults = Faults(self)

    @property
    def plan_charter(self) -> str:
        """The charter that every node can read in the first hello of a manager."""
        card = self.boxes[self.plan.names[0]].card
        return card.charter if card else ""

    # --- time -------------------------------------------------------------------------------------

    def at(self, t: float, do: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (t, self._number, do, args))

    def number(self) -> int:
        self._number += 1
        return self._number

    def run(self, until: float) -> None:
        """Let everything happen up to a time."""
        events, timers = self._events, self.fabric.timers
        while events and events[0][0] <= until:
            self.t, _, do, args = heapq.heappop(events)
            if timers and timers[0][0] <= self.t:
                self.fabric.advance(self.t)
            do(self.t, *args)
        self.t = until

    def now(self, t: float) -> int:
        """Give the true time, UTC seconds."""
        return int(self.origin + t)

    # --- the network ------------------------------------------------------------------------------

    def reach(self, one: Box, other: Box) -> bool:
        return one.on and other.on and one.side == other.side

    def find(self, caller: Shell, name: str) -> Box | None:
        """Give who answers at a node's address; with two of them it is now this one, now that."""
        if not caller.box.address_up:
            return None
        found = [
            box
            for box in self.boxes.values()
            if box.card is not None
            and box.card.name == name
            and box.address_up
            and self.reach(box, caller.box)
        ]
        if len(found) > 1:
            return self.random.choice(found)
        return found[0] if found else None

    def engine_at(self, caller: Shell, address: str) -> Engine | None:
        for peer in caller.config.roster:
            if peer.address == address:
                box = self.find(caller, peer.name)
                return box.card.engine if box and box.card else None
        return None

    def delay(self) -> float:
        return self.random.uniform(*self.plan.delay)

    def loses(self) -> bool:
        loss = self.faults.loss
        lost = loss > 0 and self.random.random() < loss
        if lost:
            self.happened.add("packets lost")
        return lost

    def _linked(self, one: Engine, other: Engine) -> bool:
        here, there = one.host, other.host
        return (
            here.on
            and there.on
            and here.side == there.side
            and here.address_up
            and there.address_up
            and here.card.engine is one
            and there.card.engine is other
        )

    # --- power cuts -------------------------------------------------------------------------------

    def strike(self, shell: Shell, action: Action, t: float) -> bool:
        """Cut the power before, in or after an action, if the faults want it. True: nothing of
        the action may be done any more."""
        cut = self.faults.strike(shell, action)
        if cut is None:
            return False
        stage, away = cut
        self.happened.update(
            (f"power cut {stage} an action", f"power cut at {type(action).__name__}")
        )
        box = shell.box
        if stage == "before":
            self.faults.cut(box, t, away)
            return True
        if isinstance(action, Remember) and stage == "in":
            self.faults.cut(box, t, away)  # the file is the old one
            return True
        seconds = {Init: INIT, Join: 0.35, Leave: 0.3}.get(type(action), 0.05)
        share = self.random.random() if stage == "in" else 0.99
        self.at(t + seconds * share, self._cut, shell, away, stage == "in", action)
        return False

    def _cut(self, t: float, shell: Shell, away: float, tears: bool, action: Action) -> None:
        if shell.dead:
            return
        engine = shell.card.engine
        if tears and isinstance(action, (Init, Join)) and self.random.random() < 0.3:
            engine.torn = True  # S9; repaired before the next start
        if tears and isinstance(action, Init) and not engine.torn and self.random.random() < 0.3:
            self.fabric.advance(t)
            engine.papers = None  # nothing of it had reached the card
        elif tears and isinstance(action, Init) and self.random.random() < 0.3:
            self.fabric.cut_off(engine)
        self.faults.cut(shell.box, t, away)

    def found(self, shell: Shell, action: Init, t: float) -> float:
        store = self.fabric.init(
            shell.card.engine, t, epoch=action.epoch, charter=shell.card.charter
        )
        self.judge.founded(shell, action, store)
        return INIT
