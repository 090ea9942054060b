"""Where things lie in a FAT volume, and its allocation table. Pure; knows no names, no folders.

Source of every offset: Microsoft, "FAT32 File System Specification" 1.03 (fatgen103).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from operator import or_

from flasher.errors import ImageError

FIRST_CLUSTER = 2
DAMAGED = "the image is damaged: get it again with `piflash fetch`, or name another with --image"
_LARGEST_TABLE = 32 << 20
_MOST_COPIES = 2  # what mkfs.vfat and Windows make; fatgen103 allows 255
_TOPS = slice(FIRST_CLUSTER * 4 + 3, None, 4)  # the highest byte of each entry of FAT32
_BITS_MASK = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}


def damaged(what: str) -> ImageError:
    """Give the error for a volume that contradicts itself."""
    return ImageError(f"boot partition: {what}", hint=DAMAGED)


@dataclass(frozen=True)
class Layout:
    """The geometry of a volume; all offsets and sizes in bytes, from the start of the volume.

    `bits` is 12, 16 or 32. FAT12 and FAT16 have the fixed root at `root_offset`, `root_size` long;
    FAT32 has `root_cluster`. `table_size`: from one copy of the FAT to the next, of which
    `table_used`, in whole sectors, holds entries; what follows means nothing. `infos`: where FSInfo
    sectors may lie. `size`: of the whole volume.
    """

    bits: int
    sector_size: int
    cluster_size: int
    cluster_count: int
    table_offset: int
    table_size: int
    table_used: int
    table_copies: int
    root_offset: int
    root_size: int
    root_cluster: int
    data_offset: int
    size: int
    infos: tuple[int, ...]
    mirrored: bool
    label: bytes

    @property
    def cluster_mask(self) -> int:
        """Which bits of a directory entry's two halves are its first cluster."""
        return _BITS_MASK[32] if self.bits == 32 else 0xFFFF

    def offset_of(self, cluster: int) -> int:
        """Give the offset of a cluster's first byte."""
        return self.data_offset + (cluster - FIRST_CLUSTER) * self.cluster_size

    def clusters_for(self, size: int) -> int:
        """Give how many clusters hold `size` bytes."""
        return -(-size // self.cluster_size)


def parse(boot: bytes) -> Layout:
    """Read the boot sector (its first 512 bytes). ImageError if it is not that of a FAT volume."""
    if len(boot) < 512 or boot[510:512] != b"\x55\xaa":
        raise damaged("not a FAT file system: its first sector does not end in 55aa")
    sector, per_cluster, reserved, copies, root_entries, total16, media, size16 = (
        struct.unpack_from("<HBHBHHBH", boot, 11)
    )
    total32, size32, flags, version, root_cluster, info, backup = struct.unpack_from(
        "<IIHHIHH", boot, 32
    )
    if sector not in (512, 1024, 2048, 4096):
        raise damaged(f"not a FAT file system: sectors of {sector} bytes, not of 512 to 4096")
    if per_cluster == 0 or per_cluster & (per_cluster - 1) or not reserved or not copies:
        raise damaged(
            f"not a FAT file system: {per_cluster} sectors a cluster, {reserved} reserved sectors, "
            f"{copies} FATs"
        )
    _refuse_foreign(media, copies, root_bytes=root_entries * 32, sector=sector)
    table, total = size16 or size32, total16 or total32
    data = reserved + copies * table + root_entries * 32 // sector
    count = (total - data) // per_cluster
    if table == 0 or count < 1:
        raise damaged(f"not a FAT file system: {total} sectors, of which a FAT has {table}")
    bits = _bits(count, wide=size16 == 0, root_entries=root_entries)
    wide = bits == 32
    if wide and version:
        raise damaged(f"FAT32 of version {version:#06x}, only 0 is known")
    return Layout(
        bits=bits,
        sector_size=sector,
        cluster_size=per_cluster * sector,
        cluster_count=count,
        table_offset=reserved * sector,
        table_size=table * sector,
        table_used=_table_used(count, bits, room=table * sector, sector=sector),
        table_copies=copies,
        root_offset=(reserved + copies * table) * sector,
        root_size=root_entries * 32,
        root_cluster=root_cluster if wide else 0,
        data_offset=data * sector,
        size=total * sector,
        infos=_infos(info, backup, reserved, sector) if wide else (),
        mirrored=not (wide and flags & 0x80),
        label=boot[0x47:0x52] if wide else boot[0x2B:0x36],
    )


def _refuse_foreign(media: int, copies: int, *, root_bytes: int, sector: int) -> None:
    """ImageError on what fatgen103 forbids or nobody makes; Linux or mtools refuse it too."""
    if media != 0xF0 and media < 0xF8:
        raise damaged(f"not a FAT file system: media byte {media:#04x}, not 0xf0 or 0xf8 to 0xff")
    if root_bytes % sector:
        raise damaged(f"its root folder of {root_bytes} bytes does not fill sectors of {sector}")
    if copies > _MOST_COPIES:
        raise ImageError(
            f"boot partition: {copies} FATs; {_MOST_COPIES} are supported",
            hint="use an image whose boot partition was made by mkfs.vfat with its usual 2 FATs",
        )


def _bits(count: int, *, wide: bool, root_entries: int) -> int:
    """Give the type by the count of clusters; Linux goes by the boot sector's shape: both agree."""
    bits = 12 if count < 4085 else 16 if count < 65525 else 32
    if (bits == 32) != wide or wide != (root_entries == 0):
        raise ImageError(
            f"boot partition: {count} clusters make it FAT{bits}, but its boot sector is laid out "
            f"{'as' if wide else 'unlike'} FAT32: systems disagree about such a volume",
            hint="use an image whose boot partition was made by mkfs.vfat without a forced type",
        )
    return bits


def _table_used(count: int, bits: int, *, room: int, sector: int) -> int:
    used = -(-(count + FIRST_CLUSTER) * bits // 8)
    if used > room:
        raise damaged(f"{count} clusters, but the FAT has room for {room * 8 // bits - 2} only")
    if used > _LARGEST_TABLE:
        raise ImageError(
            f"boot partition: a FAT of {used} bytes; {_LARGEST_TABLE} are supported",
            hint="use an image with a smaller boot partition or larger clusters",
        )
    return -(-used // sector) * sector


def _infos(info: int, backup: int, reserved: int, sector: int) -> tuple[int, ...]:
    """Give the places of FSInfo and of its copy beside the backup boot sector."""
    if info in (0, 0xFFFF):
        return ()
    places = [info] if backup in (0, 0xFFFF) else [info, backup + info]
    return tuple(place * sector for place in sorted(set(places)) if place < reserved)


class Table:
    """The file allocation table in memory. Numbers are cluster numbers, the first one is 2."""

    def __init__(self, raw: bytes, layout: Layout) -> None:
        self._raw = raw
        self._bits = layout.bits
        self.mask = _BITS_MASK[layout.bits]
        self.end = layout.cluster_count + FIRST_CLUSTER
        numbers, self._reserved = _split(raw, end=self.end) if layout.bits == 32 else (raw, b"")
        values = self._values = _unpack(numbers, bits=layout.bits, count=self.end)
        self.free = values[FIRST_CLUSTER:].count(0)
        self._lowest = FIRST_CLUSTER
        self.latest = 0

    @property
    def used_bytes(self) -> int:
        """How many bytes of each copy hold entries; what follows them means nothing."""
        return -(-self.end * self._bits // 8)

    def after(self, cluster: int) -> int | None:
        """Give the cluster after one in its chain, None at the end. ImageError on nonsense."""
        value = self._values[cluster]
        if value > self.mask - 8:
            return None
        self.refuse_strange(value, f"cluster {cluster}")
        return value

    def refuse_strange(self, cluster: int, owner: str) -> None:
        """ImageError unless the number is that of a cluster in use; `owner` is what names it."""
        if not FIRST_CLUSTER <= cluster < self.end:
            raise damaged(
                f"{owner} leads to cluster {cluster}, which is not in {FIRST_CLUSTER} to "
                f"{self.end - 1}"
            )
        value = self._values[cluster]
        if value == 0:
            raise damaged(f"{owner} leads to the free cluster {cluster}")
        if value == self.mask - 8:
            raise damaged(f"{owner} leads to the bad cluster {cluster}")

    def chain(self, first: int, *, owner: str, seen: bytearray | None = None) -> list[int]:
        """Give all clusters from `first` on, 0 giving none.

        `seen` has a byte per cluster; it is marked, and meeting a mark is an ImageError (a loop, or
        two owners). So no chain is followed for longer than the volume has clusters.
        """
        seen = bytearray(self.end) if seen is None else seen
        clusters: list[int] = []
        if first == 0:
            return clusters
        self.refuse_strange(first, owner)
        here: int | None = first
        while here is not None:
            if seen[here]:
                raise damaged(
                    f"{owner} comes to cluster {here} for the second time: a loop, or the chain of "
                    "another file (cross-linked)"
                )
            seen[here] = 1
            clusters.append(here)
            here = self.after(here)
        return clusters

    def take(self, count: int) -> list[int]:
        """Give the `count` lowest free clusters, marked as ends. There must be so many."""
        taken = []
        for _ in range(count):
            here = self._values.index(0, self._lowest, self.end)
            self._values[here] = self.mask
            self._lowest = here + 1
            taken.append(here)
        self.free -= count
        self.latest = taken[-1] if taken else self.latest
        return taken

    def link(self, clusters: Iterable[int]) -> None:
        """Make the clusters one chain in the given order."""
        last = 0
        for cluster in clusters:
            if last:
                self._values[last] = cluster
            self._values[cluster] = self.mask
            last = cluster

    def release(self, clusters: Iterable[int]) -> None:
        """Mark clusters free."""
        for cluster in clusters:
            self._values[cluster] = 0
            self.free += 1
            self._lowest = min(self._lowest, cluster)

    def raw(self) -> bytes:
        """Give the table as it is to lie on disk."""
        packed = bytearray(_pack(self._values, bits=self._bits, before=self._raw))
        if self._reserved.strip(b"\0"):
            packed[_TOPS] = bytes(map(or_, packed[_TOPS], self._reserved))
        return bytes(packed) + self._raw[len(packed) :]


def _split(raw: bytes, *, end: int) -> tuple[bytes, bytes]:
    """Give a FAT32 without the four high bits of its entries, and these, a byte for each cluster.

    They are reserved and must be kept. As bytes, because a damaged FAT may have them in millions.
    """
    numbers = bytearray(raw[: end * 4])
    tops = numbers[_TOPS]
    numbers[_TOPS] = tops.translate(bytes(top & 0x0F for top in range(256)))
    return bytes(numbers), bytes(tops.translate(bytes(top & 0xF0 for top in range(256))))


def _unpack(raw: bytes, *, bits: int, count: int) -> array[int]:
    if bits == 12:
        triples = range(0, count * 3 // 2 + 1, 3)
        words = [int.from_bytes(raw[i : i + 3], "little") for i in triples]
        return array("I", [part for w in words for part in (w & 0xFFF, w >> 12)][:count])
    values = array("I" if bits == 32 else "H", raw[: count * bits // 8])
    if sys.byteorder == "big":
        values.byteswap()
    return array("I", values)


def _pack(values: array[int], *, bits: int, before: bytes) -> bytes:
    if bits == 12:
        odd = len(values) % 2
        # An odd count shares its last byte with bits that are nobody's.
        tail = [before[len(values) * 3 // 2] >> 4] if odd else []
        pairs = [*values, *tail]
        packed = b"".join(
            (one | other << 12).to_bytes(3, "little")
            for one, other in zip(pairs[::2], pairs[1::2], strict=True)
        )
        return packed[: -(-len(values) * 3 // 2)]
    entries = array("I" if bits == 32 else "H", values)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries.tobytes()
