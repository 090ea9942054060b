"""Images from a real HTTP server that misbehaves: the published file is used, or nothing."""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flasher import catalogue, images
from flasher.catalogue import Catalogue, Entry
from flasher.errors import DownloadError, ImageError, PiflashError
from flasher.images import Resolved, Trust
from flasher.model import ImageRef
from flasher.wire import Retry
from tests.support.fileserver import Manner, Server, serve
from tests.support.recorder import Recorder
from tests.support.tools import need, need_root

NAME = "base.img.zip"
SUM = NAME + ".sha256"
FAST = Retry(attempts=4, first_wait=0.005, longest_wait=0.01, connect_timeout=3, read_timeout=3)
DATA = random.Random(5).randbytes(3_000_017)
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = random.Random(6).randbytes(3_000_017)
OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()
SHIPPED = Path(__file__).parents[2] / "cloud-init" / "catalogue.json"


@dataclass(frozen=True)
class Home:
    """Where the images go, and how they are asked for."""

    cache: Path
    base: Path

    def resolve(
        self,
        text: str,
        *,
        sha256: str | None = None,
        pinned: str | None = None,
        known: Catalogue | None = None,
        progress: Recorder | None = None,
        retry: Retry = FAST,
        refresh: bool = False,
    ) -> Resolved:
        return images.resolve(
            ImageRef(text, sha256=sha256),
            catalogue=known or catalogue.parse(SHIPPED.read_text()),
            base=self.base,
            cache=self.cache,
            pinned=pinned,
            progress=progress or Recorder(),
            retry=retry,
            refresh=refresh,
        )

    def left(self) -> list[str]:
        """What lies in the cache, but for locks."""
        if not self.cache.is_dir():
            return []
        return sorted(p.name.split("-", 1)[1] for p in self.cache.iterdir() if p.suffix != ".lock")

    def part(self) -> Path:
        return next(self.cache.glob("*.part"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "project").mkdir()
    return Home(tmp_path / "cache" / "images", tmp_path / "project")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({NAME: DATA}) as running:
        yield running


def entry(server: Server, *, sha256: str | None = None, promised: bool = True) -> Catalogue:
    url = server.url(NAME)
    one = Entry(
        id="test-1",
        url=url,
        sha256_url=url + ".sha256" if promised else None,
        sha256=sha256,
        size=512,
        profile="hypriotos",
        arch="armhf",
        boards=(),
        description="",
    )
    return Catalogue({"test-1": one})


def assert_right(found: Resolved, data: bytes = DATA) -> None:
    assert found.image.path.read_bytes() == data
    assert found.sha256 == found.image.sha256 == hashlib.sha256(data).hexdigest()
    names = {p.name for p in found.image.path.parent.iterdir()}
    assert not [name for name in names if ".part" in name or ".new" in name], names


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
    with pytest.raises(DownloadError, match=r"connection refused") as caught:
        home.resolve(url)
    assert "urllib3" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_unknown_host_is_said(home: Home) -> None:
    with pytest.raises(DownloadError) as caught:
        home.resolve(f"http://piflash-no-such-host.invalid/{NAME}")
    assert "object at 0x" not in str(caught.value)


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
    with pytest.raises(DownloadError, match=rf"1000000 of {len(DATA)}.*4 attempts"):
        home.resolve(server.url(NAME))
    assert home.part().stat().st_size == 1_000_000
    server.put(NAME, DATA)
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range == "bytes=1000000-"


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


# --- hashes -------------------------------------------------------------------------------------


def test_wrong_checksum_file_refuses_the_download(home: Home, server: Server) -> None:
    server.put(SUM, f"{OTHER_DIGEST}  {NAME}\n".encode())
    with pytest.raises(ImageError) as caught:
        home.resolve(server.url(NAME))
    assert DIGEST in caught.value.message
    assert OTHER_DIGEST in caught.value.message
    assert home.left() == []


@pytest.mark.parametrize("promised", [True, False])
def test_checksum_file_without_a_hash_is_refused(
    home: Home, server: Server, promised: bool
) -> None:
    server.put(SUM, b"see our web site\n")
    with pytest.raises(ImageError, match=r"base\.img\.zip\.sha256: holds no SHA-256"):
        home.resolve("test-1" if promised else server.url(NAME), known=entry(server))
    assert not server.asked_for(NAME)


def test_page_in_place_of_an_unpromised_checksum_file_is_none(home: Home, server: Server) -> None:
    server.put(SUM, b"<html>not found</html>")
    assert home.resolve(server.url(NAME)).trust is Trust.FIRST_USE


def test_promised_checksum_file_that_is_absent_is_an_error(home: Home, server: Server) -> None:
    with pytest.raises(DownloadError, match=r"\.sha256: the server answers 404"):
        home.resolve("test-1", known=entry(server))
    assert_right(home.resolve("test-1", known=entry(server), pinned=DIGEST))


def test_given_hash_wins_and_asks_no_one(home: Home, server: Server) -> None:
    server.put(SUM, f"{OTHER_DIGEST}  {NAME}\n".encode())
    found = home.resolve(server.url(NAME), sha256=DIGEST, pinned=OTHER_DIGEST)
    assert_right(found)
    assert found.trust is Trust.PINNED
    assert not server.asked_for(SUM)


def test_given_hash_that_does_not_fit_is_told(home: Home, server: Server) -> None:
    with pytest.raises(ImageError, match="you gave " + OTHER_DIGEST) as caught:
        home.resolve(server.url(NAME), sha256=OTHER_DIGEST)
    assert DIGEST in caught.value.message
    assert home.left() == []


def test_catalogues_hash_vouches(home: Home, server: Server) -> None:
    known = entry(server, sha256=DIGEST, promised=False)
    assert home.resolve("test-1", known=known).trust is Trust.CATALOGUE


def test_file_changed_since_first_use_is_refused(home: Home, server: Server) -> None:
    with pytest.raises(ImageError, match="changed since first use") as caught:
        home.resolve(server.url(NAME), pinned=OTHER_DIGEST)
    assert DIGEST in caught.value.message
    assert OTHER_DIGEST in caught.value.message
    assert "piflash fetch --repin" in caught.value.hint
    assert home.left() == []


def test_checksum_changed_since_first_use_is_refused_before_the_download(
    home: Home, server: Server
) -> None:
    server.put(SUM, f"{DIGEST}  {NAME}\n".encode())
    with pytest.raises(ImageError, match="changed since first use") as caught:
        home.resolve(server.url(NAME), pinned=OTHER_DIGEST)
    assert DIGEST in caught.value.message
    assert OTHER_DIGEST in caught.value.message
    assert not server.asked_for(NAME)


@pytest.mark.parametrize("known", ["sha256", "pinned"])
def test_image_in_the_cache_with_another_hash_than_wanted_is_not_used(
    home: Home, server: Server, known: str
) -> None:
    home.resolve(server.url(NAME))
    server.put(NAME, OTHER)
    wanted = {known: OTHER_DIGEST}
    assert_right(home.resolve(server.url(NAME), **wanted), OTHER)  # type: ignore[arg-type]


def test_refused_change_leaves_the_cached_image_alone(home: Home, server: Server) -> None:
    url = server.url(NAME)
    home.resolve(url)
    server.put(NAME, OTHER)
    with pytest.raises(ImageError):
        home.resolve(url, pinned=DIGEST, refresh=True)
    assert_right(home.resolve(url, pinned=DIGEST), DATA)


# --- the cache ----------------------------------------------------------------------------------


def test_damaged_file_in_the_cache_is_fetched_again(home: Home, server: Server) -> None:
    found = home.resolve(server.url(NAME))
    content = bytearray(DATA)
    content[1000] ^= 1
    found.image.path.write_bytes(content)
    assert_right(home.resolve(server.url(NAME)))


def test_copied_cache_is_still_good(home: Home, server: Server) -> None:
    found = home.resolve(server.url(NAME))
    os.utime(found.image.path, (1, 1))
    asked = len(server.requests)
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.requests) == asked


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 9}', "\xff"])
def test_damaged_record_in_the_cache_is_as_none(home: Home, server: Server, text: str) -> None:
    home.resolve(server.url(NAME))
    next(home.cache.glob("*.json")).write_text(text, encoding="latin-1")
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.asked_for(NAME)) == 2


