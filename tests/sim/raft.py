"""Swarms as their quorum knows them: who is alive, who leads, who is listed, faked. Pure.

One store per swarm stands for its raft log. Times `t` are seconds since the simulation began; an
engine's own wall clock is `t + skew`. The S numbers are those of the project's measurements.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from firstboot.model import EPOCH_LABEL, Entry, Swarm

ROOT_BACK = 300.0  # S1: a root certificate is dated back by 5 minutes
NODE_BACK = 3600.0  # S1: a node's by an hour
SHORT = 90 * 86400.0  # S5: whatever was asked for, until the CA is made anew
LONG = 87600 * 3600.0
ROOT_LIVES = 20 * 365 * 86400.0
ROTATE = 3.3  # S5
PROMOTED = 1.3  # S6
LONG_LOOK = 60.0
DOWN = (10.0, 14.0)  # S6, S18: until a node that is gone is shown as down
ELECTION = 10.6  # S22
ELECTION_ALONE = 1.0
CALM = 30.0  # S14: a promotion sooner after a demotion gets stuck


@dataclass(frozen=True)
class Root:
    """A swarm's root CA."""

    digest: str
    begins: float
    ends: float


@dataclass
class Papers:
    """What dockerd keeps on disk of its swarm: who it is there, and its certificate."""

    swarm: str
    node_id: str
    role: str
    root: Root
    begins: float
    ends: float


class Engine:
    """One dockerd with its disk. `name` and `address` are its host's."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.skew = 0.0
        self.papers: Papers | None = None
        self.torn = False
        self.spoilt = False  # its certificates are files of no length
        self.running = False
        self.state = "inactive"
        self.error = ""
        self.stuck = False
        self.started = 0.0
        self.looking = False  # started as a member, and its agent has found no leader yet
        self.starts = 0
        self.joining = 0  # number of the join under way; 0 for none
        self.host: Any = None  # where it runs, and whose it is: of no meaning here
        self.owner: Any = None

    @property
    def manager(self) -> bool:
        return self.papers is not None and self.papers.role == "manager"

    @property
    def said(self) -> str:
        """The state as `docker info` has it: a member is "pending" until it has found a leader."""
        return "pending" if self.state == "active" and self.looking else self.state


@dataclass
class Node:
    """One line of a swarm's node list. `member`: of the raft."""

    id: str
    name: str
    address: str
    engine: Engine | None
    role: str = "worker"
    member: bool = False
    known: bool = False  # its agent has described itself: it has a host name
    labels: dict[str, str] = field(default_factory=dict)
    via: str = ""  # the manager that its agent talks to
    lost: float = 0.0  # since when it does not, as a leader can know it
    away: float = 0.0  # since when it really does not
    grace: float = DOWN[0]
    demoted: float = -1e9
    promoting: float | None = None


class Store:
    """What a swarm knows, as its quorum has agreed."""

    def __init__(self, id_: str, root: Root, labels: dict[str, str]) -> None:
        self.id = id_
        self.root = root
        self.labels = labels
        self.rotations = 0
        self.next_root: Root | None = None
        self.spread_at = 0.0
        self.rotated: set[str] = set()
        self.token = 1
        self.nodes: dict[str, Node] = {}
        self.leader = ""
        self.elect_at = 0.0
        self.version = 0
        self.view: Swarm | None = None
        self.view_until = 0.0
        self.lets_in = 0  # how many nodes ever got in
        self.bereft = False  # it has lost a leader

    @property
    def epoch(self) -> int:
        return int(self.labels.get(EPOCH_LABEL, "0"))

    def members(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.member]


Linked = Callable[[Engine, Engine], bool]


