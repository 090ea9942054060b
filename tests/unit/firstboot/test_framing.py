from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot import framing
from firstboot.framing import MAX_MESSAGE, FramingError, Request, Response

bodies = st.binary(max_size=framing.MAX_BODY)


@given(bodies)
def test_a_request_comes_back_as_it_was(body: bytes) -> None:
    data = framing.request("POST", "/v1/join", body, host="pi1")
    assert framing.read_request(data) == Request("POST", "/v1/join", body, last=False)


@given(bodies, st.booleans())
def test_an_answer_comes_back_as_it_was(body: bytes, last: bool) -> None:
    data = framing.response(200, body, last=last)
    assert framing.read_response(data) == Response(200, body, last=last)


def test_a_message_is_whole_at_its_last_byte_and_not_before() -> None:
    data = framing.request("POST", "/v1/join", b"{}", host="pi1")
    assert [framing.read_request(data[:size]) for size in range(len(data))] == [None] * len(data)
    assert framing.read_request(data)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET  /v1/hello HTTP/1.1\r\n\r\n", 400),
        (b"get /v1/hello HTTP/1.1\r\n\r\n", 400),
        (b"GET v1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/hello HTTP/2.0\r\n\r\n", 400),
        (b"GET /v1/hello HTTP/1.1\n\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nA: x\r\na: y\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nContent-Length: \u0663\r\n\r\n".encode(), 400),
        (b"POST /a HTTP/1.1\r\nContent-Length: 4097\r\n\r\n", 413),
        (b"POST /a HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n", 400),
        (b"x" * 2048, 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(FramingError) as caught:
        framing.read_request(data)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_7.9p1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(FramingError):
        framing.read_response(data)


@pytest.mark.parametrize("first", ["HTTP/1.0", "HTTP/1.1"])
def test_who_speaks_the_old_http_or_says_so_gets_one_answer(first: str) -> None:
    close = "Connection: Close\r\n" if first == "HTTP/1.1" else ""
    got = framing.read_request(f"GET /v1/hello {first}\r\n{close}\r\n".encode())
    assert got
    assert got.last


@given(st.binary(max_size=3000))
def test_no_bytes_are_kept_beyond_the_bound(data: bytes) -> None:
    """More than MAX_MESSAGE is never waited for, whatever came first."""
    flood = data + b"x" * MAX_MESSAGE
    try:
        got = framing.read_request(flood)
    except FramingError:
        return
    assert got is not None
