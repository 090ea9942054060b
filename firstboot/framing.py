"""The little of HTTP/1.1 that nodes speak: one request, one answer, a length, no more. Pure.

http.server and http.client would do, but they take 3 MB, wait without a deadline in total and
accept far more than this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from firstboot.wire import MAX_BODY

MAX_HEAD = 2048
MAX_MESSAGE = MAX_HEAD + MAX_BODY

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_REQUEST = re.compile(r"([A-Z]{1,16}) (/[\x21-\x7e]{0,255}) HTTP/1\.([01])")
_RESPONSE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\x20-\x7e]{0,255})?")
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}):[ \t]*([\x20-\x7e\t]*)")
_LENGTH = re.compile(r"[0-9]{1,9}")


class FramingError(ValueError):
    """Not a message that this side reads; `status` is what HTTP calls that."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A whole request. `last`: the connection is to be closed after the answer."""

    method: str
    target: str
    body: bytes
    last: bool


@dataclass(frozen=True)
class Response:
    """A whole answer. `last`: the other side closes the connection after it."""

    status: int
    body: bytes
    last: bool


def request(method: str, target: str, body: bytes = b"", *, host: str) -> bytes:
    """Give the bytes of a request."""
    head = "%s %s HTTP/1.1\r\nHost: %s\r\n" % (method, target, host)
    if method != "GET":
        head += "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return head.encode("ascii") + b"\r\n" + body


def response(status: int, body: bytes, *, last: bool) -> bytes:
    """Give the bytes of an answer."""
    head = (
        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        "Cache-Control: no-store\r\n"
    ) % (status, REASONS[status], len(body))
    return (head + ("Connection: close\r\n" if last else "") + "\r\n").encode("ascii") + body


def read_request(data: bytes) -> Optional[Request]:
    """Give the request that `data` is, None while it has not all come. FramingError if it is none.

    Bytes behind it are an error: nobody here sends a second request before the first is answered.
    """
    parts = _head(data)
    if parts is None:
        return None
    first, headers, rest = parts
    found = _REQUEST.fullmatch(first)
    if not found:
        raise FramingError(400, "not an HTTP request")
    body = _body(headers, rest)
    if body is None:
        return None
    return Request(found.group(1), found.group(2), body, _last(found.group(3), headers))


def read_response(data: bytes) -> Optional[Response]:
    """Give the answer that `data` is, None while it has not all come. FramingError as above."""
    parts = _head(data)
    if parts is None:
        return None
    first, headers, rest = parts
    found = _RESPONSE.fullmatch(first)
    if not found or "content-length" not in headers:
        raise FramingError(400, "not an HTTP answer with a length")
    body = _body(headers, rest)
    if body is None:
        return None
    return Response(int(found.group(2)), body, _last(found.group(1), headers))


def _head(data: bytes) -> Optional[Tuple[str, Dict[str, str], bytes]]:
    """Give first line, headers by their names in lower case, and what comes behind."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise FramingError(431, "headers larger than %d bytes" % MAX_HEAD)
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers: Dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found or found.group(1).lower() in headers:
            raise FramingError(400, "a header is not one, or stands there twice")
        headers[found.group(1).lower()] = found.group(2).strip()
    if "transfer-encoding" in headers:
        raise FramingError(400, "a body without a length")
    return first, headers, data[end + 4 :]


def _body(headers: Dict[str, str], rest: bytes) -> Optional[bytes]:
    text = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(text):
        raise FramingError(400, "a length that is no number")
    if int(text) > MAX_BODY:
        raise FramingError(413, "a body larger than %d bytes" % MAX_BODY)
    if len(rest) > int(text):
        raise FramingError(400, "bytes behind the end")
    return rest if len(rest) == int(text) else None


def _last(minor: str, headers: Dict[str, str]) -> bool:
    return minor == "0" or headers.get("connection", "").lower() == "close"
