"""What the peers say: asks hello of them in time, checks it; asks the leader to join. Shell.

One thread for every hello; join and joined wait in the caller's. Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import ssl
import threading
import time
import traceback
from dataclasses import replace
from typing import Callable, Dict, List, Mapping, Optional

from firstboot import calls, framing, permit, rhythm, tls, wire
from firstboot.bounds import Complaints
from firstboot.calls import Call, CallError
from firstboot.framing import Response
from firstboot.greeting import You, addressed
from firstboot.model import Claim, Contact, Grant, Hello
from firstboot.nodeconfig import NodeConfig, Peer
from firstboot.notes import Outcome
from firstboot.permit import PermitError
from firstboot.rhythm import Calls
from firstboot.wire import Reply, WireError

HELLO_PATIENCE = 4.0  # seconds, from the connection to the answer's last byte
JOIN_PATIENCE = 12.0  # the leader takes up to bounds.Limits.answer
_MOST_AT_ONCE = 16


class _Line:
    """What goes on with one peer. `calls` and `contact` are changed under the lock only.

    `told`: what this node said of itself last. `telling`: the call under way says that it is new.
    `kept`: the channel of the last call, and `fd` of whichever channel there is.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.calls = Calls()
        self.contact: Optional[Contact] = None
        self.told: Optional[Hello] = None
        self.telling = False
        self.kept: Optional[tls.Channel] = None
        self.call: Optional[Call] = None
        self.fd = -1


