"""A real HTTP server on 127.0.0.1 whose misbehaviour is data.

    with serve({"base.img.zip": content}, {"base.img.zip": Manner(cut=(1000,))}) as server:
        server.url("base.img.zip")

The manner's lists are used up one request at a time; after their end the server behaves.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import os
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Content = bytes | Path


@dataclass(frozen=True)
class Manner:
    """How one file is served.

    status: answered instead of the file, one per request.  retry_after: goes with them.
    cut: the connection is closed after that many bytes of the body, one per answered request.
    content_range: sent instead of the right one.  ignores_range: always 200 and everything.
    shift: where a range begins is off by that many bytes, and said so.
    short: a range ends after that many bytes, as a server may decide.
    ignores_if_range: goes on with whatever version there is now.
    extra_length: added to the Content-Length.  chunked, unsized: no Content-Length at all.
    pause: seconds before each `piece` bytes.  stall: seconds of silence, one per request.
    raw: sent as it is in place of an answer; `then` behind it for ever, each after the pause.
    coding: said to be the Content-Encoding.
    redirect: the Location to send them to.  etags: one per request, the last one stays.
    """

    status: tuple[int, ...] = ()
    retry_after: str | None = None
    cut: tuple[int, ...] = ()
    content_range: str | None = None
    ignores_range: bool = False
    ignores_if_range: bool = False
    shift: int = 0
    short: int | None = None
    extra_length: int = 0
    chunked: bool = False
    unsized: bool = False
    pause: float = 0.0
    piece: int = 1 << 16
    stall: tuple[float, ...] = ()
    raw: bytes | None = None
    then: bytes = b""
    coding: str | None = None
    redirect: str | None = None
    etags: tuple[str, ...] = ()
    validators: bool = True
    content_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Request:
    """What was asked."""

    name: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


@dataclass
class Server:
    """Files and manners may be changed while it runs; `requests` is what came so far."""

    base: str
    files: dict[str, Content]
    manners: dict[str, Manner]
    requests: list[Request] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def asked_for(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.name == name]

    def put(self, name: str, content: Content, manner: Manner | None = None) -> None:
        """Replace a file, and count its requests from the beginning."""
        self.files[name] = content
        self.manners[name] = manner or Manner()
        self.asked[name] = self.answered[name] = 0


@contextmanager
def serve(
    files: Mapping[str, Content] | Path,
    manners: Mapping[str, Manner] | None = None,
    *,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[Server]:
    """Serve files by name, or a directory's as they are now. `tls`: certificate and key."""
    if isinstance(files, Path):
        files = {p.name: p for p in files.iterdir() if p.is_file()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as listener:
        listener.daemon_threads = True
        listener.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        scheme = "https" if tls else "http"
        base = f"{scheme}://127.0.0.1:{listener.server_address[1]}"
        server = Server(base, dict(files), dict(manners or {}))
        listener.served = server  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


def _take(values: tuple, number: int, default: object) -> object:
    return values[number] if number < len(values) else default


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked is in Server.requests."""

    def do_GET(self) -> None:
        # An absolute URI comes from a client that takes us for its proxy.
        path = re.sub(r"^https?://[^/]*", "", self.path).partition("?")[0]
        name = path.lstrip("/")
        server: Server = self.server.served  # type: ignore[attr-defined]
        number = server.asked[name]
        server.asked[name] += 1
        server.requests.append(Request(name, dict(self.headers.items())))
        manner = server.manners.get(name, Manner())
        time.sleep(float(str(_take(manner.stall, number, 0.0))))
        status = _take(manner.status, number, None)
        if isinstance(status, int):
            self._short(status, {"Retry-After": manner.retry_after} if manner.retry_after else {})
        elif manner.raw is not None:
            self._raw(manner.raw, manner)
        elif manner.redirect is not None:
            self._short(302, {"Location": manner.redirect})
        elif name not in server.files:
            self._short(404, {})
        else:
            self._file(server, name, manner)

    def _raw(self, answer: bytes, manner: Manner) -> None:
        self.close_connection = True
        self.wfile.write(answer)
        while manner.then:
            time.sleep(manner.pause)
            self.wfile.write(manner.then)

    def _short(self, status: int, headers: Mapping[str, str]) -> None:
        body = f"{status}\n".encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, server: Server, name: str, manner: Manner) -> None:
        number = server.answered[name]
        server.answered[name] += 1
        content = _Content(server.files[name])
        etags = manner.etags or (content.etag,)
        etag = etags[min(number, len(etags) - 1)]
        start, end, status = self._range(content, manner, etag=etag)
        self.send_response(status)
        if status == 206:
            true = f"bytes {start}-{end - 1}/{content.size}"
            self.send_header("Content-Range", manner.content_range or true)
        elif status == 416:
            self.send_header("Content-Range", f"bytes */{content.size}")
        if manner.validators:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", content.date)
        self.send_header("Content-Type", manner.content_type)
        if manner.coding is not None:
            self.send_header("Content-Encoding", manner.coding)
        if manner.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not manner.unsized:
            self.send_header("Content-Length", str(end - start + manner.extra_length))
        if manner.unsized:
            self.send_header("Connection", "close")
        self.end_headers()
        limit = _take(manner.cut, number, None)
        self._body(content, start, end, limit if isinstance(limit, int) else None, manner)
        if limit is not None or manner.extra_length > 0:
            self.close_connection = True

    def _range(self, content: _Content, manner: Manner, *, etag: str) -> tuple[int, int, int]:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        stale = condition is not None and condition not in (etag, content.date)
        if not match or manner.ignores_range or (stale and not manner.ignores_if_range):
            return 0, content.size, 200
        start = int(match[1]) + manner.shift
        end = content.size if manner.short is None else min(content.size, start + manner.short)
        return (0, 0, 416) if start >= content.size else (start, end, 206)

    def _body(
        self, content: _Content, start: int, end: int, limit: int | None, manner: Manner
    ) -> None:
        end = end if limit is None else min(end, start + limit)
        while start < end:
            if manner.pause:
                time.sleep(manner.pause)
            piece = content.read(start, min(manner.piece, end - start))
            start += len(piece)
            if manner.chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)
        if manner.chunked and limit is None:
            self.wfile.write(b"0\r\n\r\n")


class _Content:
    """Bytes or a file, with its size and validators."""

    def __init__(self, content: Content) -> None:
        self._content = content
        if isinstance(content, bytes):
            self.size = len(content)
            self.etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            self.date = "Thu, 02 Jul 2020 12:00:00 GMT"
        else:
            info = os.stat(content)
            self.size = info.st_size
            self.etag = f'"{info.st_mtime_ns:x}-{info.st_size:x}"'
            self.date = email.utils.formatdate(info.st_mtime, usegmt=True)

    def read(self, start: int, size: int) -> bytes:
        if isinstance(self._content, bytes):
            return self._content[start : start + size]
        with self._content.open("rb") as file:
            file.seek(start)
            return file.read(size)
