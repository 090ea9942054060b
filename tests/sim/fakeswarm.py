"""dockerds with swarms, faked: pure and deterministic, with the quirks that were measured.

Certificates are dated by the node that signs them (S1, S5), a join to nowhere hangs (S2), a restart
judges the certificate by the clock (S3), a failed try leaves an entry (S11, S16), and so on.
"""

from __future__ import annotations

from firstboot.model import (
    CHARTER_LABEL,
    EPOCH_LABEL,
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Bind,
    Swarm,
    Token,
)
from tests.sim.raft import (
    CALM,
    DOWN,
    LONG,
    NODE_BACK,
    PROMOTED,
    ROOT_BACK,
    ROOT_LIVES,
    ROTATE,
    SHORT,
    Engine,
    Node,
    Papers,
    Raft,
    Root,
    Store,
)

INIT = 0.6
JOIN_STEPS = (0.1, 0.2, 0.3)  # the entry, the disk, active (S2)
JOIN_HANGS = 20.0  # S2: a dead address
JOIN_AGAIN = 2.0
JOIN_FAILS = 10.0  # S2: a refused port, a bad token


class DockerError(Exception):
    """dockerd's own refusal."""


class Fabric(Raft):
    """Every engine, and what it can be told to do."""

    # --- power ------------------------------------------------------------------------------------

    def start(self, engine: Engine, t: float) -> None:
        """Start dockerd. With a torn state file it would end at once (S9): repair comes before."""
        if engine.torn:
            raise DockerError("docker-state.json: unexpected end of JSON input")
        engine.running, engine.error, engine.stuck, engine.joining = True, "", False, 0
        engine.looking, engine.started = engine.papers is not None, t
        engine.starts += 1
        engine.state = "inactive"
        if engine.papers:
            engine.state = "active"
            trouble = self._expired(engine, engine.papers, t)
            if trouble:
                # S3: it stays so, whatever the clock says later, until dockerd is restarted.
                engine.state, engine.error = "error", trouble
                self.happened.add("S3: engine starts in error by its clock")
            if engine.spoilt:
                engine.state, engine.error = "error", "PEM: no certificate"
                self.happened.add("S9: engine starts in error without a certificate")
        self.dirty = True

    def stop(self, engine: Engine) -> None:
        """Stop dockerd, or cut its power: a join under way is forgotten (S17)."""
        if engine.joining:
            self.happened.add("S17: dockerd stopped in a join")
        engine.running, engine.joining = False, 0
        self.dirty = True

    # --- looking ----------------------------------------------------------------------------------

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
        root = Root(f"ca-{number}", wall - ROOT_BACK, wall + ROOT_LIVES)
        labels = {EPOCH_LABEL: str(epoch), CHARTER_LABEL: charter}
        store = Store(f"swarm-{number}", root, labels)
        self.stores[store.id] = store
        node = self._admit(store, engine)
        node.role, node.member, node.known = "manager", True, True
        store.leader, store.lets_in = node.id, 0
        papers = Papers(
            store.id, node.id, "manager", root, begins=wall - NODE_BACK, ends=wall + SHORT
        )
        engine.papers, engine.state, engine.looking = papers, "active", False
        self._changed(store)
        self.dirty = True
        self.on_leader(store)
        return store

    def cut_off(self, engine: Engine) -> None:
        """The power goes after dockerd made a swarm and before it wrote the swarm's labels."""
        if engine.papers:
            store = self.stores[engine.papers.swarm]
            store.labels.clear()
            self._changed(store)
            self.happened.add("founding cut off before its labels")

    def join(self, engine: Engine, t: float, *, target: Engine | None, token: Token) -> float:
        """Begin to join; give how long the call takes. What came of it, only a look tells (S17)."""
        if engine.papers or engine.state != "inactive":
            raise DockerError("This node is already part of a swarm")
        self.advance(t)
        engine.joining = next(self._numbers)
        number = engine.joining
        if target is None or not self.linked(engine, target):
            if target is not None:
                self._try_again(engine, target, token, number, t)
            return self._hang(engine, t, number)
        papers = target.papers
        if not target.running or papers is None or target.state != "active" or not target.manager:
            return self._fail(engine, t, number)
        store = self.stores[papers.swarm]
        if token.reveal() != self._text(store):
            return self._fail(engine, t, number)
        if self._expired(engine, papers, t):
            # S1: it believes nothing that the manager says, and asks for no certificate.
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
                node.lost = node.away = t
                node.via, node.grace = "", 0.5
                self._changed(store)
        engine.papers, engine.state, engine.error, engine.joining = None, "inactive", "", 0
        engine.looking = False
        engine.stuck = engine.spoilt = False
        self.dirty = True

    # --- commands of a manager --------------------------------------------------------------------

    def rotate_ca(self, engine: Engine, t: float) -> None:
        """S5, S16: a new root by the leader's clock; it is done once every listed node has it."""
        store = self._command(engine, t)
        leader = store.nodes[store.leader].engine
        wall = self.wall(leader or engine, t)
        if store.root.begins > wall:
            # Seen with 20.10: a root from the future cannot even be replaced.
            self.happened.add("S16: root certificate from the future")
            raise DockerError("x509: certificate has expired or is not yet valid")
        digest = f"ca-{next(self._numbers)}"
        store.rotations += 1
        self.happened.add("S5: CA made anew for ten years")
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
        store.labels[f"{GENERATION_LABEL}.{name}"] = str(generation)
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
            node.engine.stuck = True
            self.happened.add("S14: promotion that gets stuck")
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
            self.happened.add("S6: command that dockerd refuses")
            raise DockerError(f"node {node_id} is a cluster manager")
        if self._ready(node, t):
            self.happened.add("S6: command that dockerd refuses")
            raise DockerError(f"node {node_id} is not down and can't be removed")
        del store.nodes[node_id]
        papers = node.engine.papers if node.engine else None
        if papers and papers.node_id == node_id:
            self.happened.add("S7, S15: orphan that seems active")
        if not node.labels.get(NAME_LABEL):
            self.happened.add("S11: entry of a try that was cut off")
        self._changed(store)
        self.dirty = True

    # --- inside -----------------------------------------------------------------------------------

    def _text(self, store: Store) -> str:
        return f"SWMTKN-1-{store.root.digest}-{store.token}"

    def _admit(self, store: Store, engine: Engine) -> Node:
        number = next(self._numbers)
        if any(other.name == engine.name for other in store.nodes.values()):
            self.happened.add("S18: two entries of one name")
        grace = DOWN[0] + number % 5
        node = Node(f"n{number}", "", "", engine, grace=grace)
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
            raise DockerError(f"node {node_id} not found")
        return store, store.nodes[node_id]

    def _hang(self, engine: Engine, t: float, number: int) -> float:
        engine.state = "pending"
        self.happened.add("S2: join hangs and ends in error")
        self.after(t + JOIN_HANGS, lambda at: self._gave_up(engine, number, "error"))
        return JOIN_HANGS

    def _try_again(
        self, engine: Engine, target: Engine, token: Token, number: int, t: float
    ) -> None:
        """S17: while it hangs it goes on trying, and so may still get in."""

        def once_more(at: float) -> None:
            if engine.joining != number:
                return
            store = self.stores.get(target.papers.swarm) if target.papers else None
            if (
                store is not None
                and self.linked(engine, target)
                and self._sees_leader(target, store)
                and token.reveal() == self._text(store)
                and not (target.papers and self._expired(engine, target.papers, at))
            ):
                self._enter(engine, store, number, at)
            else:
                self._try_again(engine, target, token, number, at)

        self.after(t + JOIN_AGAIN, once_more)

    def _fail(self, engine: Engine, t: float, number: int) -> float:
        engine.state = "pending"
        self.happened.add("S2: join fails")
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
        node.lost = node.away = t
        node.grace = 0.0
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
            # S16: its clock does not believe the new certificate; the entry stays.
            node.engine = None
            self.happened.add("S1, S16: joiner does not believe the certificates")
            self.after(t + JOIN_FAILS, lambda at: self._gave_up(engine, number, "inactive"))
            return
        step = JOIN_STEPS[1] - JOIN_STEPS[0]
        self.after(t + step, lambda at: self._write_papers(engine, papers, number))

        def done(at: float) -> None:
            if engine.joining == number:
                engine.state, engine.joining, engine.looking = "active", 0, False
                store.lets_in += 1

        self.after(t + JOIN_STEPS[2] - JOIN_STEPS[0], done)

    def _write_papers(self, engine: Engine, papers: Papers, number: int) -> None:
        if engine.joining == number:
            engine.papers = papers
