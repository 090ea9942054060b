"""The states of three nodes, their power and their links, as tuples. Pure."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

NOW = 10_000.0  # every patience is over
TIME = 1_790_000_000
NODES = 3


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


def node_id(swarm: int, line: int) -> str:
    """Swarms never give the same id to two nodes."""
    return f"s{swarm}n{line}"


def put(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place + 1 :])


def holds(state: State, number: int, line: Line) -> bool:
    """The line's node is the one that has its card now."""
    card = state.cards[line.owner]
    return card.swarm == number and card.id == line.id


def change(state: State, number: int, line: Line) -> State:
    store = state.stores[number]
    lines = tuple(line if one.id == line.id else one for one in store.lines)
    return state._replace(stores=put(state.stores, number, store._replace(lines=lines)))


def tidy(state: State) -> State:
    """Forget swarms that nobody is in; number and order what is left in one way only."""
    used = sorted({card.swarm for card in state.cards if card.swarm >= 0})
    stores = []
    moved: dict[tuple[int, int], tuple[int, int]] = {}
    for new, old in enumerate(used):
        store = state.stores[old]
        order = sorted(
            store.lines,
            key=lambda line: (line[1:], not holds(state, old, line), line.id),
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
