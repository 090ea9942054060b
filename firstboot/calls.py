"""One request to one peer, over a new or a kept connection, without waiting. Shell.

The other end has to prove that it is the node that was called; what it answers is not judged here.
"""

from __future__ import annotations

import os
import select
import ssl
import time
from typing import Optional

from firstboot import framing, tls, wire
from firstboot.framing import Response
from firstboot.model import Claim
from firstboot.nodeconfig import Peer

_CHUNK = 4096


class CallError(Exception):
    """A peer did not answer, or somebody else did. The message is one line without a secret."""


class Call:
    """A request under way. `deadline` is on the monotonic clock and for all of it.

    `kept` is an open channel to the peer from an earlier call, if there is one.
    """

    def __init__(
        self,
        peer: Peer,
        request: bytes,
        *,
        context: ssl.SSLContext,
        cluster: str,
        port: int,
        deadline: float,
        kept: Optional[tls.Channel] = None,
    ) -> None:
        self.peer = peer
        self.deadline = deadline
        self.response: Optional[Response] = None
        self.proved: Optional[Claim] = None
        self.reused = kept is not None
        self._cluster = cluster
        self._outbox = request
        self._inbox = b""
        host = wire.host_name(peer.name, cluster=cluster)
        try:
            self.channel = kept or tls.connecting(peer.address, port, context, host=host)
        except OSError as error:
            raise CallError(_in_words(error)) from None
        if kept:
            self.channel.wants = tls.WRITE

    def advance(self) -> bool:
        """Go on; true once `response` and `proved` are there. CallError if that cannot be."""
        try:
            return self._advance()
        except OSError as error:
            raise CallError(_in_words(error)) from None
        except ValueError as error:
            raise CallError(wire.line(str(error))) from None

    def _advance(self) -> bool:
        if not self.channel.established():
            return False
        if self.proved is None:
            # TLS checked that its DNS name is the peer's; here, that the rest agrees with that.
            self.proved = wire.claim(self.channel.certificate(), cluster=self._cluster)
        while self._outbox:
            sent = self.channel.write(self._outbox)
            if not sent:
                return False
            self._outbox = self._outbox[sent:]
        while True:
            data = self.channel.read(_CHUNK)
            if data is None:
                return False
            if not data:
                raise CallError("hung up")
            self._inbox += data
            self.response = framing.read_response(self._inbox)
            if self.response:
                return True


def finish(call: Call, *, interrupt: Optional[int] = None) -> Response:
    """Wait for a call's response and close its channel. CallError also if `interrupt` has bytes."""
    try:
        while not call.advance() or call.response is None:
            _wait(call, interrupt)
        return call.response
    finally:
        call.channel.close()


def _wait(call: Call, interrupt: Optional[int]) -> None:
    left = call.deadline - time.monotonic()
    if left <= 0:
        raise CallError("no answer in time")
    poll = select.poll()
    wanted = select.POLLOUT if call.channel.wants == tls.WRITE else select.POLLIN
    poll.register(call.channel.fileno(), wanted)
    if interrupt is not None:
        poll.register(interrupt, select.POLLIN)
    if interrupt in [number for number, _ in poll.poll(left * 1000)]:
        raise CallError("interrupted")


def _in_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "not who it should be: %s" % error.verify_message
    if isinstance(error, ssl.SSLError):
        return "TLS: %s" % (error.reason or "broken off").lower().replace("_", " ")
    return os.strerror(error.errno) if error.errno else type(error).__name__
