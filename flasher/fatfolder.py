"""One folder of a FAT volume in memory: its entries found, added, taken out. Pure.

Knows slots and names; where its clusters lie and how it gets more is the volume's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flasher import fatnames
from flasher.fatnames import FOLDER, SLOT, NewName, Record

MOST_SLOTS = 65536  # fatgen103: a folder is never longer than 2 MiB


@dataclass(frozen=True)
class Index:
    """The entries of a folder by folded name, long and short, and all short names in use."""

    by_name: dict[str, Record]
    shorts: frozenset[bytes]


@dataclass
class Folder:
    """A folder's content. `clusters` in order; the fixed root of FAT12 and FAT16 has none."""

    clusters: list[int]
    content: bytearray
    touched: bool = False
    _index: Index | None = field(default=None, repr=False)

    @property
    def slots(self) -> int:
        """How many entries there is room for."""
        return len(self.content) // SLOT

    def records(self, *, cluster_mask: int) -> list[Record]:
        """Give all entries, dots and label included."""
        return fatnames.records(self.content, cluster_mask=cluster_mask)

    def index(self, *, cluster_mask: int) -> Index:
        """Give what finds entries by name, the first of each name. Kept until an edit."""
        if self._index is None:
            found = self.records(cluster_mask=cluster_mask)
            by_name: dict[str, Record] = {}
            for record in found:
                if not (record.is_label or record.is_dot):
                    for name in record.calls:
                        by_name.setdefault(name, record)
            self._index = Index(by_name, frozenset(record.short for record in found))
        return self._index

    def place(self, count: int) -> int:
        """Give the first of `count` free slots in a row; it may lie partly behind the end."""
        marks = self.content[: self.slots * SLOT : SLOT]
        end = marks.index(0) if 0 in marks else len(marks)
        # Linux does not stop at the end mark, so nothing may lie behind it.
        self.content[end * SLOT :] = bytes(len(self.content) - end * SLOT)
        free = bytes(mark in (0, fatnames.DELETED) for mark in marks[:end])
        free += b"\1" * (len(marks) - end)
        at = free.find(b"\1" * count)
        return at if at >= 0 else len(free.rstrip(b"\1"))

    def grow(self, clusters: list[int], *, cluster_size: int) -> None:
        """Add empty clusters."""
        self.clusters += clusters
        self.content += bytes(len(clusters) * cluster_size)

    def put(self, at: int, slots: bytes) -> None:
        """Put slots at a place."""
        self.content[at * SLOT : at * SLOT + len(slots)] = slots
        self._edited()

    def update(self, record: Record, *, cluster: int, size: int, when: int) -> None:
        """Give an entry other content, keeping its names and attributes."""
        slot = bytes(self.content[record.last * SLOT : (record.last + 1) * SLOT])
        self.put(record.last, fatnames.restamp(slot, cluster=cluster, size=size, when=when))

    def delete(self, record: Record) -> None:
        """Mark all slots of an entry as free."""
        for slot in range(record.first, record.last + 1):
            self.content[slot * SLOT] = fatnames.DELETED
        self._edited()

    def _edited(self) -> None:
        self.touched = True
        self._index = None


def empty(cluster: int, *, parent: int, cluster_size: int, when: int) -> Folder:
    """Give a new folder of one cluster; `parent` is 0 for the root, on FAT32 too."""
    folder = Folder([cluster], bytearray(cluster_size), touched=True)
    for place, (dots, first) in enumerate(((b".", cluster), (b"..", parent))):
        name = NewName(dots.ljust(11), 0, "")
        slot = fatnames.encode(name, attributes=FOLDER, cluster=first, size=0, when=when)
        folder.put(place, slot)
    return folder
