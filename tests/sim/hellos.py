"""The hellos of one node, as peers.py and server.py say and hear them, without a network.

When to call is rhythm.py's, what to believe wire.py's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstboot.bounds import LIMITS
from firstboot.model import Contact, Hello
from firstboot.peers import HELLO_PATIENCE
from firstboot.rhythm import Calls
from firstboot.wire import WireError
from tests.sim.cards import Card, charter_of
from tests.sim.core import Core

if TYPE_CHECKING:
    from firstboot.nodeconfig import NodeConfig, Peer
    from tests.sim.shell import Shell
    from tests.sim.world import Box, World


class Line:
    """What goes on with one peer; as in peers.py."""

    __slots__ = ("calls", "due", "in_call", "peer", "telling", "told")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.calls = Calls()
        self.told: Hello | None = None
        self.telling = False
        self.in_call = False
        self.due = -1.0


class Hellos:
    """What a running node knows of the others, and says of itself."""

    world: World
    box: Box
    card: Card
    core: Core
    config: NodeConfig
    zero: float
    dead: bool
    mood: str
    snapshot: tuple[Hello, dict[str, str], float] | None
    contacts: dict[str, Contact]
    lines: dict[str, Line]

    def now(self, t: float) -> float:
        return t - self.zero

    def wall(self, t: float) -> float:
        return self.world.origin + t + self.box.skew

    def wake(self, t: float) -> None:
        raise NotImplementedError

    def plan(self, line: Line, t: float) -> None:
        """Have the next call begin when it is due."""
        if line.in_call:
            return
        due = self.core.due(self.config.name, line.peer, mood=self.mood, calls=line.calls)
        if due is None:
            line.due = -1.0
            return
        line.due = max(t, due + self.zero)
        self.world.at(line.due, self._call, line, line.due)

    def _call(self, t: float, line: Line, meant: float) -> None:
        if self.dead or line.in_call or line.due != meant:
            return
        line.telling = line.calls.news
        calls = line.calls
        line.calls = Calls(begun=t - self.zero, number=calls.number + 1, failures=calls.failures)
        line.in_call = True
        world = self.world
        host = world.find(self, line.peer.name)
        if host is None or world.loses():
            world.at(t + HELLO_PATIENCE, self._failed, line)
        elif host.shell is None:
            world.at(t + world.delay(), self._failed, line)
        else:
            world.at(t + 2 * world.delay(), self._answered, line, host.shell)

    def _answered(self, t: float, line: Line, peer: Shell) -> None:
        if self.dead:
            return
        said = peer.say(self.config.name, t) if not peer.dead else None
        if not peer.dead:
            peer.heard(self.config.name, line.telling and self.config.role == "manager", t)
        try:
            if said is None:
                raise WireError("no answer")
            self._judge(said, peer.card, before=self.contacts.get(line.peer.name))
        except ValueError:  # WireError, PermitError; a mutant has its own
            self._failed(t, line)
            return
        self.world.judge.hears(said, peer.card, self)
        line.in_call = False
        before = self.contacts.get(line.peer.name)
        self.contacts[line.peer.name] = Contact(said, self.now(t))
        if line.calls.failures:
            line.calls = replace(line.calls, failures=0)
        silent = before is None or before.silent_since is not None
        if silent or self.core.news(before.hello if before else None, said):
            self.wake(t)
        self.plan(line, t)

    def _judge(self, hello: Hello, card: Card, *, before: Contact | None) -> None:
        newest = before.hello.generation if before and before.hello else 0
        self.core.vouch(hello, card.claim, newest=newest)
        if hello.quorum and hello.swarm_epoch and hello.swarm_epoch > charter_of(hello.charter):
            raise WireError(f"hello: the operator did not allow epoch {hello.swarm_epoch}")

    def _failed(self, t: float, line: Line) -> None:
        if self.dead:
            return
        line.in_call = False
        news = line.calls.news or line.telling
        line.calls = replace(line.calls, failures=line.calls.failures + 1, news=news)
        line.telling = False
        before = self.contacts.get(line.peer.name) or Contact(None, 0.0)
        if before.silent_since is None:
            self.contacts[line.peer.name] = replace(before, silent_since=self.now(t))
            self.wake(t)
        self.plan(line, t)

    def say(self, caller: str, t: float) -> Hello | None:
        """Answer a hello from what was published last."""
        if self.snapshot is None or t - self.snapshot[2] > LIMITS.snapshot:
            return None
        hello, you, _ = self.snapshot
        # What dataclasses.replace does, in a fifth of the time.
        said = Hello.__new__(Hello)
        said.__dict__.update(hello.__dict__)
        node_id, down = you.get(caller, ("", 0.0))
        said.__dict__.update(time=self.wall(t), you=node_id, you_down=down)
        return self.world.faults.lie(self, said)

    def heard(self, name: str, news: bool, t: float) -> None:
        line = self.lines.get(name)
        if line is None:
            return
        contact = self.contacts.get(name)
        silent = contact is None or contact.silent_since is not None
        if (news or silent) and not line.calls.poked:
            line.calls = replace(line.calls, poked=True)
            self.plan(line, t)
