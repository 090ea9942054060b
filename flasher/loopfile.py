"""The file behind a loop device, by its inode: names differ between mount namespaces."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# linux/loop.h. struct loop_info64 begins with lo_device and lo_inode, and has 232 bytes.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_DIRECT_IO = 0x4C08
_STATUS_SIZE = 232
_BLOCK = Path("/sys/block")

Inode = tuple[int, int]


def inode(fd: int) -> Inode | None:
    """Give the device and inode number of the file behind an open loop device; None for others."""
    try:
        status = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_STATUS_SIZE))
    except OSError:
        return None
    device, number = struct.unpack_from("QQ", status)
    return device, number


def others(fd: int) -> tuple[str, ...]:
    """Give the other loop devices over the same file as an open one.

    O_EXCL holds one loop device; whatever is mounted through another one is not kept out by it.
    """
    mine = inode(fd)
    if mine is None:
        return ()
    number = os.fstat(fd).st_rdev
    found = []
    for entry in sorted(_BLOCK.glob("loop*/loop/backing_file")):
        path = f"/dev/{entry.parts[-3]}"
        with suppress(OSError):
            other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(other).st_rdev != number and inode(other) == mine:
                    found.append(path)
            finally:
                os.close(other)
    return tuple(found)


@contextmanager
def past_the_cache(fd: int) -> Iterator[None]:
    """Have a loop device read from the medium under its file, not from the file's page cache.

    O_DIRECT on a loop device passes its own cache only. Where the file system below has no direct
    I/O, the file's cache is as close as one gets.
    """
    if inode(fd) is None:
        yield
        return
    before = _direct(fd)
    with suppress(OSError):
        fcntl.ioctl(fd, _LOOP_SET_DIRECT_IO, 1)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.ioctl(fd, _LOOP_SET_DIRECT_IO, before)


def _direct(fd: int) -> int:
    number = os.fstat(fd).st_rdev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/dio")
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
