"""Makes what a plan has for a world happen in it.

Faults stop at `Plan.heal`: from then on every current card is in a Pi with power, the network is
whole, and everybody has to get ready. Old cards and copies are out of their Pis by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from firstboot import memory
from firstboot.model import Action, Join
from tests.sim import cards, plans
from tests.sim.cards import Card
from tests.sim.plans import SPARE, Fault

if TYPE_CHECKING:
    from firstboot.model import Ask, Hello
    from tests.sim.shell import Shell
    from tests.sim.world import Box, World

# How much likelier a power cut is at actions that are done seldom, or less likely.
WEIGHTS = {
    "RaiseAddress": 0.1,
    "Remember": 0.5,
    "StepClock": 3.0,
    "FallToFloor": 8.0,
    "RestartDocker": 50.0,
    "Init": 3.0,
    "RotateCa": 3.0,
    "Join": 6.0,
    "Leave": 20.0,
    "Promote": 6.0,
    "Demote": 30.0,
    "Remove": 20.0,
    "Supersede": 30.0,
    "RotateToken": 2.0,
}


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
        self.world.happened |= plans.kinds(self.plan)
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
        if plan.forged:
            self._forge_permit(plan.spec.managers[0].name)
        for fault in plan.faults:
            world.at(fault.at, self._happens, fault)
        world.at(plan.heal, self._heal)

    def _forge_permit(self, seed: str) -> None:
        card = self.world.boxes[seed].card
        if card:
            config = card.config
            card.permit = cards.forged(
                self.plan.forged, config.name, config.generation, config.epoch
            )

    def _did(self, kind: str) -> None:
        self.world.happened.add(kind)

    # --- the power --------------------------------------------------------------------------------

    def strike(self, shell: Shell, action: Action) -> tuple[str, float] | None:
        """Say whether the power goes at this action: at which stage, and for how long."""
        if self.healed or self.left <= 0 or self.plan.cut_chance <= 0:
            return None
        dice = self.world.random
        chance = min(0.6, self.plan.cut_chance * WEIGHTS.get(type(action).__name__, 1.0))
        if dice.random() >= chance:
            return None
        self.left -= 1
        if isinstance(action, Join) and dice.random() < 0.3:
            self._fail_whom(action)
            return None
        return dice.choice(("before", "in", "after")), dice.choice((0.5, 5.0, 20.0, 70.0))

    def _fail_whom(self, join: Join) -> None:
        """Not the joiner fails, but who gave it the token: its power, or its dockerd."""
        world = self.world
        for box in world.boxes.values():
            if box.on and box.card and box.card.config.address == join.grant.address:
                if world.random.random() < 0.5:
                    self._did("power cut of who gave a token")
                    self.cut(box, world.t, world.random.choice((5.0, 30.0)))
                elif box.card.engine.running:
                    self._did("dockerd restarted of who gave a token")
                    box.restart_docker(world.t)
                return

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
            "house": self._house,
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
            "rot": self._rot,
            "spoil": self._spoil,
        }
        kinds[fault.kind](t, fault)

    def _cut(self, t: float, fault: Fault) -> None:
        if self.world.boxes[fault.node].on:
            self._did("power cut at some time")
        self.cut(self.world.boxes[fault.node], t, fault.seconds)

    def _house(self, t: float, fault: Fault) -> None:
        """No power in the whole house, and then one after the other, `seconds` in all."""
        boxes = [box for box in self.world.boxes.values() if box.name != SPARE]
        self._did("no power in the house")
        for number, box in enumerate(boxes):
            self.cut(box, t, 1.0 + fault.seconds * number / len(boxes))

    def _divide(self, t: float, fault: Fault) -> None:
        for box in self.world.boxes.values():
            box.side = self.world.random.choice((0, 1))
        if len({box.side for box in self.world.boxes.values() if box.on}) > 1:
            self._did("network divided")
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
            self._did("dockerd restarted")

    def _reflash(self, t: float, fault: Fault) -> None:
        self.reflash(t, fault.node, rebuild=False)

    def reflash(self, t: float, node: str, *, rebuild: bool) -> None:
        """A new card for a node: the Pi goes off, gets it, and comes on again."""
        box = self.world.boxes[node]
        box.power_off(t)
        self._did("card replaced")
        if box.card:
            self.old.append(box.card)
        delivered = self.healed or self.world.random.random() > 0.1
        card = self.world.operator.flash(
            node, now=self.world.now(t), rebuild=rebuild, delivered=delivered
        )
        if not delivered:
            # The writer failed; the card stays unbootable, and another one is made.
            self._did("card replaced after a write that failed")
            card = self.world.operator.flash(node, now=self.world.now(t), rebuild=rebuild)
        box.insert(card)
        self.world.at(t + 5.0, self._on, box)

    def _wrong(self, t: float, fault: Fault) -> None:
        self._divide(t, fault)
        self._did("rebuild in a divided network")
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
        if any(self.world.fabric.quorate()):
            self._did("rebuild of a swarm that lives")
        self.reflash(t, self.plan.spec.managers[0].name, rebuild=True)

    def _forget(self, t: float, fault: Fault) -> None:
        """What dockerd kept of its swarm is damaged, and was put aside at the next start (S9)."""
        box = self.world.boxes[fault.node]
        if box.card and box.card.engine.papers:
            box.power_off(t)
            box.card.engine.torn = True
            self._did("state of dockerd damaged")
            self.world.at(t + fault.seconds, self._on, box)

    def _rot(self, t: float, fault: Fault) -> None:
        """The card has rotted where the node's memory was, the version before included."""
        box = self.world.boxes[fault.node]
        if box.on and box.card and box.card.memory.swarm_epoch:
            self._did("memory of a node lost")
            box.power_off(t)
            config = box.card.config
            seed = config.name == config.seed.name
            box.card.memory = memory.lost(epoch=config.epoch, seed=seed)
            self.world.at(t + fault.seconds, self._on, box)

    def _spoil(self, t: float, fault: Fault) -> None:
        """The power cut left dockerd's certificates empty (S9)."""
        box = self.world.boxes[fault.node]
        if box.card and box.card.engine.papers:
            box.power_off(t)
            box.card.engine.spoilt = True
            self._did("certificates of dockerd damaged")
            self.world.at(t + fault.seconds, self._on, box)

    def _old(self, t: float, fault: Fault) -> None:
        """A card that was replaced goes into another Pi."""
        spare = self.world.boxes[SPARE]
        if not spare.on and self.old:
            self._did("replaced card in another Pi")
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
        self._did("one card in two Pis")
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
        self._did("worker lies in its hello")
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
        self._did("worker claims another's node id")
        return replace(ask, node_id=self._some_id() or ask.node_id)

    def _some_id(self) -> str:
        ids = [id_ for store in self.world.fabric.stores.values() for id_ in store.nodes]
        return self.world.random.choice(ids) if ids else ""
