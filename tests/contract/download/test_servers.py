"""Images from a real HTTP server that misbehaves: the published file is used, or nothing."""

from __future__ import annotations

import datetime
import hashlib
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flasher.errors import DownloadError, ImageError
from flasher.images import Trust
from flasher.wire import Retry
from tests.support.downloads import (
    DATA,
    DIGEST,
    FAST,
    NAME,
    OTHER,
    SUM,
    Home,
    assert_right,
    entry,
)
from tests.support.fileserver import Manner, Server, serve
from tests.support.recorder import Recorder

# --- what goes well -----------------------------------------------------------------------------


def test_image_is_downloaded_and_told(home: Home, server: Server) -> None:
    progress = Recorder()
    found = home.resolve(server.url(NAME), progress=progress)
    assert_right(found)
    assert found.trust is Trust.FIRST_USE
    assert (found.image.id, found.image.profile, found.image.size) == (NAME, "hypriotos", None)
    assert progress.done[NAME] == progress.totals[NAME] == len(DATA)
    assert not progress.open


def test_catalogue_id_brings_its_size_and_checksum(home: Home, server: Server) -> None:
    server.put(SUM, f"{DIGEST}  {NAME}\n".encode())
    found = home.resolve("test-1", known=entry(server))
    assert_right(found)
    assert found.trust is Trust.CHECKSUM_FILE
    assert (found.image.id, found.image.size) == ("test-1", 512)


def test_image_in_the_cache_needs_no_network(home: Home, server: Server) -> None:
    url = server.url(NAME)
    first = home.resolve(url)
    asked = len(server.requests)
    for pinned, sha256, trust in (
        (None, None, Trust.FIRST_USE),
        (DIGEST, None, Trust.PINNED),
        (None, DIGEST.upper(), Trust.PINNED),
    ):
        again = home.resolve(url, pinned=pinned, sha256=sha256)
        assert (again.image, again.trust) == (first.image, trust)
    assert len(server.requests) == asked


def test_image_in_a_read_only_cache_is_used(home: Home, server: Server) -> None:
    url = server.url(NAME)
    home.resolve(url)
    for lock in home.cache.glob("*.lock"):
        lock.unlink()
    home.cache.chmod(0o555)
    try:
        assert_right(home.resolve(url))
    finally:
        home.cache.chmod(0o755)
    assert not list(home.cache.glob("*.lock")), "a lock was taken for nothing"


def test_refresh_asks_again(home: Home, server: Server) -> None:
    url = server.url(NAME)
    home.resolve(url)
    server.put(NAME, OTHER)
    assert_right(home.resolve(url), DATA)
    assert_right(home.resolve(url, refresh=True), OTHER)
    assert_right(home.resolve(url), OTHER)


def test_redirects_are_followed(home: Home, server: Server) -> None:
    server.put("moved.img", b"", Manner(redirect=server.url(NAME)))
    assert_right(home.resolve(server.url("moved.img")))


def test_proxy_of_the_environment_is_used(
    home: Home, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.base)
    assert_right(home.resolve(f"http://images.invalid/{NAME}"))
    assert server.asked_for(NAME)[0].headers["Host"] == "images.invalid"


@pytest.mark.parametrize("manner", [Manner(chunked=True), Manner(unsized=True)])
def test_server_that_does_not_tell_the_size(home: Home, server: Server, manner: Manner) -> None:
    server.put(NAME, DATA, manner)
    assert_right(home.resolve(server.url(NAME)))


# --- servers that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 403, 410, 401, 451])
def test_refusal_of_the_server_is_final(home: Home, server: Server, status: int) -> None:
    server.put(NAME, DATA, Manner(status=(status,) * 9))
    with pytest.raises(DownloadError) as caught:
        home.resolve(server.url(NAME))
    assert str(status) in caught.value.message
    assert server.url(NAME) in caught.value.message
    assert caught.value.hint
    assert len(server.asked_for(NAME)) == 1
    assert home.left() == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_passing_failure_is_waited_out(home: Home, server: Server, status: int) -> None:
    server.put(NAME, DATA, Manner(status=(status,) * 3))
    progress = Recorder()
    assert_right(home.resolve(server.url(NAME), progress=progress))
    assert len(server.asked_for(NAME)) == 4
    assert len([line for line in progress.lines if str(status) in line]) == 3


def test_failure_that_stays_is_given_up(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(status=(503,) * 99))
    with pytest.raises(DownloadError, match=r"503 Service Unavailable.*after 4 attempts"):
        home.resolve(server.url(NAME))
    assert len(server.asked_for(NAME)) == FAST.attempts
    assert home.left() == []


