"""dockerds with swarms, faked: pure and deterministic, with the quirks that were measured.

One store per swarm stands for its raft log: what a quorum agreed on. Times `t` are seconds since the
simulation began; an engine's own wall clock is `t + skew`. The S numbers are those of the project's
measurements of Docker 20.10: certificates are dated by the node that signs them (S1, S5), a join to
nowhere hangs (S2), a restart judges the certificate by the clock (S3), and so on.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from firstboot.model import (
    CHARTER_LABEL,
    EPOCH_LABEL,
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Bind,
    Entry,
    Swarm,
    Token,
)

ROOT_BACK = 300.0  # S1: a root certificate is dated back by 5 minutes
NODE_BACK = 3600.0  # S1: a node's by an hour
SHORT = 90 * 86400.0  # S5: whatever was asked for, until the CA is made anew
LONG = 87600 * 3600.0
ROOT_LIVES = 20 * 365 * 86400.0
INIT = 0.6
ROTATE = 3.3  # S5
JOIN_STEPS = (0.1, 0.2, 0.3)  # the entry, the disk, active (S2)
JOIN_HANGS = 20.0  # S2: a dead address
JOIN_FAILS = 10.0  # S2: a refused port, a bad token
PROMOTED = 1.3  # S6
DOWN = (10.0, 14.0)  # S6, S18: until a node that is gone is shown as down
ELECTION = 10.6  # S22
ELECTION_ALONE = 1.0
CALM = 30.0  # S14: a promotion sooner after a demotion gets stuck


class DockerError(Exception):
    """dockerd's own refusal."""


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
        self.running = False
        self.state = "inactive"
        self.error = ""
        self.stuck = False
        self.starts = 0
        self.joining = 0  # number of the join under way; 0 for none
        self.host: Any = None  # where it runs, and whose it is: of no meaning here
        self.owner: Any = None

    @property
    def manager(self) -> bool:
        return self.papers is not None and self.papers.role == "manager"


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
    lost: float = 0.0  # since when it does not
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

    @property
    def epoch(self) -> int:
        return int(self.labels.get(EPOCH_LABEL, "0"))

    def members(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.member]


Linked = Callable[[Engine, Engine], bool]


