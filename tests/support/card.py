"""Looking at images and cards with tools that are not ours: mtools, fsck.vfat, e2fsck."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import baseimage

BOOT_OFFSET = baseimage.BOOT_START * baseimage.SECTOR


@dataclass(frozen=True)
class Parts:
    """Where the two partitions lie, in bytes, read from the MBR by hand."""

    boot: tuple[int, int]
    root: tuple[int, int]


def parts(card: Path) -> Parts:
    """Read the partition table."""
    with card.open("rb") as data:
        sector = data.read(512)
    assert sector[510:] == b"\x55\xaa", "no MBR signature"

    def entry(number: int) -> tuple[int, int]:
        raw = sector[446 + 16 * number :]
        start, count = int.from_bytes(raw[8:12], "little"), int.from_bytes(raw[12:16], "little")
        return start * 512, count * 512

    return Parts(entry(0), entry(1))


def cut(card: Path, place: tuple[int, int], target: Path) -> Path:
    """Copy a partition into a file of its own, sparse."""
    offset, size = place
    with card.open("rb") as source, target.open("wb") as out:
        out.truncate(size)
        source.seek(offset)
        at = 0
        while at < size:
            chunk = source.read(min(1 << 20, size - at))
            assert chunk, "the card is shorter than its partition table"
            if chunk.strip(b"\0"):
                out.seek(at)
                out.write(chunk)
            at += len(chunk)
    return target


def files(boot: Path) -> dict[str, bytes]:
    """Read every file of a FAT volume with mtools; names as mtools gives them."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
        subprocess.run(
            ["mcopy", "-s", "-n", "-Q", "-i", str(boot), "::", scratch],
            check=True,
            capture_output=True,
            timeout=120,
            env=environment,
        )
        root = Path(scratch)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


def assert_sound(card: Path) -> None:
    """Both file systems of a card pass their own checkers without a complaint."""
    with tempfile.TemporaryDirectory(dir=card.parent if card.is_file() else None) as scratch:
        found = parts(card)
        boot = cut(card, found.boot, Path(scratch) / "p1")
        root = cut(card, found.root, Path(scratch) / "p2")
        fsck = subprocess.run(["fsck.vfat", "-n", str(boot)], capture_output=True, text=True)
        assert fsck.returncode == 0, fsck.stdout + fsck.stderr
        check = subprocess.run(["e2fsck", "-fn", str(root)], capture_output=True, text=True)
        assert check.returncode == 0, check.stdout + check.stderr


def same_bytes(one: Path, other: Path, place: tuple[int, int]) -> bool:
    """Compare a range of two files."""
    offset, size = place
    with one.open("rb") as left, other.open("rb") as right:
        left.seek(offset)
        right.seek(offset)
        while size > 0:
            count = min(1 << 20, size)
            a, b = left.read(count), right.read(count)
            if a != b or len(a) != count:
                return False
            size -= count
    return True