def test_retry_after_is_obeyed(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(status=(429,), retry_after="1"))
    begin = time.monotonic()
    assert_right(home.resolve(server.url(NAME)))
    assert time.monotonic() - begin >= 1.0


def test_retry_after_beyond_patience_is_told(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(status=(503,), retry_after="86400"))
    with pytest.raises(DownloadError, match="asks to wait 86400 s"):
        home.resolve(server.url(NAME))
    assert len(server.asked_for(NAME)) == 1


def test_nobody_listening_is_said_in_the_systems_words(home: Home) -> None:
    with serve({}) as gone:
        url = gone.url(NAME)
    with pytest.raises(DownloadError, match=r"connection refused; given up after 3") as caught:
        home.resolve(url)
    assert "urllib3" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_unknown_host_is_said(home: Home) -> None:
    with pytest.raises(DownloadError, match="given up after 3 attempts") as caught:
        home.resolve(f"http://piflash-no-such-host.invalid/{NAME}")
    assert "object at 0x" not in str(caught.value)
    assert "kept" not in caught.value.hint
    assert home.left() == []


def test_user_who_is_offline_waits_six_seconds_in_all(home: Home) -> None:
    with serve({}) as gone:
        url = gone.url(NAME)
    progress = Recorder()
    tenth = replace(Retry(), first_wait=Retry().first_wait / 10)
    begin = time.monotonic()
    with pytest.raises(DownloadError):
        home.resolve(url, sha256=DIGEST, progress=progress, retry=tenth)
    assert 0.6 <= time.monotonic() - begin < 5
    assert [line.partition("; ")[2] for line in progress.lines] == [
        "attempt 2 of 3 in 0.2 s",
        "attempt 3 of 3 in 0.4 s",
    ]


def test_silent_server_times_out(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(stall=(2.0, 2.0)))
    progress = Recorder()
    found = home.resolve(server.url(NAME), progress=progress, retry=replace(FAST, read_timeout=0.3))
    assert_right(found)
    assert any("nothing came for" in line for line in progress.lines)


@pytest.mark.parametrize(
    ("location", "says"), [("/" + NAME, "redirects for ever"), ("ftp://127.0.0.1/x", "address")]
)
def test_redirect_to_nowhere(home: Home, server: Server, location: str, says: str) -> None:
    server.put(NAME, DATA, Manner(redirect=location))
    with pytest.raises(DownloadError, match=says):
        home.resolve(server.url(NAME))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"<!DOCTYPE html><html>hotel Wi-Fi</html>", "HTML page"), (b"", "empty file")],
)
def test_what_is_no_image_is_not_kept(
    home: Home, server: Server, content: bytes, says: str
) -> None:
    server.put(NAME, content, Manner(content_type="text/html"))
    with pytest.raises(DownloadError, match=says):
        home.resolve(server.url(NAME))
    assert home.left() == []


# --- broken connections -------------------------------------------------------------------------


CUTS = [0, 1, 511, 65_535, 65_536, 65_537, len(DATA) - 1] + [
    random.Random(20).randrange(len(DATA)) for _ in range(13)
]


@pytest.mark.parametrize("offset", CUTS)
def test_connection_cut_at_any_offset_resumes(home: Home, server: Server, offset: int) -> None:
    server.put(NAME, DATA, Manner(cut=(offset,)))
    progress = Recorder()
    assert_right(home.resolve(server.url(NAME), progress=progress))
    assert len(server.asked_for(NAME)) == 2
    if offset > 65_536:
        assert server.asked_for(NAME)[1].range is not None
    assert progress.done[NAME] == len(DATA)


def test_connection_cut_again_and_again_resumes_as_long_as_bytes_come(
    home: Home, server: Server
) -> None:
    server.put(NAME, DATA, Manner(cut=(150_000,) * 19))
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.asked_for(NAME)) == 20 > FAST.attempts


def test_connection_that_brings_nothing_is_given_up_and_its_bytes_are_kept(
    home: Home, server: Server
) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000, *(0,) * 20)))
    with pytest.raises(DownloadError, match=rf"1000000 of {len(DATA)}.*4 attempts") as caught:
        home.resolve(server.url(NAME))
    assert caught.value.hint.endswith("what has come is kept")
    assert home.part().stat().st_size == 1_000_000
    server.put(NAME, DATA)
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range == "bytes=1000000-"


@dataclass
class Leaving(Recorder):
    """Ends the server at the first thing that is said."""

    server: ExitStack = field(default_factory=ExitStack)

    def say(self, line: str) -> None:
        super().say(line)
        self.server.close()


