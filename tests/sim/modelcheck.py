"""Every state of three nodes under the rules of permits, epochs and generations, breadth first.

The decisions are firstboot's own. What is left out: time (every patience is over at once, so a node
may do at any moment whatever it may ever do), clocks, certificates and tokens. Power and links may
be anything at any moment, so a state is what lies on cards and in swarms, and each one is looked at
under each of the 64 ways (18 that differ) in which three nodes can be on and linked.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from firstboot.model import (
    CHARTER_LABEL,
    EPOCH_LABEL,
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Answer,
    Ask,
    AskJoin,
    Bind,
    Clock,
    Contact,
    Decision,
    Demote,
    Engine,
    Entry,
    Grant,
    Init,
    Join,
    Leave,
    Memory,
    Notes,
    Observation,
    Promote,
    Remember,
    Remove,
    ReportJoined,
    Supersede,
    Swarm,
    Token,
)
from flasher.model import PermitKind, Ticket
from flasher.permits import Flash, next_ticket
from tests.sim import cards
from tests.sim.core import REAL, Core

NOW = 10_000.0  # every patience is over
TIME = 1_790_000_000
NODES = 3
# Reasons that ask for a person; in every other state the nodes go on by themselves.
ASKS_FOR_A_PERSON = ("managers-silent", "no-quorum", "swarm-lost")


class Card(NamedTuple):
    """What lies on a node's card. `swarm` and `id` are -1 outside of a swarm.

    `seen`: the generations of managers that it keeps; what it keeps of workers is left out.
    """

    generation: int
    kind: str  # of its permit; empty without one
    epoch: int  # of its node.json
    memory: tuple[int, int, int, int] = (0, 0, 0, 0)
    seen: tuple[int, ...] = (0,) * NODES
    swarm: int = -1
    id: int = -1
    stranger: bool = False  # its leader said that it does not know it


class Line(NamedTuple):
    """A line of a swarm's list. `generation`: 0 while nobody has vouched for it."""

    id: int
    owner: int
    generation: int
    manager: bool
    member: bool


class Store(NamedTuple):
    epoch: int
    lines: tuple[Line, ...]
    void: tuple[int, ...]  # cards of a node below this generation


class State(NamedTuple):
    """`flashes`: how many more cards are made; `delivered`: the highest epoch of a permit."""

    cards: tuple[Card, ...]
    stores: tuple[Store, ...]
    flashes: int
    delivered: int


class Weather(NamedTuple):
    """Which nodes are on, and which of them are linked."""

    on: tuple[bool, ...]
    near: tuple[tuple[bool, ...], ...]

    def joined(self, one: int, other: int) -> bool:
        return self.near[one][other]


class Scene(NamedTuple):
    """A state under a weather: who leads each swarm, -1 for nobody, and what each node knows."""

    state: State
    weather: Weather
    leaders: tuple[int, ...]
    views: tuple[int, ...]


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


def weathers() -> list[Weather]:
    """Give every way in which nodes can be on and linked; of those that differ in nothing, one."""
    found = set()
    for on in itertools.product((False, True), repeat=NODES):
        for up in itertools.product((False, True), repeat=NODES):
            # Link n joins the two others.
            near = tuple(
                tuple(on[a] and on[b] and (a == b or up[NODES - a - b]) for b in range(NODES))
                for a in range(NODES)
            )
            found.add(Weather(on, near))
    return sorted(found)


WEATHERS = weathers()
FINE = WEATHERS[-1]


