"""Servers that answer with what no server should: one error that names the address, soon."""

from __future__ import annotations

import gzip
import resource
import time
import zlib
from dataclasses import replace

import pytest

from flasher.errors import DownloadError
from flasher.images import Trust
from tests.support.downloads import DATA, DIGEST, FAST, NAME, SUM, Home, assert_right
from tests.support.fileserver import Manner, Server, serve

DIGITS = b"9" * 5000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: "


@pytest.mark.parametrize(
    "raw",
    [
        FOUND + b"http://127.0.0.1/\xff\xfe\r\n\r\n",
        FOUND + b"http://[::bad/\r\n\r\n",
        FOUND + b"http://127.0.0.1:abc/\r\n\r\n",
        FOUND + b"http://127.0.0.1:99999/\r\n\r\n",
        FOUND + b"http://" + b"a" * 70 + b".invalid/\r\n\r\n",
        FOUND + b"file:///etc/passwd\r\n\r\n",
        FOUND + b"\r\n\r\n",
        OK + b"Content-Length: " + DIGITS + b"\r\n\r\nimage",
        OK + b"Content-Length: -5\r\n\r\nimage",
        OK + b"Content-Length: 5, 6\r\n\r\nimage",
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-" + DIGITS + b"/*\r\n\r\nimage",
        b"HTTP/1.1 503 X\r\nRetry-After: " + DIGITS + b"\r\n\r\n",
        CHUNKED + b"-5\r\nabc",
        CHUNKED + b"-1\r\nabc",
        CHUNKED + b"ZZZ\r\nabc",
        CHUNKED + b"f" * 40 + b"\r\nabc",
    ],
)
def test_answer_that_makes_no_sense_is_one_error(home: Home, server: Server, raw: bytes) -> None:
    server.put(NAME, DATA, Manner(raw=raw))
    with pytest.raises(DownloadError) as caught:
        home.resolve(server.url(NAME))
    assert server.url(NAME) in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert NAME not in home.left()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_body_of_a_redirect_is_not_read(home: Home, server: Server, code: int) -> None:
    head = f"HTTP/1.1 {code} X\r\nLocation: /fine.img\r\n\r\n".encode()
    server.put("fine.img", DATA)
    server.put(NAME, b"", Manner(raw=head, then=b"x" * 65_536))
    begin = time.monotonic()
    assert_right(home.resolve(server.url(NAME)))
    assert time.monotonic() - begin < 5


def test_packed_body_of_a_redirect_is_not_unpacked(home: Home, server: Server) -> None:
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    head = b"HTTP/1.1 302 Found\r\nLocation: /fine.img\r\nContent-Encoding: gzip\r\n\r\n"
    server.put("fine.img", DATA)
    server.put(NAME, b"", Manner(raw=head + bomb))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_right(home.resolve(server.url(NAME)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_redirects_that_take_too_long_are_given_up(home: Home, server: Server) -> None:
    server.put(NAME, b"", Manner(redirect="/" + NAME, stall=(0.2,) * 99))
    with pytest.raises(DownloadError, match="redirected for more than"):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=2, answer_within=0.5))
    assert len(server.asked_for(NAME)) <= 6


@pytest.mark.parametrize(("absolute", "kept"), [("", True), ("same", True), ("other", False)])
def test_login_is_for_its_own_server_only(
    absolute: str, kept: bool, home: Home, server: Server
) -> None:
    with serve({"fine.img": DATA}) as other:
        bases = {"": "", "same": server.base, "other": other.base}
        server.put("fine.img", DATA)
        server.put(NAME, b"", Manner(redirect=bases[absolute] + "/fine.img"))
        assert_right(home.resolve(server.url(NAME).replace("//", "//me:secret@")))
        asked = (server.asked_for("fine.img") + other.asked_for("fine.img"))[0]
    assert ("Authorization" in asked.headers) == kept


def test_checksum_file_that_trickles_is_given_up(home: Home, server: Server) -> None:
    head = OK + b"Content-Length: 60000\r\n\r\n"
    server.put(SUM, b"", Manner(raw=head, then=b"1", pause=0.05))
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="not complete within"):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=2, answer_within=0.3))
    assert time.monotonic() - begin < 5


def test_download_that_trickles_is_given_up(home: Home, server: Server) -> None:
    head = OK + b"Content-Length: 60000\r\n\r\n"
    server.put(NAME, b"", Manner(raw=head, then=b"1", pause=0.02))
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"only \d+ bytes came in .*after 2 attempts"):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=2, rate_window=0.3))
    assert time.monotonic() - begin < 5


def test_download_after_one_that_trickled_goes_on(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(pause=0.1, piece=100))
    slow = replace(FAST, attempts=2, rate_window=0.3, least_rate=1 << 16)
    with pytest.raises(DownloadError, match="bytes came in"):
        home.resolve(server.url(NAME), retry=slow)
    server.put(NAME, DATA)
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range is not None


def test_answers_of_a_few_bytes_each_are_given_up(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(cut=(20_000,), short=50))
    with pytest.raises(DownloadError, match="after 4 attempts"):
        home.resolve(server.url(NAME))
    assert len(server.asked_for(NAME)) == FAST.attempts


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("coding", ["gzip", "br", "x-unknown"])
def test_answer_packed_for_the_way_is_refused(
    home: Home, server: Server, coding: str, published: bool
) -> None:
    if published:
        server.put(SUM, DIGEST.encode())
    server.put(NAME, gzip.compress(DATA, 1), Manner(coding=coding))
    with pytest.raises(DownloadError, match=f"packed \\('{coding}'\\)"):
        home.resolve(server.url(NAME))
    assert home.left() == []
    assert server.asked_for(NAME)[0].headers["Accept-Encoding"] == "identity"


def test_stored_file_that_a_server_calls_packed_is_what_it_is(home: Home, server: Server) -> None:
    stored = gzip.compress(DATA, 1)
    for coding, name in (("gzip", "a.img.gz"), ("x-gzip", "b.img.gz"), ("identity", "c.img")):
        server.put(name, stored, Manner(coding=coding))
        assert_right(home.resolve(server.url(name)), stored)


def test_checksum_file_with_a_byte_order_mark_counts(home: Home, server: Server) -> None:
    server.put(SUM, f"\ufeff{DIGEST}\t{NAME}\r\n".encode())
    assert home.resolve(server.url(NAME)).trust is Trust.CHECKSUM_FILE
