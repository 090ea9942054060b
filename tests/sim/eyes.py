"""What each of three nodes sees of a state, and what the real rules decide by it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from firstboot.model import (
    CHARTER_LABEL,
    EPOCH_LABEL,
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Ask,
    Clock,
    Contact,
    Decision,
    Engine,
    Entry,
    Grant,
    Memory,
    Notes,
    Observation,
    Swarm,
    Token,
)
from flasher.model import PermitKind, Ticket
from tests.sim import cards
from tests.sim.core import Core
from tests.sim.states import (
    NODES,
    NOW,
    TIME,
    Card,
    Scene,
    State,
    Store,
    Weather,
    holds,
    node_id,
)


class Eyes:
    """The nodes of a roster, deciding. What was decided once is not worked out again."""

    def __init__(self, managers: int, *, core: Core) -> None:
        self.core = core
        self.managers = managers
        self.spec = cards.spec(managers, NODES - managers)
        self.names = [node.name for node in self.spec.nodes]
        self._decided: dict[Any, Decision] = {}
        self._number: dict[Any, int] = {None: 0}
        self._views: list[Any] = [None]
        self._hellos: dict[Any, Any] = {}

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

    def leaders(self, state: State, weather: Weather) -> tuple[int, ...]:
        """Give for each swarm the node that leads it; -1 without a quorum."""
        found = []
        for number, store in enumerate(state.stores):
            members = [line for line in store.lines if line.member]
            alive = [line.owner for line in members if holds(state, number, line)]
            fit = [
                one
                for one in alive
                if 2 * sum(weather.joined(one, other) for other in alive) > len(members)
            ]
            found.append(min(fit) if fit else -1)
        return tuple(found)

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

    def _view(self, state: State, weather: Weather, leaders: tuple[int, ...], peer: int) -> Any:
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
            if line.member and holds(state, card.swarm, line) and weather.joined(line.owner, leader)
        ]
        ready = tuple(
            holds(state, card.swarm, line)
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
            seen = replace(seen, asks=(Ask(1, kind, claim, NOW, node_id(card.swarm, card.id)),))
        if granted >= 0:
            grant = Grant(Token("t"), "", f"swarm-{granted}", 0, NOW)
            seen = replace(seen, notes=replace(seen.notes, grant=grant))
        decision: Decision = self.core.decide(config, permit, seen, NOW)
        return decision

    def _hello(self, peer: int, view: Any, node: int) -> Any:
        key = (peer, view, node)
        if key not in self._hellos:
            seen = self._observation(peer, view)
            config, _ = self._config(peer, view[0])
            hello = self.core.hello(config, seen, Decision("READY", ""))
            you = self.core.bound(seen.swarm) if seen.swarm else {}
            self._hellos[key] = self.core.addressed(hello, you, self.names[node])
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
            node_id=node_id(card.swarm, card.id) if inside else "",
            manager=inside and known is not False,
            ca=f"ca-{card.swarm}" if inside else "",
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
                labels[f"{GENERATION_LABEL}.{self.names[node]}"] = str(generation)
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
                    id=node_id(card.swarm, line.id),
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
        return Swarm(f"swarm-{card.swarm}", labels, 1, False, 0.0, tuple(entries))
