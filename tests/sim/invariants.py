"""The invariants, judged by the truth of the fake world and not by what nodes believe of it.

| | what | here, and elsewhere |
|---|---|---|
| I1 | one quorate swarm per epoch, with an honest operator one at all | `leader`; model check |
| I2 | who may found, by which permit | `founded`; model check; test_permit.py |
| I3 | what never falls | `_remembers` `_supersedes` `_joins` `_asks` `_answers` |
| I4 | nothing of a manager's for a worker | `_promotes` `hears`; test_join_service.py on the wire |
| I5 | a name binds to one live node id | `_binds`; model check |
| I6 | nobody is taken away who is up, or was half a minute ago | `_takes_away` |
| I7 | no promotion beside a dead member; a quorum is left | `_promotes` `_demotes`; model check |
| I8 | a file is old or new | `Remember` that is cut only; tests/contract/test_memory_crash.py |
| I9 | no dockerd below the floor, no step of a good clock | `docker_starts` `_steps_clock` |
| I10 | nothing secret on FAT or in a log | not here: test_scrub.py, tests/lab, tests/e2e |
| I11 | A's identity is useless to B | `_binds` `hears`; test_join_service.py on the wire |
| L1 | all ready, one swarm, any order | `missing`; model check |
| L2 | the same after power cuts at any action | `missing`, for the cuts of `World.strike` |
| L3 | one entry for each name in the end | `_roster` |
| L4 | who does not progress says why | run.py: a patience, turns that spin, `blocked` |
| L5 | stacks are deployed as given | not here: no stack is deployed yet |

"Honest": no rebuild beside a quorum that lives, and no replaced or copied card in a Pi; the other
stories are judged too, but for I1 across epochs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstboot import permit as permits
from firstboot.model import (
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Action,
    Answer,
    AskJoin,
    Bind,
    Demote,
    Hello,
    Init,
    Join,
    Observation,
    Promote,
    Remember,
    Remove,
    ReportJoined,
    StepClock,
    Supersede,
)
from firstboot.reasons import REASONS
from tests.sim.raft import Node, Store

if TYPE_CHECKING:
    from tests.sim.cards import Card
    from tests.sim.shell import Shell
    from tests.sim.world import Box, World

GONE = 30.0  # how long a node has to be away before its place may be taken
LAG = 1.0  # seconds by which a view may be behind


class Violation(AssertionError):
    """An invariant does not hold. `name`: which."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Judge:
    """Looks at every action before it is done, and at every leader."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.foundings: dict[int, list[tuple[str, int, Store]]] = {}
        self.best: dict[tuple[str, str], int] = {}  # generation let in, by swarm and name

    def before(self, shell: Shell, action: Action, seen: Observation, t: float) -> None:
        if isinstance(action, Remember):
            self._remembers(shell.card, action)
        elif isinstance(action, Join):
            self._joins(shell, action)
        elif isinstance(action, (AskJoin, ReportJoined)):
            self._asks(shell, action, seen)
        elif isinstance(action, Answer):
            self._answers(shell, action, seen)
        elif isinstance(action, StepClock):
            self._steps_clock(shell, action)
        elif isinstance(action, (Bind, Supersede, Promote, Demote, Remove)):
            self._commands(shell, action, seen, t)

    def _commands(
        self,
        shell: Shell,
        action: Bind | Supersede | Promote | Demote | Remove,
        seen: Observation,
        t: float,
    ) -> None:
        papers = shell.card.engine.papers
        store = self.world.fabric.stores[papers.swarm] if papers else None
        if store is None:
            return
        if isinstance(action, Supersede):
            self._supersedes(store, action)
            return
        node = store.nodes.get(action.node_id)
        if node is None:
            return
        if isinstance(action, Bind):
            self._binds(store, node, action)
        elif isinstance(action, Promote):
            self._promotes(store, node, t)
        else:
            self._takes_away(node, action, seen, t, shell.now(t))
            if isinstance(action, Demote):
                self._demotes(store, node)

    # --- I1, I2: swarms ---------------------------------------------------------------------------

    def leader(self, store: Store) -> None:
        for other in self.world.fabric.quorate():
            if other is store:
                continue
            if (
                other.epoch == store.epoch
                and not self._old_card(other)
                and not self._old_card(store)
            ):
                raise Violation("I1", f"{store.id} and {other.id} of epoch {store.epoch}")
            if self.world.plan.honest:
                raise Violation(
                    "I1",
                    f"{store.id} of epoch {store.epoch} beside {other.id} of epoch {other.epoch}",
                )

    def _old_card(self, store: Store) -> bool:
        """A card that was replaced leads it: whoever uses such a card was told not to."""
        engine = store.nodes[store.leader].engine
        return engine is not None and engine.owner in self.world.faults.old

    def founded(self, shell: Shell, action: Init, store: Store) -> None:
        card = shell.card
        try:
            granted = permits.verify(
                card.permit,
                modulus=card.config.permit_key,
                cluster=card.config.cluster,
                node=card.name,
            )
        except permits.PermitError as error:
            raise Violation("I2", f"{card!r} founds epoch {action.epoch}: {error}") from None
        if (granted.epoch, granted.generation) != (action.epoch, card.config.generation):
            raise Violation("I2", f"{card!r} founds epoch {action.epoch} by another permit")
        if card.memory.founding != action.epoch:
            raise Violation("I2", f"{card!r} did not note the founding of {action.epoch}")
        if card.memory.founded >= action.epoch:
            raise Violation("I2", f"{card!r} has used up its permit")
        if shell.heard_epoch >= action.epoch:
            raise Violation("I2", f"{card!r} founds an epoch that it heard of")
        before = self.foundings.setdefault(action.epoch, [])
        for name, generation, earlier in before:
            same = (name, generation) == (card.name, card.config.generation)
            if same and earlier.lets_in:
                raise Violation("I2", f"{card!r} founds epoch {action.epoch} again")
            if not same and granted.kind != "rejoin" and self.world.plan.honest:
                raise Violation("I2", f"{card!r} founds epoch {action.epoch} a second time")
        before.append((card.name, card.config.generation, store))

    # --- I3: what never falls ---------------------------------------------------------------------

    def _remembers(self, card: Card, action: Remember) -> None:
        old, new = card.memory, action.memory
        falls = new.epoch < old.epoch or new.founded < old.founded or new.founding < old.founding
        if falls or any(new.seen.get(name, 0) < seen for name, seen in old.seen.items()):
            raise Violation("I3", f"{card!r}: {old} -> {new}")

    def _supersedes(self, store: Store, action: Supersede) -> None:
        text = store.labels.get(f"{GENERATION_LABEL}.{action.name}", "0")
        if action.generation < int(text):
            raise Violation("I3", f"{action.name}: generation {text} -> {action}")

    def _joins(self, shell: Shell, action: Join) -> None:
        if action.grant.epoch < max(shell.card.memory.epoch, shell.heard_epoch):
            raise Violation("I3", f"{shell.card!r} joins epoch {action.grant.epoch}")

    def _asks(self, shell: Shell, action: AskJoin | ReportJoined, seen: Observation) -> None:
        hello = seen.peers[action.leader].hello
        if hello and hello.generation < shell.newest.get(action.leader, 0):
            raise Violation("I3", f"{shell.card!r} asks a card that was replaced")

    def _answers(self, shell: Shell, action: Answer, seen: Observation) -> None:
        if action.status not in ("granted", "bound"):
            return
        claims = [ask.claim for ask in seen.asks if ask.number == action.number]
        key = (seen.swarm.id if seen.swarm else "", claims[0].name)
        if claims[0].generation < self.best.get(key, 0):
            raise Violation("I3", f"{claims[0]} is superseded and is let in")
        self.best[key] = claims[0].generation

    # --- I4 to I7, I11: who gets what -------------------------------------------------------------

    def _binds(self, store: Store, node: Node, action: Bind) -> None:
        owner = node.engine.owner if node.engine else None
        if owner is None or (owner.name, owner.config.generation, owner.config.role) != (
            action.name,
            action.generation,
            action.role,
        ):
            raise Violation("I11", f"{action.name} is bound to {node.id} of {owner!r}")
        for other in store.nodes.values():
            if other is node or other.labels.get(NAME_LABEL) != action.name or not other.via:
                continue
            raise Violation("I5", f"{action.name}: {node.id} and {other.id}")

    def _promotes(self, store: Store, node: Node, t: float) -> None:
        owner = node.engine.owner if node.engine else None
        if owner is None or owner.config.role != "manager":
            raise Violation("I4", f"{owner!r} is promoted")
        if node.labels.get(ROLE_LABEL) != "manager":
            raise Violation("I4", f"{node.id} is promoted, and nobody vouched for it")
        for member in store.members():
            if not member.via and t - member.lost > member.grace + LAG:
                raise Violation("I7", f"{node} is promoted beside {member}, which is dead")

    def _demotes(self, store: Store, node: Node) -> None:
        rest = [member for member in store.members() if member is not node]
        if 2 * sum(bool(member.via) for member in rest) <= len(rest):
            raise Violation("I7", f"without {node.name} there is no quorum")

    def _takes_away(
        self, node: Node, action: Demote | Remove, seen: Observation, t: float, now: float
    ) -> None:
        if node.via or t - node.away < GONE - LAG:
            raise Violation("I6", f"{action} of {node.name}, which is up or was a moment ago")
        for contact in seen.peers.values():
            hello = contact.hello
            fresh = contact.silent_since is None and now - contact.heard < 15.0
            if fresh and hello and hello.node_id == node.id and hello.role == "manager":
                raise Violation("I6", f"{action} of {node.name}, which answers")

    # --- I9: the clock ----------------------------------------------------------------------------

    def docker_starts(self, box: Box, floor: float, t: float) -> None:
        if self.world.origin + t + box.skew < floor - 0.001:
            raise Violation("I9", f"dockerd of {box.name} starts below the floor")

    def _steps_clock(self, shell: Shell, action: StepClock) -> None:
        if shell.box.ntp:
            raise Violation("I9", f"{shell.card!r} steps a clock that has its time from NTP")

    def hears(self, hello: Hello, card: Card, hearer: Shell) -> None:
        """A hello was believed."""
        config = card.config
        if hello.role == "manager":
            newest = hearer.newest.get(hello.name, 0)
            hearer.newest[hello.name] = max(newest, hello.generation)
        if hello.quorum and hello.generation == hearer.newest.get(hello.name):
            hearer.heard_epoch = max(hearer.heard_epoch, hello.swarm_epoch)
        said = (hello.name, hello.role, hello.generation)
        if said != (config.name, config.role, config.generation):
            raise Violation("I11", f"{card!r} is believed to be {said}")
        if hello.quorum and config.role != "manager":
            raise Violation("I4", f"{card!r} is believed to lead")

    # --- L1 to L4: the end ------------------------------------------------------------------------

    def missing(self) -> str:
        """Give what is not as it should be yet; empty once everybody is ready."""
        world = self.world
        for box in world.boxes.values():
            if box.card is None or not box.on:
                if box.name in [node.name for node in world.plan.spec.nodes]:
                    return f"{box.name} is off"
                continue
            shell = box.shell
            if shell is None or shell.decision.phase != "READY":
                return f"{box.name}: {shell.decision if shell else 'boots'}"
            leads = shell.decision.why.startswith("leads")
            if leads and shell.notes.token_is_out:
                return "the token that was given away still lets in"
        stores = list(world.fabric.quorate())
        if len(stores) != 1:
            return f"{len(stores)} swarms"
        return self._roster(stores[0])

    def _roster(self, store: Store) -> str:
        for spec in self.world.plan.spec.nodes:
            named = [node for node in store.nodes.values() if node.name == spec.name]
            if len(named) != 1:
                return f"{len(named)} entries of {spec.name}"
            node = named[0]
            if not node.via or node.labels.get(NAME_LABEL) != spec.name:
                return f"{spec.name} is not bound, or not up"
            if node.role != spec.role.value or node.member != (node.role == "manager"):
                return f"{spec.name} is a {node.role}"
            if any(node.labels.get(key) != text for key, text in spec.labels.items()):
                return f"labels of {spec.name}"
        if len(store.nodes) != len(self.world.plan.spec.nodes):
            return "entries that are no node's"
        return "" if store.rotations else "certificates of 90 days"

    def blocked(self) -> dict[str, str]:
        """Give why nodes say that only a person can help."""
        found = {}
        for name, box in self.world.boxes.items():
            if box.shell and box.shell.decision.reason:
                found[name] = box.shell.decision.reason
                if found[name] not in REASONS:
                    raise Violation("L4", f"{found[name]} is no reason")
        return found
