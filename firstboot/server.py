"""The join service: who calls is proved by TLS, every bound is kept, and nothing is decided. Shell.

One thread, no waiting: hello is answered from what the main loop published last, join and joined
wait as open asks until the main loop answers them, or until it took too long.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import selectors
import socket
import ssl
import threading
import time
import traceback
from dataclasses import replace
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from firstboot import framing, tls, wire
from firstboot.bounds import LIMITS, Allowance, Caller, Complaints, Limits, surplus
from firstboot.framing import FramingError, Request
from firstboot.greeting import You, addressed
from firstboot.model import Ask, Claim, Hello
from firstboot.wire import Reply, WireError

# The kernel takes net.core.somaxconn if that is less; a call that finds no place in it comes again
# after a second.
_BACKLOG = 4096
_ACCEPTS = 256  # in a row, before the others have their turn
_CHUNK = 4096
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_METHODS = {wire.HELLO: "GET", wire.NEWS: "GET", wire.JOIN: "POST", wire.JOINED: "POST"}
_BUSY = Reply("later", "this node is busy")


class _Connection(Caller):
    """A caller with what it said and what it has not been told yet."""

    def __init__(self, channel: tls.Channel, source: str, *, now: float, deadline: float) -> None:
        super().__init__(source, since=now)
        self.channel = channel
        self.fd = channel.fileno()
        self.deadline = deadline
        self.inbox = b""
        self.outbox = b""
        self.last = False
        self.watched = False
        self.gone = False


class Server:
    """The service on one port of all addresses, or of one.

    `wake` is called when the main loop should look: an ask is open. `heard(name, news)` is called
    when somebody said hello, and with news, if it is a manager that has some. Both are called in
    the service's thread and must not wait. `log` takes a line without a secret.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        cluster: str,
        log: Callable[[str], None],
        wake: Callable[[], None],
        heard: Callable[[str, bool], None],
        address: str = "",
        port: int = wire.PORT,
        limits: Limits = LIMITS,
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._wake = wake
        self._heard = heard
        self._limits = limits
        self._log = log
        self._complaints = Complaints()
        self._allowance = Allowance(every=limits.ask, burst=limits.asks_in_a_row)
        self._lock = threading.Lock()
        self._asks: Dict[int, Ask] = {}
        self._replies: List[Tuple[int, Reply]] = []
        self._snapshot: Optional[Tuple[Hello, Mapping[str, You], float]] = None
        self._numbers = itertools.count(1)
        self._connections: Dict[int, _Connection] = {}
        self._accept_at: Optional[float] = None
        self._closing = False
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((address, port))
            self._listener.listen(_BACKLOG)
            self._listener.setblocking(False)
        except OSError:
            self._listener.close()
            raise
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, tls.READ)
        self._bell, self._pull = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._pull, False)
        self._selector.register(self._bell, tls.READ)
        self._thread = threading.Thread(target=self._run, name="join", daemon=True)

    # --- for the main loop ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def runs(self) -> bool:
        """Whether its thread is there, as it should be until it is closed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop serving: open asks stay without an answer."""
        self._closing = True
        self._ring()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        self._listener.close()
        os.close(self._bell)
        os.close(self._pull)

    def publish(self, hello: Hello, *, you: Mapping[str, You]) -> None:
        """Set what hello is answered with, for `Limits.snapshot` seconds.

        `you` maps a name to the swarm node id that it is bound to. `time` and `you` of the hello
        are filled in anew for each caller. WireError if it cannot be said over the wire.
        """
        wire.dump_hello(hello)
        self._snapshot = (hello, dict(you), time.monotonic())

    def asks(self) -> Tuple[Ask, ...]:
        """Give the open asks, the oldest first."""
        with self._lock:
            return tuple(self._asks[number] for number in sorted(self._asks))

    def answer(self, number: int, reply: Reply) -> bool:
        """Answer an ask; false if it is not open any more, and nothing was sent."""
        wire.dump_reply(reply)
        with self._lock:
            if self._asks.pop(number, None) is None:
                return False
            self._replies.append((number, reply))
        self._ring()
        return True

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - nobody is there to start the service again
                self._log(traceback.format_exc().rstrip())
                for connection in list(self._connections.values()):
                    self._drop(connection)
                time.sleep(1.0)

    def _turn(self) -> None:
        now = time.monotonic()
        deadlines = [one.deadline for one in self._connections.values()]
        if self._accept_at is not None:
            deadlines.append(self._accept_at)
        timeout = max(0.0, min(deadlines) - now) if deadlines else None
        ready = [key for key, _ in self._selector.select(timeout)]
        # Who is in already goes first: who comes in may push others out.
        for key in ready:
            if isinstance(key.data, _Connection) and not key.data.gone:
                self._advance(key.data)
        for key in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj == self._bell:
                _drain(self._bell)
        self._deliver()
        self._expire(time.monotonic())

    def _ring(self) -> None:
        # If it blocks, it is full of rings already.
        with contextlib.suppress(BlockingIOError):
            os.write(self._pull, b"x")

    def _complain(self, source: str, why: str) -> None:
        line = self._complaints.about(source, why, now=time.monotonic())
        if line:
            self._log("join service: refused " + line)

    def _accept(self) -> None:
        """Take the calls that wait; who has to go at once costs next to nothing."""
        now = time.monotonic()
        new = []
        for plain, source in self._calls():
            channel = tls.accepted(plain, self._context)
            deadline = now + self._limits.handshake
            new.append(_Connection(channel, source, now=time.monotonic(), deadline=deadline))
        self._connections.update((one.fd, one) for one in new)
        self._make_room()
        for one in new:
            if not one.gone:
                self._selector.register(one.fd, tls.READ, one)
                one.watched = True

    def _calls(self) -> Iterator[Tuple[socket.socket, str]]:
        for _ in range(_ACCEPTS):
            try:
                plain, (source, _port) = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Other errors are those of a caller that went away meanwhile (accept(2)).
                if error.errno in _OUT_OF:
                    self._complain("all", "cannot take calls: %s" % error.strerror)
                    self._selector.unregister(self._listener)
                    self._accept_at = time.monotonic() + 1.0
                    return
            else:
                yield plain, source

    def _make_room(self) -> None:
        for extra in surplus(list(self._connections.values()), self._limits):
            self._complain(extra.source, "too many connections")
            self._drop(extra)

    def _drop(self, connection: _Connection) -> None:
        connection.gone = True
        if self._accept_at is not None:
            self._accept_at = time.monotonic()  # There is a file to spare now.
        if connection.ask is not None:
            with self._lock:
                self._asks.pop(connection.ask, None)
        self._connections.pop(connection.fd, None)
        if connection.watched:
            self._selector.unregister(connection.fd)
        connection.channel.close()

    def _expire(self, now: float) -> None:
        if self._accept_at is not None and self._accept_at <= now:
            self._accept_at = None
            self._selector.register(self._listener, tls.READ)
        for connection in list(self._connections.values()):
            if connection.deadline > now:
                continue
            if connection.ask is not None:
                self._settle([connection.ask], _BUSY)
                continue
            if not connection.claim or connection.inbox or connection.outbox:
                self._complain(connection.source, "too slow")
            self._drop(connection)

    def _advance(self, connection: _Connection) -> None:
        """Do what can be done for a caller without waiting."""
        try:
            if not connection.claim:
                self._prove(connection)
            if connection.claim and not connection.gone:
                self._talk(connection, connection.claim)
        except WireError as error:
            self._complain(connection.source, str(error))
            self._drop(connection)
        except (OSError, ValueError) as error:
            if not connection.claim and _is_refusal(error):
                self._complain(connection.source, _in_words(error))
            self._drop(connection)
        if not connection.gone:
            self._selector.modify(connection.fd, connection.channel.wants, connection)

    def _prove(self, connection: _Connection) -> None:
        if connection.channel.established():
            certificate = connection.channel.certificate()
            connection.claim = wire.claim(certificate, cluster=self._cluster)
            connection.since = time.monotonic()
            connection.deadline = connection.since + self._limits.request
            self._make_room()

    def _talk(self, connection: _Connection, claim: Claim) -> None:
        while not connection.outbox:
            data = connection.channel.read(_CHUNK)
            if data is None:
                return
            # While it waits for an answer, a caller has nothing to say.
            if not data or connection.ask is not None:
                self._drop(connection)
                return
            self._hear(connection, claim, data)
        sent = connection.channel.write(connection.outbox)
        connection.outbox = connection.outbox[sent:]
        if not connection.outbox:
            connection.deadline = time.monotonic() + self._limits.idle
            if connection.last:
                self._drop(connection)

    def _hear(self, connection: _Connection, claim: Claim, data: bytes) -> None:
        now = time.monotonic()
        if not connection.inbox:
            connection.since = now
            connection.deadline = now + self._limits.request
        connection.inbox += data
        try:
            request = framing.read_request(connection.inbox)
            if request:
                connection.inbox = b""
                connection.last = request.last
                self._route(connection, claim, request, now)
        except FramingError as error:
            self._complain(connection.source, "%s: %s" % (claim.name, error))
            connection.last = True
            self._reply(connection, error.status, wire.dump_reply(Reply("refused", str(error))))

    # --- requests -------------------------------------------------------------------------------

    def _route(self, connection: _Connection, claim: Claim, request: Request, now: float) -> None:
        method = _METHODS.get(request.target)
        if method is None:
            raise FramingError(404, "there is no such thing here")
        if request.method != method:
            raise FramingError(405, "%s is for %s" % (request.target, method))
        try:
            if request.target == wire.JOIN:
                wire.parse_join(request.body)
                self._park(connection, Ask(0, "join", claim, now))
            elif request.target == wire.JOINED:
                node_id = wire.parse_joined(request.body)
                self._park(connection, Ask(0, "joined", claim, now, node_id))
            else:
                self._hello(connection, claim, now)
                self._heard(claim.name, request.target == wire.NEWS and claim.role == "manager")
        except WireError as error:
            raise FramingError(400, str(error)) from None

    def _hello(self, connection: _Connection, claim: Claim, now: float) -> None:
        snapshot = self._snapshot
        if snapshot is None or now - snapshot[2] > self._limits.snapshot:
            self._reply(connection, 503, wire.dump_reply(_BUSY))
            return
        hello, you, _at = snapshot
        hello = replace(addressed(hello, you, claim.name), time=time.time())
        self._reply(connection, 200, wire.dump_hello(hello))

    def _park(self, connection: _Connection, ask: Ask) -> None:
        if not self._allowance.take(_who(ask), now=ask.at):
            self._complain(connection.source, "%s asks too often" % ask.claim.name)
            self._later(connection, "%s asks too often" % ask.claim.name)
            return
        number = next(self._numbers)
        with self._lock:
            same = [n for n, one in self._asks.items() if _who(one) == _who(ask)]
            full = len(self._asks) - len(same) >= self._limits.asks
            if not full:
                self._asks[number] = replace(ask, number=number)
        self._settle(same, Reply("later", "asked again"))
        if full:
            self._later(connection, "too many ask at once")
            return
        connection.ask = number
        connection.deadline = ask.at + self._limits.answer
        self._wake()

    def _later(self, connection: _Connection, why: str) -> None:
        self._reply(connection, 503, wire.dump_reply(Reply("later", why)))

    def _deliver(self) -> None:
        with self._lock:
            replies, self._replies = self._replies, []
        for number, reply in replies:
            self._settle([number], reply)

    def _settle(self, numbers: Sequence[int], reply: Reply) -> None:
        """Answer whoever waits for one of these."""
        for connection in list(self._connections.values()):
            asked = connection.ask
            if asked is not None and asked in numbers:
                with self._lock:
                    self._asks.pop(asked, None)
                connection.ask = None
                status = 503 if reply.status == "later" else 200
                self._reply(connection, status, wire.dump_reply(reply))
                self._advance(connection)

    def _reply(self, connection: _Connection, status: int, body: bytes) -> None:
        connection.deadline = time.monotonic() + self._limits.send
        connection.outbox = framing.response(status, body, last=connection.last)


def _who(ask: Ask) -> Tuple[str, int]:
    """A card: it does one thing at a time, so what it asked before does not matter to it."""
    return ask.claim.name, ask.claim.generation


def _is_refusal(error: Exception) -> bool:
    """One of the two sides did not want the other; not a line that broke."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "not a certificate of this cluster: %s" % error.verify_message
    reason = getattr(error, "reason", "") or type(error).__name__
    return "no TLS of this cluster: %s" % reason.lower().replace("_", " ")


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