def test_damaged_part_is_found_by_the_hash_and_fetched_whole(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,)))
    with pytest.raises(DownloadError):
        home.resolve(server.url(NAME), sha256=DIGEST, retry=replace(FAST, attempts=1))
    with home.part().open("r+b") as file:
        file.write(b"not these")
    assert_right(home.resolve(server.url(NAME), sha256=DIGEST))
    assert [request.range for request in server.asked_for(NAME)] == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"synced": "x"}', '{"synced": 99999999}'])
def test_damaged_state_of_a_part_starts_over(home: Home, server: Server, state: str) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,)))
    with pytest.raises(DownloadError):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=1))
    home.part().with_name(home.part().name + ".json").write_text(state)
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range is None


def test_bytes_behind_the_last_checkpoint_are_not_trusted(home: Home, server: Server) -> None:
    """As after a power cut: the file is long, but what it ends in never reached the disk."""
    server.put(NAME, DATA, Manner(cut=(1_000_000,)))
    with pytest.raises(DownloadError):
        home.resolve(server.url(NAME), retry=replace(FAST, attempts=1))
    with home.part().open("ab") as file:
        file.write(bytes(500_000))
    assert_right(home.resolve(server.url(NAME)))
    assert server.asked_for(NAME)[-1].range == "bytes=1000000-"


