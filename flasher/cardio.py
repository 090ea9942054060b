"""Raw reading and writing of one open card or card file: aligned, complete, past the page cache.

Raises OSError as the kernel gives it; knows nothing of plans, images and order.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, field

# What the kernel says of a card that was pulled out; not every system has every name.
GONE = frozenset(getattr(errno, name, -1) for name in ("ENODEV", "ENXIO", "ENOMEDIUM"))
# linux/fs.h: _IO(0x12, 97), drops a device's page cache.
_BLKFLSBUF = 0x1261
# O_DIRECT leaves nothing dirty. Where it does not work, dirty pages are kept few by this, or the
# last fsync would take minutes on a slow card, and nobody could interrupt it.
_BYTES_BETWEEN_SYNCS = 16 << 20
_HOLE = 64 << 10
_NOTHING = bytes(_HOLE)


@dataclass
class CardIO:
    """An open device or file. Offsets and lengths are multiples of `sector`, views page-aligned.

    `direct`: the descriptor has O_DIRECT. `sparse`: zero blocks become holes, for files.
    """

    fd: int
    sector: int
    direct: bool
    sparse: bool
    _unsynced: int = field(default=0, repr=False)

    def write(self, offset: int, view: memoryview) -> None:
        """Write all of a view, or raise OSError."""
        for begin, end in _solid(view) if self.sparse else ((0, len(view)),):
            self._write_fully(offset + begin, view[begin:end])
        if not self.direct:
            self._unsynced += len(view)
            if self._unsynced >= _BYTES_BETWEEN_SYNCS:
                os.fdatasync(self.fd)
                self._unsynced = 0

    def _write_fully(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.pwritev(self.fd, [view[done:]], offset + done)
            if count <= 0 or (self.direct and count % self.sector):
                raise OSError(errno.EIO, "the card took only a part of a block")
            done += count

    def read(self, offset: int, view: memoryview) -> None:
        """Fill all of a view, or raise OSError."""
        done = 0
        while done < len(view):
            count = os.preadv(self.fd, [view[done:]], offset + done)
            if count <= 0:
                raise OSError(errno.EIO, "the card ends before its size")
            done += count

    def sync(self) -> None:
        """Have everything written reach the medium."""
        os.fsync(self.fd)
        self._unsynced = 0

    def forget_cache(self) -> None:
        """Have the next reads come from the medium, not from memory. Needs a sync before."""
        if self.direct:
            return
        if not self.sparse:
            with suppress(PermissionError):  # needs CAP_SYS_ADMIN; the advice below does not
                fcntl.ioctl(self.fd, _BLKFLSBUF, 0)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _solid(view: memoryview) -> list[tuple[int, int]]:
    """Give the stretches of a view that are not zeros, in blocks of 64 KiB."""
    stretches: list[tuple[int, int]] = []
    for begin in range(0, len(view), _HOLE):
        end = min(begin + _HOLE, len(view))
        if bytes(view[begin:end]) == _NOTHING[: end - begin]:
            continue
        if stretches and stretches[-1][1] == begin:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((begin, end))
    return stretches
