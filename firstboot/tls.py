"""TLS between the nodes of one cluster: two contexts, and a channel that never blocks. Shell.

Who is at the other end is said by its certificate alone; what it may do is not decided here.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from typing import Any, Callable, Dict, Optional

from firstboot.nodeconfig import CA_PEM, NODE_KEY, NODE_PEM

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


def server_context(directory: str) -> ssl.SSLContext:
    """Give the context of the join service from an identity directory (ca.pem, node.pem, node.key).

    OSError (ssl.SSLError) if those cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, directory)


def client_context(directory: str) -> ssl.SSLContext:
    """Give the context for calls to peers; it checks the name that the server's certificate has."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, directory)
    context.check_hostname = True
    # Python 3.7: else a certificate without DNS names could be of its CN.
    context.hostname_checks_common_name = False
    return context


def _context(protocol: int, directory: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # Both ends are ours, so the newest will do. 1.2 would keep the sessions of callers that refuse
    # tickets in a cache of 20,480 entries, and Python 3.7 cannot turn that off.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(os.path.join(directory, CA_PEM))
    # With no password given, OpenSSL would ask the terminal for that of an encrypted key.
    context.load_cert_chain(
        os.path.join(directory, NODE_PEM), os.path.join(directory, NODE_KEY), password=""
    )
    return context


class Channel:
    """A socket that becomes a TLS connection. Every method may raise OSError, ssl.SSLError too.

    `wants` is what to wait for (READ or WRITE) before the next call of any method.
    """

    def __init__(
        self, plain: socket.socket, *, wants: int, secure: Callable[[socket.socket], ssl.SSLSocket]
    ) -> None:
        plain.setblocking(False)
        # Small messages both ways: Nagle's algorithm and delayed acknowledgements would add 40 ms.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wants = wants
        self._plain = plain
        self._secure = secure
        self._tls: Optional[ssl.SSLSocket] = None
        self._done = False

    def fileno(self) -> int:
        """Give the file descriptor, which stays the same."""
        return (self._tls or self._plain).fileno()

    def established(self) -> bool:
        """Go on with connecting and with the handshake; true once both are done."""
        if self._done:
            return True
        if self._tls is None:
            code = self._plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            # A caller that never says a word costs no TLS object.
            self._tls = self._secure(self._plain)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = READ
        except ssl.SSLWantWriteError:
            self.wants = WRITE
        else:
            self._done = True
            self.wants = READ
        return self._done

    def certificate(self) -> Dict[str, Any]:
        """Give the other side's certificate as `getpeercert()` does."""
        assert self._tls is not None  # noqa: S101 - for mypy; established() came first
        return dict(self._tls.getpeercert() or {})

    def read(self, most: int) -> Optional[bytes]:
        """Give what has come, b"" at the end, None if there is nothing yet."""
        assert self._tls is not None  # noqa: S101
        self.wants = READ
        try:
            return self._tls.recv(most)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self.wants = WRITE
            return None

    def write(self, data: bytes) -> int:
        """Give how many bytes of `data` went out; 0 if none can go yet."""
        assert self._tls is not None  # noqa: S101
        try:
            sent = self._tls.send(data)
        except ssl.SSLWantWriteError:
            self.wants = WRITE
            return 0
        except ssl.SSLWantReadError:
            self.wants = READ
            return 0
        self.wants = READ if sent == len(data) else WRITE
        return sent

    def close(self) -> None:
        """Close it, at once. What was sent before still arrives, if the peer sends no flood."""
        open_ = self._tls or self._plain
        try:
            # Linux answers a close with bytes unread by a reset, which overtakes a TLS alert.
            socket.socket.shutdown(open_, socket.SHUT_WR)
            socket.socket.recv(open_, 65536)
        except OSError:
            pass
        open_.close()


def accepted(plain: socket.socket, context: ssl.SSLContext) -> Channel:
    """Give the channel of a socket that a listener accepted."""

    def secure(sock: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    return Channel(plain, wants=READ, secure=secure)


def connecting(address: str, port: int, context: ssl.SSLContext, *, host: str) -> Channel:
    """Begin to connect to a server whose certificate must be of `host`; OSError if that fails."""

    def secure(sock: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)

    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        channel = Channel(plain, wants=WRITE, secure=secure)
        code = plain.connect_ex((address, port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except OSError:
        plain.close()
        raise
    return channel