def test_complete_part_needs_no_more_bytes(home: Home, server: Server) -> None:
    """As after a crash between the last byte and the renaming."""
    found = home.resolve(server.url(NAME))
    part = found.image.path.with_name(found.image.path.name + ".part")
    found.image.path.rename(part)
    state = {"etag": None, "last_modified": None, "total": len(DATA), "synced": len(DATA)}
    part.with_name(part.name + ".json").write_text(json.dumps(state))
    assert_right(home.resolve(server.url(NAME)))
    assert len(server.asked_for(NAME)) == 1


def test_cache_that_cannot_be_made_is_named(home: Home, server: Server) -> None:
    home.cache.parent.mkdir()
    home.cache.write_text("in the way")
    with pytest.raises(DownloadError, match=str(home.cache)) as caught:
        home.resolve(server.url(NAME))
    assert "PIFLASH_CACHE" in caught.value.hint


# --- secrets ------------------------------------------------------------------------------------


def test_no_secret_of_an_address_is_written_or_said(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(cut=(1_000_000,)))
    host = server.base.removeprefix("http://")
    url = f"http://me:hunter2@{host}/{NAME}?sig=hunter3#hunter4"
    progress = Recorder()
    said: list[str] = []
    try:
        home.resolve(url, progress=progress, retry=replace(FAST, attempts=1))
    except PiflashError as error:
        said.append(str(error))
    found = home.resolve(url, progress=progress)
    assert_right(found)
    assert server.requests[0].headers["Authorization"].startswith("Basic ")
    for name in ("status", "gone"):
        server.put(NAME, DATA, Manner(status=(404 if name == "gone" else 503,) * 99))
        with pytest.raises(DownloadError) as caught:
            home.resolve(url, refresh=True, progress=progress)
        said.append(str(caught.value))
    written = [p.name + p.read_text() for p in home.cache.glob("*.json")]
    everything = "\n".join([*said, *progress.lines, *written, repr(found), *home.left()])
    assert len(said) == 3
    assert "hunter" not in everything


# --- processes ----------------------------------------------------------------------------------


CHILD = """
import sys
from pathlib import Path
from flasher import images
from flasher.catalogue import Catalogue
from flasher.model import ImageRef
from tests.support.recorder import Recorder
found = images.resolve(
    ImageRef(sys.argv[1]), catalogue=Catalogue({}), base=Path(), cache=Path(sys.argv[2]),
    pinned=None, progress=Recorder(),
)
print(found.sha256)
"""


def child(home: Home, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(home.cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_several_processes_at_once_download_once(home: Home, server: Server) -> None:
    server.put(NAME, DATA, Manner(pause=0.02))
    children = [child(home, server.url(NAME)) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in children]
    assert [out.strip() for out, _ in results] == [DIGEST] * 3, results
    assert len(server.asked_for(NAME)) == 1


def test_download_killed_at_random_moments_goes_on(home: Home, server: Server) -> None:
    data = random.Random(8).randbytes(60 << 20)
    server.put(NAME, data, Manner(pause=0.001, piece=1 << 16))
    rng = random.Random(9)
    killed = 0
    for _ in range(12):
        process = child(home, server.url(NAME))
        begun = len(server.asked_for(NAME))
        deadline = time.monotonic() + 30
        while len(server.asked_for(NAME)) == begun and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
        for final in home.cache.glob("*.zip"):
            assert final.read_bytes() == data
        if process.returncode == 0:
            break
    server.put(NAME, data)
    assert_right(home.resolve(server.url(NAME)), data)
    assert killed >= 3
    resumed = [request.range for request in server.asked_for(NAME) if request.range]
    assert resumed, "no run ever went on where the one before was killed"


# --- disk full ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(home: Home) -> Iterator[Home]:
    """The cache on a file system of 4 MiB."""
    need_root()
    need("mount", "umount")
    home.cache.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home.cache)], check=True)
    try:
        yield home
    finally:
        subprocess.run(["umount", str(home.cache)], check=True)