class Peers:
    """The roster's other nodes. `wake` is called, in the thread, when one says something new.

    `log` takes a line without a secret. `interrupt`: a file descriptor; once it can be read, join
    and joined give up.
    """

    def __init__(
        self,
        config: NodeConfig,
        context: ssl.SSLContext,
        *,
        log: Callable[[str], None],
        wake: Callable[[], None],
        port: int = wire.PORT,
        interrupt: Optional[int] = None,
    ) -> None:
        self._config = config
        self._context = context
        self._log = log
        self._wake = wake
        self._port = port
        self._interrupt = interrupt
        self._complaints = Complaints()
        self._lock = threading.Lock()
        others = [peer for peer in config.roster if peer.name != config.name]
        self._lines = {peer.name: _Line(peer) for peer in others}
        self._mood = rhythm.FORMING
        self._chartered: Dict[str, int] = {}
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._pull = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._pull, False)
        self._selector.register(self._bell, tls.READ)
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    # --- for the main loop ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def runs(self) -> bool:
        """Whether its thread is there, as it should be until it is closed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop calling."""
        self._closing = True
        self._ring()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        for line in self._lines.values():
            self._hang_up(line)
        self._selector.close()
        os.close(self._bell)
        os.close(self._pull)

    def contacts(self) -> Dict[str, Contact]:
        """Give what is known of every peer that was called, by name."""
        with self._lock:
            return {name: line.contact for name, line in self._lines.items() if line.contact}

    def follow(self, hello: Hello, *, you: Mapping[str, You]) -> None:
        """Call in the rhythm of a node that says this; who leads tells everybody what is new.

        `you` is what `Server.publish` was given.
        """
        mood = rhythm.mood(hello)
        changed = mood != self._mood
        self._mood = mood
        with self._lock:
            for name, line in self._lines.items():
                said = addressed(hello, you, name)
                if mood == rhythm.LEADING and rhythm.news(line.told, said):
                    line.calls = replace(line.calls, news=True)
                    changed = True
                line.told = said
        if changed:
            self._ring()

    def heard(self, name: str, news: bool) -> None:
        """A peer called here: it lives, or has news; then it is called at once."""
        line = self._lines.get(name)
        if line is None:
            return
        with self._lock:
            silent = line.contact is None or line.contact.silent_since is not None
            if not (news or silent) or line.calls.poked:
                return
            line.calls = replace(line.calls, poked=True)
        self._ring()

    def ask_join(self, name: str) -> Outcome:
        """Ask a leader for a worker token; waits up to JOIN_PATIENCE."""
        return self._ask(name, wire.JOIN, wire.dump_join())

    def report_joined(self, name: str, node_id: str) -> Outcome:
        """Tell a leader which swarm node this is; waits up to JOIN_PATIENCE."""
        return self._ask(name, wire.JOINED, wire.dump_joined(node_id))

    def _ask(self, name: str, target: str, body: bytes) -> Outcome:
        line = self._lines.get(name)
        if line is None:
            return Outcome(failure="%s is not in this card's roster" % name)
        try:
            reply = self._reply(line.peer, target, body)
        except (CallError, WireError) as error:
            return Outcome(failure="%s: %s" % (name, error))
        # What the leader says of this node has just changed.
        self.heard(reply.leader or name, True)
        if not reply.token:
            return Outcome(reply.status, reply.why)
        now = time.monotonic()
        grant = Grant(reply.token, reply.address, reply.swarm_id, reply.epoch, at=now)
        return Outcome(reply.status, reply.why, grant)

    def _reply(self, peer: Peer, target: str, body: bytes) -> Reply:
        request = framing.request("POST", target, body, host=peer.name)
        call = self._call(peer, request, patience=JOIN_PATIENCE)
        response = calls.finish(call, interrupt=self._interrupt)
        if call.proved is None or call.proved.role != "manager":
            raise WireError("its certificate is not a manager's")
        reply = wire.parse_reply(response.body)
        if reply.token and target != wire.JOIN:
            raise WireError("a token that nobody asked for")
        if reply.status == "granted" and target == wire.JOIN and not reply.token:
            raise WireError("granted, but without a token")
        return reply

    def _call(
        self, peer: Peer, request: bytes, *, patience: float, kept: Optional[tls.Channel] = None
    ) -> Call:
        return Call(
            peer,
            request,
            context=self._context,
            cluster=self._config.cluster,
            port=self._port,
            deadline=time.monotonic() + patience,
            kept=kept,
        )

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - nobody is there to start the service again
                self._log(traceback.format_exc().rstrip())
                for line in self._lines.values():
                    self._hang_up(line)
                time.sleep(1.0)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._begin_due()):
            if isinstance(key.data, _Line):
                self._advance(key.data)
            else:
                self._drain()
        now = time.monotonic()
        for line in self._lines.values():
            if line.call and line.call.deadline <= now:
                self._hang_up(line)
                self._failed(line, "no answer in time")

    def _begin_due(self) -> Optional[float]:
        """Begin the calls that are due; give how long nothing else is, None for ever."""
        now = time.monotonic()
        busy = [line.call.deadline for line in self._lines.values() if line.call]
        waits = list(busy)
        for line in self._waiting():
            due = rhythm.due(self._config.name, line.peer, mood=self._mood, calls=line.calls)
            if due is None:
                continue
            if due > now:
                waits.append(due)
            elif len(busy) < _MOST_AT_ONCE:
                self._begin(line, now)
                busy.append(now + HELLO_PATIENCE)
                waits.append(now + HELLO_PATIENCE)
        return max(0.0, min(waits) - now) if waits else None

    def _waiting(self) -> List[_Line]:
        """The lines without a call; who was called longest ago first."""
        idle = [line for line in self._lines.values() if not line.call]
        return sorted(idle, key=lambda line: line.calls.begun)

    def _begin(self, line: _Line, now: float) -> None:
        with self._lock:
            line.telling = line.calls.news
            number = line.calls.number + 1
            line.calls = replace(line.calls, begun=now, number=number, poked=False, news=False)
        self._dial(line)

    def _dial(self, line: _Line) -> None:
        target = wire.NEWS if line.telling else wire.HELLO
        request = framing.request("GET", target, host=line.peer.name)
        kept, line.kept = line.kept, None
        try:
            line.call = self._call(line.peer, request, patience=HELLO_PATIENCE, kept=kept)
        except CallError as error:
            self._failed(line, str(error))
            return
        if not kept:
            line.fd = line.call.channel.fileno()
            self._selector.register(line.fd, tls.WRITE, line)
        self._selector.modify(line.fd, line.call.channel.wants, line)

    def _advance(self, line: _Line) -> None:
        call = line.call
        if call is None:
            # The peer closed a line that nobody was using.
            self._hang_up(line)
            return
        try:
            done = call.advance()
        except CallError as error:
            self._hang_up(line)
            if call.reused:
                # It may have been closed before this call; only a new line tells.
                self._dial(line)
            else:
                self._failed(line, str(error))
            return
        self._selector.modify(line.fd, call.channel.wants, line)
        if done and call.response and call.proved:
            line.call, line.kept = None, call.channel
            self._answered(line, call.response, call.proved)
            if call.response.last:
                self._hang_up(line)

    def _answered(self, line: _Line, response: Response, proved: Claim) -> None:
        try:
            hello = self._judge(response, proved, before=line.contact)
        except (WireError, PermitError) as error:
            self._failed(line, str(error))
            return
        before = line.contact
        with self._lock:
            line.contact = Contact(hello, time.monotonic())
            line.calls = replace(line.calls, failures=0)
        silent = before is None or before.silent_since is not None
        if silent or rhythm.news(before.hello if before else None, hello):
            self._wake()

    def _judge(self, response: Response, proved: Claim, *, before: Optional[Contact]) -> Hello:
        if response.status != 200:
            raise WireError("hello: answers with HTTP %d" % response.status)
        hello = wire.parse_hello(response.body)
        newest = before.hello.generation if before and before.hello else 0
        wire.vouch(hello, proved, newest=newest)
        if hello.quorum and hello.swarm_epoch > self._charter(hello):
            raise WireError("hello: the operator did not allow epoch %d" % hello.swarm_epoch)
        return hello

    def _charter(self, hello: Hello) -> int:
        """The epoch that its charter allows; a check takes some 10 ms on a Pi, so it is kept."""
        if not hello.swarm_epoch:
            return 0
        if self._chartered.get(hello.charter, 0) == 0:
            epoch = permit.verify_charter(
                hello.charter, modulus=self._config.permit_key, cluster=self._config.cluster
            )
            self._chartered = {hello.charter: epoch}
        return self._chartered[hello.charter]

    def _failed(self, line: _Line, why: str) -> None:
        """It counts as silent, whatever came instead of an answer."""
        now = time.monotonic()
        before = line.contact or Contact(None, 0.0)
        with self._lock:
            failures = line.calls.failures + 1
            news = line.calls.news or line.telling
            line.calls = replace(line.calls, failures=failures, news=news)
            if before.silent_since is None:
                line.contact = replace(before, silent_since=now)
        line.telling = False
        if before.silent_since is None:
            told = self._complaints.about(line.peer.name, why, now=now)
            if told:
                self._log("hello of " + told)
            self._wake()

    def _hang_up(self, line: _Line) -> None:
        channel = line.call.channel if line.call else line.kept
        line.call = line.kept = None
        if channel is not None:
            self._selector.unregister(line.fd)
            channel.close()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._pull, b"x")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, 4096):
                pass
