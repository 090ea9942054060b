"""Loop devices that never outlive a test, and plans for writing small images onto them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flasher.model import MIB, Image, Partition, Role, Run, Target
from flasher.plan import CardPlan, Layout


def losetup(*argv: str | Path) -> str:
    """Run losetup; gives its output."""
    done = subprocess.run(
        ["losetup", *map(str, argv)], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        raise RuntimeError(f"losetup {argv}: rc {done.returncode}: {done.stderr}")
    return done.stdout.strip()


@contextmanager
def loop(backing: Path | str, *options: str) -> Iterator[str]:
    """Attach a loop device to a file; gives its path, and detaches it whatever happens."""
    device = losetup("--find", "--show", *options, backing)
    try:
        yield device
    finally:
        losetup("--detach", device)


@contextmanager
def card(directory: Path, *options: str, size: int = 64 * MIB, name: str = "card") -> Iterator[str]:
    """Attach a loop device to a new sparse file of that size: a card."""
    with loop(make_file(directory / name, size=size), *options) as device:
        yield device


def make_file(path: Path, *, size: int) -> Path:
    """Make a sparse file."""
    with path.open("wb") as out:
        out.truncate(size)
    return path


def image_bytes(size: int, *, seed: int = 1) -> bytes:
    """Give the bytes of an image: an MBR signature, random stretches and stretches of zeros."""
    source = random.Random(seed)
    data = bytearray(source.randbytes(size))
    for begin in range(0, size, 3 * MIB):
        data[begin + MIB : begin + MIB + MIB // 2] = bytes(
            max(0, min(MIB // 2, size - begin - MIB))
        )
    data[510:512] = b"\x55\xaa"
    return bytes(data[:size])


def make_image(directory: Path, data: bytes, *, sha256: str | None = None) -> Image:
    """Store a raw base image."""
    path = directory / "base.img"
    path.write_bytes(data)
    return Image("test-image", "hypriotos", path, sha256, len(data))


def make_plan(
    target: Target,
    image: Image,
    *,
    node: str = "pi1",
    patch: Sequence[Run] = (),
    verify: bool = True,
    size: int | None = None,
) -> CardPlan:
    """Plan a card without a cluster: the writer looks at image, target, patch and verify only."""
    size = size or image.size or image.path.stat().st_size
    boot = Partition(1, 0x0C, MIB, min(MIB, size - MIB))
    return CardPlan(
        cluster="home",
        node=node,
        role=Role.MANAGER,
        generation=1,
        epoch=1,
        permit=None,
        image=image,
        layout=Layout(size, 0x2FED7FEE, boot, (boot,)),
        size=size,
        target=target,
        files=(),
        verify=verify,
        patch=tuple(patch),
    )


def patched(data: bytes, patch: Sequence[Run]) -> bytes:
    """Give the image as it should stand on the card."""
    result = bytearray(data)
    for run in patch:
        result[run.offset : run.end] = run.data
    return bytes(result)


def read_card(path: str | Path, size: int, *, offset: int = 0) -> bytes:
    """Read a card's bytes past the page cache of its device."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)