class Fabric:
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

    # --- time -----------------------------------------------------------------------------------

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

    # --- power ----------------------------------------------------------------------------------

    def start(self, engine: Engine, t: float) -> None:
        """Start dockerd. With a torn state file it would end at once (S9): repair comes before."""
        if engine.torn:
            raise DockerError("docker-state.json: unexpected end of JSON input")
        engine.running, engine.error, engine.stuck, engine.joining = True, "", False, 0
        engine.starts += 1
        engine.state = "inactive"
        if engine.papers:
            engine.state = "active"
            trouble = self._expired(engine, engine.papers, t)
            if trouble:
                # S3: it stays so, whatever the clock says later, until dockerd is restarted.
                engine.state, engine.error = "error", trouble
        self.dirty = True

    def stop(self, engine: Engine) -> None:
        """Stop dockerd, or cut its power: a join under way is forgotten (S17)."""
        engine.running, engine.joining = False, 0
        self.dirty = True

    # --- looking --------------------------------------------------------------------------------

    def view(self, engine: Engine, t: float) -> Swarm | None:
        """Give what a manager with a quorum lists; None for any other engine."""
        self.advance(t)
        if not engine.manager or engine.papers is None or engine.state != "active":
            return None
        store = self.stores[engine.papers.swarm]
        if not self._sees_leader(engine, store):
            return None
        if store.view is None or t >= store.view_until:
            self._list(store, t)
        return store.view

    def worker_token(self, engine: Engine, t: float) -> Token:
        return Token(self._text(self._command(engine, t)))

    # --- a node's own swarm -----------------------------------------------------------------------

    def init(self, engine: Engine, t: float, *, epoch: int, charter: str) -> Store:
        """Found a swarm; the engine is its only manager."""
        if engine.papers or engine.state == "pending" or engine.state == "error":
            raise DockerError("This node is already part of a swarm")
        self.advance(t)
        number, wall = next(self._numbers), self.wall(engine, t)
        root = Root("ca-%d" % number, wall - ROOT_BACK, wall + ROOT_LIVES)
        labels = {EPOCH_LABEL: str(epoch), CHARTER_LABEL: charter}
        store = Store("swarm-%d" % number, root, labels)
        self.stores[store.id] = store
        node = self._admit(store, engine)
        node.role, node.member, node.known = "manager", True, True
        store.leader, store.lets_in = node.id, 0
        papers = Papers(
            store.id, node.id, "manager", root, begins=wall - NODE_BACK, ends=wall + SHORT
        )
        engine.papers, engine.state = papers, "active"
        self._changed(store)
        self.dirty = True
        self.on_leader(store)
        return store

    def join(self, engine: Engine, t: float, *, target: Engine | None, token: Token) -> float:
        """Begin to join; give how long the call takes. What came of it, only a look tells (S17)."""
        if engine.papers or engine.state != "inactive":
            raise DockerError("This node is already part of a swarm")
        self.advance(t)
        engine.joining = next(self._numbers)
        number = engine.joining
        if target is None or not self.linked(engine, target):
            return self._hang(engine, t, number)
        papers = target.papers
        if not target.running or papers is None or target.state != "active" or not target.manager:
            return self._fail(engine, t, number)
        store = self.stores[papers.swarm]
        if token.reveal() != self._text(store):
            return self._fail(engine, t, number)
        if not self._sees_leader(target, store):
            return self._hang(engine, t, number)
        engine.state = "pending"
        self.after(t + JOIN_STEPS[0], lambda at: self._enter(engine, store, number, at))
        return JOIN_STEPS[-1]

    def leave(self, engine: Engine, t: float) -> None:
        """Leave by force, whatever the state."""
        if engine.papers:
            store = self.stores[engine.papers.swarm]
            node = store.nodes.get(engine.papers.node_id)
            if node and node.via:
                node.lost, node.via, node.grace = t, "", 0.5
                self._changed(store)
        engine.papers, engine.state, engine.error, engine.joining = None, "inactive", "", 0
        engine.stuck = False
        self.dirty = True

    # --- commands of a manager ----------------------------------------------------------------------

    def rotate_ca(self, engine: Engine, t: float) -> None:
        """S5, S16: a new root by the leader's clock; it is done once every listed node has it."""
        store = self._command(engine, t)
        leader = store.nodes[store.leader].engine
        wall = self.wall(leader or engine, t)
        if store.root.begins > wall:
            # Seen with 20.10: a root from the future cannot even be replaced.
            raise DockerError("x509: certificate has expired or is not yet valid")
        digest = "ca-%d" % next(self._numbers)
        store.rotations += 1
        store.next_root = Root(digest, wall - ROOT_BACK, wall + ROOT_LIVES)
        store.rotated, store.spread_at = set(), t + ROTATE
        self.after(store.spread_at, lambda _at: None)
        self._changed(store)

    def rotate_token(self, engine: Engine, t: float) -> None:
        store = self._command(engine, t)
        store.token += 1
        self._changed(store)

    def supersede(self, engine: Engine, t: float, *, name: str, generation: int) -> None:
        store = self._command(engine, t)
        store.labels["%s.%s" % (GENERATION_LABEL, name)] = str(generation)
        self._changed(store)

    def bind(self, engine: Engine, t: float, step: Bind) -> None:
        store, node = self._node(engine, t, step.node_id)
        node.labels.update(step.labels)
        node.labels[NAME_LABEL] = step.name
        node.labels[GENERATION_LABEL] = str(step.generation)
        node.labels[ROLE_LABEL] = step.role
        self._changed(store)

    def promote(self, engine: Engine, t: float, node_id: str) -> None:
        store, node = self._node(engine, t, node_id)
        node.role, node.promoting = "manager", t + PROMOTED
        if t - node.demoted < CALM and node.engine:
            node.engine.stuck = True  # S14
        self.after(t + PROMOTED, lambda _at: None)
        self._changed(store)

    def demote(self, engine: Engine, t: float, node_id: str) -> None:
        store, node = self._node(engine, t, node_id)
        managers = [one for one in store.nodes.values() if one.role == "manager"]
        if len(managers) == 1:
            raise DockerError("attempting to demote the last manager of the swarm")
        node.role, node.promoting, node.demoted = "worker", None, t
        self._changed(store)
        self.dirty = True

    def remove(self, engine: Engine, t: float, node_id: str) -> None:
        """S6: refused for managers and for nodes that are not down."""
        store, node = self._node(engine, t, node_id)
        if node.role == "manager" or node.member:
            raise DockerError("node %s is a cluster manager" % node_id)
        if self._ready(node, t):
            raise DockerError("node %s is not down and can't be removed" % node_id)
        del store.nodes[node_id]
        self._changed(store)
        self.dirty = True

    # --- inside -----------------------------------------------------------------------------------

    def _text(self, store: Store) -> str:
        return "SWMTKN-1-%s-%d" % (store.root.digest, store.token)

    def _changed(self, store: Store) -> None:
        store.version += 1
        store.view = None

    def _admit(self, store: Store, engine: Engine) -> Node:
        number = next(self._numbers)
        grace = DOWN[0] + number % 5
        node = Node("n%d" % number, "", "", engine, grace=grace)
        node.name, node.address = engine.name, engine.address
        store.nodes[node.id] = node
        return node

    def _command(self, engine: Engine, t: float) -> Store:
        self.advance(t)
        if not engine.running or engine.papers is None or not engine.manager:
            raise DockerError("This node is not a swarm manager")
        store = self.stores[engine.papers.swarm]
        if engine.state != "active" or not self._sees_leader(engine, store):
            raise DockerError("The swarm does not have a leader")
        return store

    def _node(self, engine: Engine, t: float, node_id: str) -> tuple[Store, Node]:
        store = self._command(engine, t)
        if node_id not in store.nodes:
            raise DockerError("node %s not found" % node_id)
        return store, store.nodes[node_id]

    def _expired(self, engine: Engine, papers: Papers, t: float) -> str:
        wall = self.wall(engine, t)
        if wall < papers.begins or wall < papers.root.begins:
            return "x509: certificate is not yet valid"
        if wall > papers.ends or wall > papers.root.ends:
            return "x509: certificate has expired"
        return ""

    def _hang(self, engine: Engine, t: float, number: int) -> float:
        engine.state = "pending"
        self.after(t + JOIN_HANGS, lambda at: self._gave_up(engine, number, "error"))
        return JOIN_HANGS

    def _fail(self, engine: Engine, t: float, number: int) -> float:
        engine.state = "pending"
        self.after(t + JOIN_FAILS, lambda at: self._gave_up(engine, number, "inactive"))
        return JOIN_FAILS

    def _gave_up(self, engine: Engine, number: int, state: str) -> None:
        if engine.joining == number:
            engine.state, engine.joining = state, 0
            engine.error = "context deadline exceeded" if state == "error" else ""

    def _enter(self, engine: Engine, store: Store, number: int, t: float) -> None:
        """A certificate was issued: there is an entry, nameless until its agent speaks."""
        if engine.joining != number or not store.leader:
            return
        leader = store.nodes[store.leader].engine
        if leader is None or leader.papers is None:
            return
        node = self._admit(store, engine)
        node.lost, node.grace = t, 0.0
        issued = self.wall(leader, t)
        papers = Papers(
            store.id,
            node.id,
            "worker",
            store.root,
            begins=issued - NODE_BACK,
            ends=issued + (LONG if store.rotations else SHORT),
        )
        self._changed(store)
        if self._expired(engine, papers, t) or self._expired(engine, leader.papers, t):
            # S1, S16: its clock does not believe the certificates; the entry stays.
            node.engine = None
            self.after(t + JOIN_FAILS, lambda at: self._gave_up(engine, number, "inactive"))
            return
        step = JOIN_STEPS[1] - JOIN_STEPS[0]
        self.after(t + step, lambda at: self._write_papers(engine, papers, number))

        def done(at: float) -> None:
            if engine.joining == number:
                engine.state, engine.joining = "active", 0
                store.lets_in += 1

        self.after(t + JOIN_STEPS[2] - JOIN_STEPS[0], done)

    def _write_papers(self, engine: Engine, papers: Papers, number: int) -> None:
        if engine.joining == number:
            engine.papers = papers

    # --- who talks to whom --------------------------------------------------------------------------

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
                node.lost, node.grace = t, DOWN[0] + len(node.id) % 5
                self._changed(store)
                if via and node.promoting is not None and not node.member:
                    node.promoting = max(node.promoting, t + PROMOTED)
                    self.after(node.promoting, lambda _at: None)
            node.via = via

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

    # --- the list -----------------------------------------------------------------------------------

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