BIG = random.Random(10).randbytes(6 << 20)


@pytest.mark.root
def test_image_larger_than_the_room_in_the_cache_is_refused_beforehand(
    small_disk: Home, server: Server
) -> None:
    server.put(NAME, BIG)
    with pytest.raises(DownloadError, match=rf"needs {len(BIG)} more bytes") as caught:
        small_disk.resolve(server.url(NAME))
    assert str(small_disk.cache) in caught.value.message
    assert small_disk.left() == []


@pytest.mark.root
@pytest.mark.parametrize("manner", [Manner(chunked=True), Manner(unsized=True)])
def test_disk_that_becomes_full_is_emptied_again(
    small_disk: Home, server: Server, manner: Manner
) -> None:
    server.put(NAME, BIG, manner)
    with pytest.raises(DownloadError, match="the disk is full") as caught:
        small_disk.resolve(server.url(NAME))
    assert str(small_disk.cache) in caught.value.message
    assert "PIFLASH_CACHE" in caught.value.hint
    assert small_disk.left() == []
    server.put(NAME, DATA)
    assert_right(small_disk.resolve(server.url(NAME)))


@pytest.mark.root
def test_resume_counts_only_what_is_missing(small_disk: Home, server: Server) -> None:
    data = BIG[:2_900_000]
    server.put(NAME, data, Manner(cut=(2_000_000,)))
    with pytest.raises(DownloadError):
        small_disk.resolve(server.url(NAME), retry=replace(FAST, attempts=1))
    assert_right(small_disk.resolve(server.url(NAME)), data)


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


# --- paths and names ----------------------------------------------------------------------------


def test_path_is_relative_to_the_cluster_file(home: Home) -> None:
    (home.base / "mine.img").write_bytes(b"\0" * 512)
    found = home.resolve("mine.img")
    assert found.image.path == home.base / "mine.img"
    assert (found.trust, found.sha256, found.image.sha256) == (Trust.LOCAL, None, None)
    assert not home.cache.exists()


@pytest.mark.parametrize("given", ["sha256", "pinned"])
def test_hash_of_a_path_is_left_to_the_pass_that_reads_it(home: Home, given: str) -> None:
    (home.base / "mine.img").write_bytes(b"\0" * 512)
    found = home.resolve("mine.img", **{given: OTHER_DIGEST})  # type: ignore[arg-type]
    assert (found.trust, found.image.sha256) == (Trust.PINNED, OTHER_DIGEST)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("./missing.img", "missing.img"),
        ("./folder", "a directory"),
        ("./empty.img", "empty"),
        ("./pipe.img", "a pipe"),
        ("~nobody-of-this-name/x.img", "nobody-of-this-name"),
        ("hypriotos-1.12.4", "did you mean hypriotos-1.12.3"),
        ("ftp://host/x.img", "only http and https"),
        ("http://[bad/x.img", "can be read"),
        ("http://host:port/x.img", "address"),
    ],
)
def test_what_names_no_image_is_told(home: Home, text: str, says: str) -> None:
    (home.base / "folder").mkdir()
    (home.base / "empty.img").touch()
    os.mkfifo(home.base / "pipe.img")
    with pytest.raises(PiflashError, match=says) as caught:
        home.resolve(text)
    assert caught.value.exit_code in (5, 10)
    assert caught.value.hint


def test_unreadable_file_is_told(home: Home) -> None:
    if os.geteuid() == 0:
        need("setpriv")
    path = home.base / "mine.img"
    path.write_bytes(b"\0" * 512)
    path.chmod(0)
    code = (
        "import sys; from pathlib import Path; from flasher.storedfile import StoredFile;"
        "StoredFile(Path(sys.argv[1]))"
    )
    argv = [sys.executable, "-c", code, str(path)]
    if os.geteuid() == 0:
        argv = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert os.strerror(errno.EACCES) in done.stderr, done.stderr
    assert "chmod" in done.stderr