class Model:
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
        self.core = core
        self.honest = honest
        self.managers = managers
        self.flashes = flashes
        self.flashed = flashed
        self.spec = cards.spec(managers, NODES - managers)
        self.names = [node.name for node in self.spec.nodes]
        self._decided: dict[Any, Decision] = {}
        self._number: dict[Any, int] = {None: 0}
        self._views: list[Any] = [None]
        self._hellos: dict[Any, Any] = {}

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
        return _tidy(
            State(
                _put(state.cards, node, card),
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
            left = [line for line in members if line.owner and _holds(state, number, line)]
            if 2 * len(left) > len(members):
                return False
        return True

    # --- what follows from a state ------------------------------------------------------------------

    def next(self, state: State) -> Iterator[tuple[str, State]]:
        """Give every state that can come next; ("...", state) with what happened."""
        if state.flashes > 0:
            for node in self.flashed:
                yield "flash %s" % self.names[node], self.flash(state, node, rebuild=False)
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
                    yield "%s: %s" % (self.names[node], what), after
            yield from self._raft(scene)

    def scene(self, state: State, weather: Weather) -> Scene:
        leaders = self.leaders(state, weather)
        views = []
        for node in range(NODES):
            view = self._view(state, weather, leaders, node)
            number = self._number.get(view, -1)
            if number < 0:
                number = self._number[view] = len(self._views)
                self._views.append(view)
            views.append(number)
        return Scene(state, weather, leaders, tuple(views))

    def _raft(self, scene: Scene) -> Iterator[tuple[str, State]]:
        """Who was promoted comes into the raft some time later, if it is up."""
        state, weather, leaders, _ = scene
        for number, store in enumerate(state.stores):
            if leaders[number] < 0:
                continue
            for line in store.lines:
                if line.manager and not line.member and _holds(state, number, line):
                    if weather.joined(line.owner, leaders[number]):
                        after = _change(state, number, line._replace(member=True))
                        yield "%s is in the raft" % self.names[line.owner], after

    def leaders(self, state: State, weather: Weather) -> tuple[int, ...]:
        """Give for each swarm the node that leads it; -1 without a quorum."""
        found = []
        for number, store in enumerate(state.stores):
            members = [line for line in store.lines if line.member]
            alive = [line.owner for line in members if _holds(state, number, line)]
            fit = [
                one
                for one in alive
                if 2 * sum(weather.joined(one, other) for other in alive) > len(members)
            ]
            found.append(min(fit) if fit else -1)
        return tuple(found)

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
            live = [one for one in store.lines if one.generation and _holds(state, number, one)]
            if len({one.owner for one in live}) < len(live):
                return "I5: two live nodes of one name"
        return ""

    # --- one turn of a node -------------------------------------------------------------------------

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
            return "Remember", state._replace(cards=_put(state.cards, node, mine))
        elif isinstance(action, Init):
            line = Line(0, node, 0, True, True)
            store = Store(action.epoch, (line,), (0,) * NODES)
            mine = card._replace(swarm=len(state.stores), id=0)
            after = state._replace(
                cards=_put(state.cards, node, mine), stores=(*state.stores, store)
            )
        elif isinstance(action, Leave):
            mine = card._replace(swarm=-1, id=-1, stranger=False)
            after = state._replace(cards=_put(state.cards, node, mine))
        else:
            after = self._command(state, card.swarm, action)
        return type(action).__name__, _tidy(after)

    def _ask(
        self, scene: Scene, node: int, action: AskJoin | ReportJoined
    ) -> tuple[str, State]:
        """An ask, and what the leader does about it at once."""
        state = scene.state
        there = self.names.index(action.leader)
        kind = "joined" if isinstance(action, ReportJoined) else "join"
        made = self.decide(scene, there, asker=node, kind=kind).action
        card = state.cards[node]
        if not isinstance(made, Answer):
            if made is None or isinstance(made, Remember):
                return "asks in vain", state
            return type(made).__name__, _tidy(self._command(state, state.cards[there].swarm, made))
        if made.status == "unknown":
            mine = card._replace(stranger=True)
            return "unknown", state._replace(cards=_put(state.cards, node, mine))
        if made.status != "granted":
            return made.status, state
        number = state.cards[there].swarm
        join = self.decide(scene, node, granted=number).action
        if not isinstance(join, Join):
            return "granted", state
        store = state.stores[number]
        id_ = 1 + max(line.id for line in store.lines)
        line = Line(id_, node, 0, False, False)
        stores = _put(state.stores, number, store._replace(lines=(*store.lines, line)))
        mine = card._replace(swarm=number, id=id_, stranger=False)
        return "joins", _tidy(state._replace(cards=_put(state.cards, node, mine), stores=stores))

    def _command(self, state: State, number: int, action: Any) -> State:
        store = state.stores[number]
        if isinstance(action, Supersede):
            void = _put(store.void, self.names.index(action.name), action.generation)
            return state._replace(stores=_put(state.stores, number, store._replace(void=void)))
        lines = {_id(number, line.id): line for line in store.lines}
        line = lines[action.node_id]
        if isinstance(action, Remove):
            rest = tuple(one for one in store.lines if one is not line)
            return state._replace(stores=_put(state.stores, number, store._replace(lines=rest)))
        if isinstance(action, Bind):
            return _change(state, number, line._replace(generation=action.generation))
        if isinstance(action, Promote):
            return _change(state, number, line._replace(manager=True))
        if isinstance(action, Demote):
            return _change(state, number, line._replace(manager=False, member=False))
        raise AssertionError(action)

    # --- what a node sees ---------------------------------------------------------------------------

    def decide(
        self, scene: Scene, node: int, *, asker: int = -1, kind: str = "", granted: int = -1
    ) -> Decision:
        state, weather, _, views = scene
        near = tuple([views[peer] if one else 0 for peer, one in enumerate(weather.near[node])])
        ask = (asker, kind, state.cards[asker]) if kind else None
        key = (node, near, ask, granted)
        found = self._decided.get(key)
        if found is None:
            found = self._decide(node, tuple(self._views[view] for view in near), ask, granted)
            self._decided[key] = found
        return found

    def _view(
        self, state: State, weather: Weather, leaders: tuple[int, ...], peer: int
    ) -> Any:
        """What a node knows itself: its card; its swarm, False if it is no manager of one."""
        if not weather.on[peer]:
            return None
        card = state.cards[peer]
        if card.swarm < 0:
            return card, None
        store = state.stores[card.swarm]
        mine = [line for line in store.lines if line.id == card.id]
        if not mine or not mine[0].member:
            return card, False
        leader = leaders[card.swarm]
        if leader < 0 or not weather.joined(peer, leader):
            return card, None
        managers = [
            line.owner
            for line in store.lines
            if line.member
            and _holds(state, card.swarm, line)
            and weather.joined(line.owner, leader)
        ]
        ready = tuple(
            _holds(state, card.swarm, line)
            and any(weather.joined(line.owner, manager) for manager in managers)
            for line in store.lines
        )
        return card, (store, leader, ready)

    def _decide(self, node: int, views: tuple[Any, ...], ask: Any, granted: int) -> Decision:
        config, permit = self._config(node, views[node][0])
        seen = self._observation(node, views[node])
        peers = {}
        for peer, view in enumerate(views):
            if peer == node:
                continue
            if view is None:
                peers[self.names[peer]] = Contact(None, 0.0, 0.0)
            else:
                peers[self.names[peer]] = Contact(self._hello(peer, view, node), NOW)
        seen = replace(seen, peers=peers)
        if ask:
            asker, kind, card = ask
            claim = self._claim(asker, card)
            seen = replace(seen, asks=(Ask(1, kind, claim, NOW, _id(card.swarm, card.id)),))
        if granted >= 0:
            grant = Grant(Token("t"), "", "swarm-%d" % granted, 0, NOW)
            seen = replace(seen, notes=replace(seen.notes, grant=grant))
        decision: Decision = self.core.decide(config, permit, seen, NOW)
        return decision

    def _hello(self, peer: int, view: Any, node: int) -> Any:
        key = (peer, view, node)
        if key not in self._hellos:
            seen = self._observation(peer, view)
            config, _ = self._config(peer, view[0])
            hello = self.core.hello(config, seen, Decision("READY", ""))
            you = self.core.bound(seen.swarm).get(self.names[node], "") if seen.swarm else ""
            self._hellos[key] = replace(hello, you=you)
        return self._hellos[key]

    def _claim(self, node: int, card: Card) -> Any:
        config, _ = self._config(node, card)
        return cards.Card(config, permit="", charter="").claim

    def _config(self, node: int, card: Card) -> tuple[Any, str]:
        return self._written(node, card.generation, card.kind, card.epoch)

    @cache  # noqa: B019 - a model lives as long as its search
    def _written(self, node: int, generation: int, kind: str, epoch: int) -> tuple[Any, str]:
        permit = PermitKind(kind) if kind else None
        made = cards.card(self.spec, Ticket(self.names[node], generation, epoch, permit, TIME))
        return made.config, made.permit

    def _observation(self, node: int, view: Any) -> Observation:
        card, known = view
        epoch, founding, founded, swarm_epoch = card.memory
        inside = card.swarm >= 0
        engine = Engine(
            "active" if inside else "inactive",
            since=0.0,
            node_id=_id(card.swarm, card.id) if inside else "",
            manager=inside and known is not False,
            ca="ca-%d" % card.swarm if inside else "",
        )
        swarm = None
        if isinstance(known, tuple):
            swarm = self._swarm(card, *known)
        return Observation(
            clock=Clock(float(TIME), "ntp", float(TIME)),
            begun=0.0,
            address_up=True,
            engine=engine,
            engine_since=0.0,
            swarm=swarm,
            peers={},
            memory=Memory(
                epoch,
                founding,
                founded,
                swarm_epoch,
                {name: seen for name, seen in zip(self.names, card.seen, strict=True) if seen},
            ),
            notes=Notes(token_is_out=False, strangers=3 if card.stranger else 0),
        )

    def _swarm(self, card: Card, store: Store, leader: int, ready: tuple[bool, ...]) -> Swarm:
        labels = {EPOCH_LABEL: str(store.epoch), CHARTER_LABEL: ""}
        for node, generation in enumerate(store.void):
            if generation:
                labels["%s.%s" % (GENERATION_LABEL, self.names[node])] = str(generation)
        entries = []
        for line, up in zip(store.lines, ready, strict=True):
            spec = self.spec.nodes[line.owner]
            bound = {
                NAME_LABEL: spec.name,
                GENERATION_LABEL: str(line.generation),
                ROLE_LABEL: spec.role.value,
            }
            entries.append(
                Entry(
                    id=_id(card.swarm, line.id),
                    name=spec.name,
                    address=spec.cluster_address,
                    role="manager" if line.manager else "worker",
                    ready=up,
                    leader=line.member and up and line.owner == leader,
                    reachable=line.member and up,
                    labels=bound if line.generation else {},
                    down_for=0.0 if up else NOW,
                )
            )
        return Swarm("swarm-%d" % card.swarm, labels, 1, False, 0.0, tuple(entries))

    # --- the search -----------------------------------------------------------------------------------

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
                    return Found(len(depth), 0, "%s, by: %s" % (wrong, what), depth[after])
                if len(depth) >= most:
                    raise RuntimeError("more than %d states" % most)
                queue.append(after)
        return self._heals(depth)

    def _heals(self, depth: dict[State, int]) -> Found:
        """From every state, with everything on and linked, all come together or ask for a person."""
        known: dict[State, str] = {}
        stuck = 0
        for state in depth:
            end = self._end(state, known)
            if end == "asks":
                stuck += 1
            elif end != "together":
                return Found(len(depth), len(depth), "L1: %s" % end, depth[state])
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
        return "%s; reasons: %s" % (state, reasons)

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


# --- tuples ---------------------------------------------------------------------------------------


def _id(swarm: int, line: int) -> str:
    """Swarms never give the same id to two nodes."""
    return "s%dn%d" % (swarm, line)


def _put(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place + 1 :])


def _holds(state: State, number: int, line: Line) -> bool:
    """The line's node is the one that has its card now."""
    card = state.cards[line.owner]
    return card.swarm == number and card.id == line.id


def _change(state: State, number: int, line: Line) -> State:
    store = state.stores[number]
    lines = tuple(line if one.id == line.id else one for one in store.lines)
    return state._replace(stores=_put(state.stores, number, store._replace(lines=lines)))


def _tidy(state: State) -> State:
    """Forget swarms that nobody is in; number and order what is left in one way only."""
    used = sorted({card.swarm for card in state.cards if card.swarm >= 0})
    stores = []
    moved: dict[tuple[int, int], tuple[int, int]] = {}
    for new, old in enumerate(used):
        store = state.stores[old]
        order = sorted(
            store.lines,
            key=lambda line: (line[1:], not _holds(state, old, line), line.id),
        )
        for id_, line in enumerate(order):
            moved[(old, line.id)] = (new, id_)
        lines = tuple(line._replace(id=id_) for id_, line in enumerate(order))
        stores.append(store._replace(lines=lines))
    fresh = []
    for card in state.cards:
        if card.swarm < 0:
            fresh.append(card)
            continue
        # An entry that was removed has no number; whoever holds it is an orphan.
        number, id_ = moved.get((card.swarm, card.id), (used.index(card.swarm), 90))
        fresh.append(card._replace(swarm=number, id=id_))
    return State(tuple(fresh), tuple(stores), state.flashes, state.delivered)