@pytest.mark.parametrize(
    ("validators", "kept"), [(True, True), (False, False)], ids=["kept", "of no use"]
)
def test_server_that_goes_away_on_the_way_is_waited_for(
    validators: bool, kept: bool, home: Home
) -> None:
    progress = Leaving()
    manner = Manner(cut=(1_000_000,), validators=validators)
    url = progress.server.enter_context(serve({NAME: DATA}, {NAME: manner})).url(NAME)
    with pytest.raises(DownloadError, match=r"connection refused.*after 4 attempts") as caught:
        home.resolve(url, progress=progress)
    assert ("kept" in caught.value.hint) == kept
    # Another run finds nobody there.
    with pytest.raises(DownloadError, match=r"connection refused.*after 3 attempts"):
        home.resolve(url, sha256=DIGEST)


def test_chunked_answer_cut_off_is_resumed(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(chunked=True, cut=(1_000_000,)))
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.asked_for(NAME)) == 2


@pytest.mark.parametrize(
    "stated",
    [
        f"bytes 0-{len(DATA) - 1}/{len(DATA)}",
        f"bytes 1000001-{len(DATA) - 1}/{len(DATA)}",
        f"bytes 1000000-{len(DATA)}/{len(DATA)}",
        f"bytes 1000000-{len(DATA) - 1}/{len(DATA) + 1}",
        f"bytes 1000000-999999/{len(DATA)}",
        "bytes */5",
        "nonsense",
    ],
)
def test_wrong_content_range_starts_over(home: Home, server: Server, stated: str) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,), content_range=stated))
    assert_right(home.resolve(server.url(NAME)))
    assert [request.range for request in server.asked_for(NAME)] == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_range_from_another_place_is_not_taken(home: Home, server: Server, shift: int) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,), shift=shift))
    assert_right(home.resolve(server.url(NAME)))
    assert [request.range for request in server.asked_for(NAME)] == [None, "bytes=1000000-", None]


def test_range_that_ends_early_is_gone_on_with(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,), short=300_000))
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range == "bytes=2800000-"


def test_ignored_range_starts_over(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000, 2_000_000), ignores_range=True))
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.asked_for(NAME)) == 3


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range kept", "If-Range ignored"])
def test_file_that_changes_between_two_requests_is_never_spliced(
    home: Home, server: Server, honest: bool
) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,) * 2))
    with pytest.raises(DownloadError):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=1))
    server.put(NAME, OTHER, Manner(ignores_if_range=not honest))
    assert_right(home.resolve(server.url(NAME)), OTHER)
    assert server.asked_for(NAME)[1].headers["If-Range"]


def test_without_validator_only_a_known_hash_allows_to_resume(home: Home, server: Server) -> None:
    manner = Manner(cut=(1_000_000,), validators=False)
    server.put(NAME, DATA, manner)
    assert_right(home.resolve(server.url(NAME)))
    assert [request.range for request in server.asked_for(NAME)] == [None, None]
    server.put(NAME, DATA, manner)
    assert_right(home.resolve(server.url(NAME), sha256=DIGEST, refresh=True))
    assert server.asked_for(NAME)[-1].range == "bytes=1000000-"


def test_content_length_beyond_the_file_is_found(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(extra_length=100))
    with pytest.raises(DownloadError, match=str(len(DATA))):
        home.resolve(server.url(NAME))
    assert not [name for name in home.left() if name == NAME]


def test_content_length_short_of_the_file_is_found_by_the_hash(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(extra_length=-100))
    with pytest.raises(ImageError, match=hashlib.sha256(DATA[:-100]).hexdigest()):
        home.resolve(server.url(NAME), sha256=DIGEST)
    assert home.left() == []


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "cert").write_bytes(made.public_bytes(pem))
    (directory / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "cert", directory / "key"


def test_certificate_nobody_vouches_for_is_refused_at_once(
    home: Home, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    progress = Recorder()
    with serve({NAME: DATA}, tls=certificate) as server:
        url = server.url(NAME).replace("127.0.0.1", "localhost")
        with pytest.raises(DownloadError, match="certificate cannot be verified") as caught:
            home.resolve(url, progress=progress)
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint
    assert not progress.lines, "it was tried again"


def test_encrypted_address_must_not_lead_to_an_open_one(
    home: Home,
    server: Server,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with serve({NAME: DATA, "fine.img": DATA}, tls=certificate) as safe:
        base = safe.base.replace("127.0.0.1", "localhost")
        assert_right(home.resolve(f"{base}/fine.img"))
        safe.put(NAME, DATA, Manner(redirect=server.url(NAME)))
        with pytest.raises(DownloadError, match="not encrypted"):
            home.resolve(f"{base}/{NAME}")
