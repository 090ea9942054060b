"""Who vouches for an image, what the cache keeps of it, and images that are paths."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from flasher.errors import DownloadError, ImageError, PiflashError
from flasher.images import Trust
from tests.support.downloads import (
    CHECKOUT,
    DATA,
    DIGEST,
    FAST,
    NAME,
    OTHER,
    OTHER_DIGEST,
    SUM,
    Home,
    assert_right,
    entry,
)
from tests.support.fileserver import Manner, Server
from tests.support.recorder import Recorder
from tests.support.tools import need

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


# --- paths and names ----------------------------------------------------------------------------


def test_path_is_relative_to_the_cluster_file(home: Home) -> None:
    (home.base / "mine.img").write_bytes(b"\0" * 512)
    found = home.resolve("mine.img")
    assert found.image.path == home.base / "mine.img"
    assert not found.image.cached
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
    done = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT)
    assert os.strerror(errno.EACCES) in done.stderr, done.stderr
    assert "chmod" in done.stderr
