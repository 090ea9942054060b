"""Every state of three nodes under the rules of permits, epochs and generations, breadth first.

The decisions are firstboot's own. What is left out: time (every patience is over at once, so a node
may do at any moment whatever it may ever do), clocks, certificates and tokens. Power and links may
be anything at any moment, so a state is what lies on cards and in swarms, and each one is looked at
under each of the 64 ways (18 that differ) in which three nodes can be on and linked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from firstboot.model import (
    Answer,
    AskJoin,
    Bind,
    Demote,
    Init,
    Join,
    Leave,
    Promote,
    Remember,
    Remove,
    ReportJoined,
    Supersede,
)
from flasher.model import PermitKind, Ticket
from flasher.permits import Flash, next_ticket
from tests.sim.core import REAL, Core
from tests.sim.eyes import Eyes
from tests.sim.states import (
    FINE,
    NODES,
    TIME,
    WEATHERS,
    Card,
    Line,
    Scene,
    State,
    Store,
    change,
    holds,
    node_id,
    put,
    tidy,
)

# Reasons that ask for a person; in every other state the nodes go on by themselves.
ASKS_FOR_A_PERSON = ("managers-silent", "no-quorum", "swarm-lost")


@dataclass(frozen=True)
class Found:
    """What the search found. `steps`: the shortest way to the violation, if there is one."""

    states: int
    healed: int
    violation: str = ""
    steps: int = 0
    stuck: int = 0

    @property
    def whole(self) -> int:
        """The states with power and links counted in."""
        return self.states * 64


class Model(Eyes):
    """The rules, for one roster.

    `flashes`: how many cards may be replaced, and `flashed`: of which nodes. `honest`: nobody
    rebuilds while the old quorum may come back.
    """

    def __init__(
        self,
        managers: int,
        *,
        core: Core = REAL,
        honest: bool = True,
        flashes: int = 2,
        flashed: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        super().__init__(managers, core=core)
        self.honest = honest
        self.flashes = flashes
        self.flashed = flashed

    # --- the beginning, and the operator ----------------------------------------------------------

    def begin(self) -> State:
        state = State((), (), self.flashes + NODES, 0)
        blank = Card(0, "", 1)
        state = state._replace(cards=(blank,) * NODES)
        for node in range(NODES):
            state = self.flash(state, node, rebuild=False)
        return state

    def flash(self, state: State, node: int, *, rebuild: bool) -> State:
        """A new card, by the real rules, in the place of the old one."""
        ticket = self._ticket(node, state.cards[node].generation, state.delivered, rebuild)
        card = Card(
            ticket.generation,
            ticket.permit.value if ticket.permit else "",
            ticket.epoch,
        )
        delivered = max(state.delivered, ticket.epoch if ticket.permit else 0)
        return tidy(
            State(
                put(state.cards, node, card),
                state.stores,
                state.flashes - 1,
                delivered,
            )
        )

    @cache  # noqa: B019 - a model lives as long as its search
    def _ticket(self, node: int, generation: int, delivered: int, rebuild: bool) -> Ticket:
        history = []
        if delivered:
            seed = Ticket(self.names[0], 1, delivered, PermitKind.REBUILD, TIME)
            history.append(Flash(seed, delivered=True))
        if generation:
            history.append(Flash(Ticket(self.names[node], generation, 1, None, TIME), True))
        made = next_ticket(
            history, spec=self.spec, node=self.names[node], rebuild=rebuild, now=TIME
        )
        return replace(made, generation=generation + 1)

    def may_rebuild(self, state: State) -> bool:
        """The old quorum cannot come back without the seed's card, which is to be replaced."""
        if not self.honest:
            return True
        for number, store in enumerate(state.stores):
            members = [line for line in store.lines if line.member]
            left = [line for line in members if line.owner and holds(state, number, line)]
            if 2 * len(left) > len(members):
                return False
        return True

    # --- what follows from a state ----------------------------------------------------------------

    def next(self, state: State) -> Iterator[tuple[str, State]]:
        """Give every state that can come next; ("...", state) with what happened."""
        if state.flashes > 0:
            for node in self.flashed:
                yield f"flash {self.names[node]}", self.flash(state, node, rebuild=False)
            if self.managers > 1 and self.may_rebuild(state):
                yield "rebuild", self.flash(state, 0, rebuild=True)
        seen = {state}
        done: set[tuple[int, int]] = set()
        for weather in WEATHERS:
            scene = self.scene(state, weather)
            for node in range(NODES):
                if not weather.on[node]:
                    continue
                decision = self.decide(scene, node)
                asks = isinstance(decision.action, (AskJoin, ReportJoined))
                if decision.action is None or (node, id(decision)) in done:
                    continue
                if not asks:
                    done.add((node, id(decision)))
                what, after = self.step(scene, node)
                if after not in seen:
                    seen.add(after)
                    yield f"{self.names[node]}: {what}", after
            yield from self._raft(scene)

    def _raft(self, scene: Scene) -> Iterator[tuple[str, State]]:
        """Who was promoted comes into the raft some time later, if it is up."""
        state, weather, leaders, _ = scene
        for number, store in enumerate(state.stores):
            if leaders[number] < 0:
                continue
            for line in store.lines:
                comes = line.manager and not line.member and holds(state, number, line)
                if comes and weather.joined(line.owner, leaders[number]):
                    after = change(state, number, line._replace(member=True))
                    yield f"{self.names[line.owner]} is in the raft", after

    def wrong(self, state: State) -> str:
        """Give what is violated in a state, under any weather; empty if nothing is."""
        if len(state.stores) > 1:
            for weather in WEATHERS:
                led = [n for n, leader in enumerate(self.leaders(state, weather)) if leader >= 0]
                epochs = [state.stores[number].epoch for number in led]
                if len(set(epochs)) < len(epochs):
                    return "I1: two swarms of one epoch"
                if self.honest and len(epochs) > 1:
                    return "I1: two swarms"
        for number, store in enumerate(state.stores):
            if sum(line.member for line in store.lines) > self.managers:
                # Then a majority of the roster is none of the raft (facts S6).
                return "I7: a manager joined before its old entry was removed"
            live = [one for one in store.lines if one.generation and holds(state, number, one)]
            if len({one.owner for one in live}) < len(live):
                return "I5: two live nodes of one name"
        return ""

    # --- one turn of a node -----------------------------------------------------------------------

    def step(self, scene: Scene, node: int) -> tuple[str, State]:
        state = scene.state
        decision = self.decide(scene, node)
        action = decision.action
        card = state.cards[node]
        if action is None:
            return decision.why, state
        if isinstance(action, (AskJoin, ReportJoined)):
            return self._ask(scene, node, action)
        after = state
        if isinstance(action, Remember):
            kept = action.memory
            memory = (kept.epoch, kept.founding, kept.founded, kept.swarm_epoch)
            told = tuple(
                kept.seen.get(name, 0) if number < self.managers else 0
                for number, name in enumerate(self.names)
            )
            # Nothing is older than the first generation.
            told = tuple(generation if generation > 1 else 0 for generation in told)
            mine = card._replace(memory=memory, seen=told)
            return "Remember", state._replace(cards=put(state.cards, node, mine))
        if isinstance(action, Init):
            line = Line(0, node, 0, True, True)
            store = Store(action.epoch, (line,), (0,) * NODES)
            mine = card._replace(swarm=len(state.stores), id=0)
            after = state._replace(
                cards=put(state.cards, node, mine), stores=(*state.stores, store)
            )
        elif isinstance(action, Leave):
            mine = card._replace(swarm=-1, id=-1, stranger=False)
            after = state._replace(cards=put(state.cards, node, mine))
        else:
            after = self._command(state, card.swarm, action)
        return type(action).__name__, tidy(after)

    def _ask(self, scene: Scene, node: int, action: AskJoin | ReportJoined) -> tuple[str, State]:
        """An ask, and what the leader does about it at once."""
        state = scene.state
        there = self.names.index(action.leader)
        kind = "joined" if isinstance(action, ReportJoined) else "join"
        made = self.decide(scene, there, asker=node, kind=kind).action
        card = state.cards[node]
        if not isinstance(made, Answer):
            if made is None or isinstance(made, Remember):
                return "asks in vain", state
            return type(made).__name__, tidy(self._command(state, state.cards[there].swarm, made))
        if made.status == "unknown":
            mine = card._replace(stranger=True)
            return "unknown", state._replace(cards=put(state.cards, node, mine))
        if made.status != "granted":
            return made.status, state
        number = state.cards[there].swarm
        join = self.decide(scene, node, granted=number).action
        if not isinstance(join, Join):
            return "granted", state
        store = state.stores[number]
        id_ = 1 + max(line.id for line in store.lines)
        line = Line(id_, node, 0, False, False)
        stores = put(state.stores, number, store._replace(lines=(*store.lines, line)))
        mine = card._replace(swarm=number, id=id_, stranger=False)
        return "joins", tidy(state._replace(cards=put(state.cards, node, mine), stores=stores))

    def _command(self, state: State, number: int, action: Any) -> State:
        store = state.stores[number]
        if isinstance(action, Supersede):
            void = put(store.void, self.names.index(action.name), action.generation)
            return state._replace(stores=put(state.stores, number, store._replace(void=void)))
        lines = {node_id(number, line.id): line for line in store.lines}
        line = lines[action.node_id]
        if isinstance(action, Remove):
            rest = tuple(one for one in store.lines if one is not line)
            return state._replace(stores=put(state.stores, number, store._replace(lines=rest)))
        if isinstance(action, Bind):
            return change(state, number, line._replace(generation=action.generation))
        if isinstance(action, Promote):
            return change(state, number, line._replace(manager=True))
        if isinstance(action, Demote):
            return change(state, number, line._replace(manager=False, member=False))
        raise AssertionError(action)

    # --- the search -------------------------------------------------------------------------------

    def search(self, *, most: int = 2_000_000) -> Found:
        """Look at every state; stop at the first violation, which is then a nearest one."""
        begin = self.begin()
        depth = {begin: 0}
        queue = deque([begin])
        while queue:
            state = queue.popleft()
            for what, after in self.next(state):
                if after in depth:
                    continue
                depth[after] = depth[state] + 1
                wrong = self.wrong(after)
                if wrong:
                    return Found(len(depth), 0, f"{wrong}, by: {what}", depth[after])
                if len(depth) >= most:
                    raise RuntimeError(f"more than {most} states")
                queue.append(after)
        return self._heals(depth)

    def _heals(self, depth: dict[State, int]) -> Found:
        """With everything on and linked, all come together or ask for a person, from any state."""
        known: dict[State, str] = {}
        stuck = 0
        for state in depth:
            end = self._end(state, known)
            if end == "asks":
                stuck += 1
            elif end != "together":
                return Found(len(depth), len(depth), f"L1: {end}", depth[state])
        return Found(len(depth), len(depth), stuck=stuck)

    def _end(self, state: State, known: dict[State, str]) -> str:
        path = []
        while state not in known:
            path.append(state)
            known[state] = "goes round in circles"
            after = self._round(state)
            if after == state:
                known[state] = self._judged(state)
                break
            state = after
        for one in path:
            known[one] = known[state]
        return known[state]

    def _round(self, state: State) -> State:
        """Everybody has a turn."""
        for node in range(NODES):
            _, state = self.step(self.scene(state, FINE), node)
            for _, after in self._raft(self.scene(state, FINE)):
                state = after
                break
        return state

    def _judged(self, state: State) -> str:
        scene = self.scene(state, FINE)
        reasons = [self.decide(scene, node).reason for node in range(NODES)]
        if self._together(state):
            return "together"
        if any(reason in ASKS_FOR_A_PERSON for reason in reasons):
            return "asks"
        return f"{state}; reasons: {reasons}"

    def _together(self, state: State) -> bool:
        if len(state.stores) != 1 or len(state.stores[0].lines) != NODES:
            return False
        for line in state.stores[0].lines:
            card = state.cards[line.owner]
            manager = line.owner < self.managers
            if (card.swarm, card.id, card.generation) != (0, line.id, line.generation):
                return False
            if (line.manager, line.member) != (manager, manager):
                return False
        return True
