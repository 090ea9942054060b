"""Bytes put over a source that stays as it is, and the runs that tell them apart. Pure.

Knows nothing of FAT but the word for a volume that ends too early.
"""

from __future__ import annotations

from collections.abc import Iterator

from flasher.fatlayout import damaged
from flasher.model import ReadAt, Run


class Overlay:
    """What is put over the source, whole units at a time, and what the source was seen to hold."""

    def __init__(self, source: ReadAt, size: int | None) -> None:
        self._source = source
        self._size = size
        self._before: dict[int, bytes] = {}
        self._now: dict[int, bytes] = {}

    def limit(self, size: int) -> None:
        """ImageError if the volume says that it is larger than its partition."""
        if self._size is not None and size > self._size:
            raise damaged(f"its file system has {size} bytes, the partition only {self._size}")

    def source(self, offset: int, size: int) -> bytes:
        """Give what the source holds. ImageError if it ends before."""
        data = self._source.read_at(offset, size)
        if len(data) != size:
            raise damaged(f"ends at byte {offset + len(data)}, inside its file system")
        return data

    def original(self, offset: int, size: int) -> bytes:
        """Give what the source holds and remember it, so that only differences become runs."""
        self._before[offset] = self.source(offset, size)
        return self._before[offset]

    def put(self, offset: int, data: bytes) -> None:
        """Put one unit (a cluster, a sector, a FAT); units never overlap in part."""
        self._now[offset] = data

    def latest(self, offset: int) -> bytes | None:
        """Give the unit that was put at an offset."""
        return self._now.get(offset)

    def runs(self, sector: int) -> tuple[Run, ...]:
        """Give the sectors that differ, or may differ where the source was never read; merged."""
        merged: list[tuple[int, bytearray]] = []
        for offset in sorted(self._now):
            for at, piece in self._pieces(offset, sector):
                if merged and merged[-1][0] + len(merged[-1][1]) == at:
                    merged[-1][1].extend(piece)
                else:
                    merged.append((at, bytearray(piece)))
        return tuple(Run(at, bytes(data)) for at, data in merged)

    def _pieces(self, offset: int, sector: int) -> Iterator[tuple[int, bytes]]:
        data, before = self._now[offset], self._before.get(offset)
        if before is None:
            yield offset, data
            return
        for start in range(0, len(data), sector):
            piece = data[start : start + sector]
            if piece != before[start : start + sector]:
                yield offset + start, piece
