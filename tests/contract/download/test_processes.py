"""Downloads of several processes, of killed ones and onto full disks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from flasher.errors import DownloadError
from tests.support.downloads import (
    CHECKOUT,
    DATA,
    DIGEST,
    FAST,
    NAME,
    Home,
    assert_right,
)
from tests.support.fileserver import Manner, Server
from tests.support.tools import need, need_root

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
        cwd=CHECKOUT,
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