class Raft:
    """Every engine's and every swarm's state. `linked` says whether two hosts reach each other."""

    def __init__(self, linked: Linked, *, origin: float) -> None:
        self.linked = linked
        self.origin = origin
        self.engines: list[Engine] = []
        self.stores: dict[str, Store] = {}
        self.sessions: set[tuple[int, int]] = set()
        self.dirty = True
        self.on_leader: Callable[[Store], None] = lambda _store: None
        self.timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count(1)
        self._elected: list[Store] = []
        self.happened: set[str] = set()  # what is counted, see tally.py

    # --- time -------------------------------------------------------------------------------------

    def wall(self, engine: Engine, t: float) -> float:
        return self.origin + t + engine.skew

    def after(self, t: float, do: Callable[[float], None]) -> None:
        heapq.heappush(self.timers, (t, next(self._numbers), do))

    def advance(self, t: float) -> None:
        """Let happen what is due."""
        while self.timers and self.timers[0][0] <= t:
            at, _, do = heapq.heappop(self.timers)
            if self.dirty:
                self._settle(at)
            do(at)
            self.dirty = True
        if self.dirty:
            self._settle(t)

    def _changed(self, store: Store) -> None:
        store.version += 1
        store.view = None

    def _expired(self, engine: Engine, papers: Papers, t: float) -> str:
        wall = self.wall(engine, t)
        begins, ends = max(papers.begins, papers.root.begins), min(papers.ends, papers.root.ends)
        # dockerd does not say which of the two.
        return "" if begins <= wall <= ends else "x509: certificate has expired or is not yet valid"

    # --- who talks to whom ------------------------------------------------------------------------

    def _alive(self, node: Node) -> bool:
        engine = node.engine
        return (
            engine is not None
            and engine.running
            and engine.state == "active"
            and not engine.stuck
            and engine.papers is not None
            and engine.papers.node_id == node.id
        )

    def _talk(self, one: Engine, other: Engine, t: float) -> bool:
        """They have a connection, or can make one: then each believes the other's certificate."""
        if one is other:
            return True
        if not self.linked(one, other):
            return False
        key = (id(one), id(other)) if id(one) < id(other) else (id(other), id(one))
        if key in self.sessions:
            return True
        if one.papers is None or other.papers is None:
            return False
        if self._expired(one, other.papers, t) or self._expired(other, one.papers, t):
            return False
        self.sessions.add(key)
        return True

    def _settle(self, t: float) -> None:
        for _ in range(4):
            self.dirty = False
            self._hang_up()
            for store in self.stores.values():
                self._elect(store, t)
                if store.leader:
                    self._roles(store, t)
                    self._agents(store, t)
                    self._spread(store, t)
            if not self.dirty:
                break
        elected, self._elected = self._elected, []
        for store in elected:
            self.on_leader(store)

    def _hang_up(self) -> None:
        """Forget the connections that broke."""
        if self.sessions:
            live = {id(one): one for one in self.engines if one.running}
            self.sessions = {
                (a, b)
                for a, b in self.sessions
                if a in live and b in live and self.linked(live[a], live[b])
            }

    def _elect(self, store: Store, t: float) -> None:
        members = store.members()
        majority = len(members) // 2 + 1
        alive = [node for node in members if self._alive(node)]
        if store.leader:
            leader = store.nodes[store.leader]
            if leader in alive and self._reaches(leader, alive, t) >= majority:
                return
            store.leader = ""
            store.bereft = True
            self._changed(store)
            self._call_election(store, t + (ELECTION if len(members) > 1 else ELECTION_ALONE))
        fit = [node for node in alive if self._reaches(node, alive, t) >= majority]
        if not fit:
            store.elect_at = 0.0
            return
        if not store.elect_at:
            self._call_election(store, t + ELECTION_ALONE)
        if t < store.elect_at:
            return
        store.leader = fit[store.version % len(fit)].id
        if store.bereft and len(members) > 1:
            self.happened.add("S22: leader lost, another one elected")
        self._elected.append(store)
        for node in store.nodes.values():
            if not node.via:
                node.lost = max(node.lost, t - DOWN[0])
        self._changed(store)

    def _call_election(self, store: Store, t: float) -> None:
        store.elect_at = t
        self.after(t, lambda _at: None)

    def _reaches(self, node: Node, alive: list[Node], t: float) -> int:
        engine = node.engine
        assert engine is not None
        return sum(1 for other in alive if other.engine and self._talk(engine, other.engine, t))

    def _sees_leader(self, engine: Engine, store: Store) -> bool:
        if not store.leader or engine.stuck:
            return False
        mine = engine.papers.node_id if engine.papers else ""
        node = store.nodes.get(mine)
        if node is None or not node.member:
            return False
        leader = store.nodes[store.leader].engine
        return leader is engine or (leader is not None and self.linked(engine, leader))

    def _roles(self, store: Store, t: float) -> None:
        """Roles that were asked for: a new member of the raft, or one less."""
        for node in store.nodes.values():
            engine = node.engine
            papers = engine.papers if engine and self._alive(node) and node.via else None
            if node.role == "manager" and not node.member:
                if papers and node.promoting is not None and t >= node.promoting:
                    node.member, papers.role = True, "manager"
                    self._changed(store)
                    self.dirty = True
            elif node.role == "worker" and node.member:
                rest = [one for one in store.members() if one is not node]
                if 2 * sum(1 for one in rest if self._alive(one)) > len(rest):
                    node.member = False
                    self._changed(store)
                    self.dirty = True
            elif node.role == "worker" and papers and papers.role == "manager":
                papers.role = "worker"
                self.dirty = True

    def _agents(self, store: Store, t: float) -> None:
        """Each agent keeps its manager, or finds another one."""
        leader = store.nodes[store.leader].engine
        assert leader is not None
        managers = [
            node
            for node in store.members()
            if self._alive(node) and node.engine and self._talk(leader, node.engine, t)
        ]
        for node in store.nodes.values():
            via = self._manager_of(node, managers, t)
            if bool(via) != bool(node.via) or (via and not node.known):
                node.known = node.known or bool(via)
                node.lost = node.away = t
                node.grace = DOWN[0] + len(node.id) % 5
                self._changed(store)
                if via and node.promoting is not None and not node.member:
                    node.promoting = max(node.promoting, t + PROMOTED)
                    self.after(node.promoting, lambda _at: None)
            node.via = via
            if via and node.engine and node.engine.looking:
                if t - node.engine.started > LONG_LOOK:
                    self.happened.add("a member's engine looks for its leader for a minute")
                node.engine.looking = False
                self.dirty = True

    def _manager_of(self, node: Node, managers: list[Node], t: float) -> str:
        if node.engine is None or not self._alive(node):
            return ""
        for manager in managers:
            if manager.engine and self._talk(node.engine, manager.engine, t):
                return manager.id
        return ""

    def _spread(self, store: Store, t: float) -> None:
        """Give connected nodes certificates of the new root; with the last one it is the root."""
        root = store.next_root
        if root is None or t < store.spread_at:
            return
        leader = store.nodes[store.leader].engine
        assert leader is not None
        issued = self.wall(leader, t)
        for node in store.nodes.values():
            engine = node.engine
            if node.via and engine and engine.papers and node.id not in store.rotated:
                store.rotated.add(node.id)
                engine.papers.begins, engine.papers.ends = issued - NODE_BACK, issued + LONG
                engine.papers.root = root
        if store.rotated.issuperset(store.nodes):
            store.root, store.next_root = root, None
            self._changed(store)

    # --- the list ---------------------------------------------------------------------------------

    def _ready(self, node: Node, t: float) -> bool:
        return bool(node.via) or (node.known and t < node.lost + node.grace)

    def _list(self, store: Store, t: float) -> None:
        until = 1e18
        entries = []
        for node in store.nodes.values():
            ready = self._ready(node, t)
            if ready and not node.via:
                until = min(until, node.lost + node.grace)
            entries.append(
                Entry(
                    id=node.id,
                    name=node.name if node.known else "",
                    address=node.address if node.known else "",
                    role=node.role,
                    ready=ready,
                    leader=node.id == store.leader,
                    # S18: a ghost is shown as reachable for as long as nobody talks to it.
                    reachable=node.member and (bool(node.via) or t < node.lost + 2 * node.grace),
                    labels=dict(node.labels),
                )
            )
            if node.member and not node.via:
                if entries[-1].reachable and not ready:
                    self.happened.add("S18: ghost that seems reachable")
                ghost = node.lost + 2 * node.grace
                until = min(until, ghost) if ghost > t else until
        store.view = Swarm(
            id=store.id,
            labels=dict(store.labels),
            rotations=store.rotations,
            rotating=store.next_root is not None,
            ca_since=store.root.begins,
            entries=tuple(entries),
        )
        store.view_until = until

    def quorate(self) -> Iterator[Store]:
        """Give the swarms that have a leader."""
        return (store for store in self.stores.values() if store.leader)
