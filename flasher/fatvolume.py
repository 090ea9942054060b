"""A FAT12, FAT16 or FAT32 volume read and edited over a source that stays as it is. Pure.

Only the boot sector, FSInfo, the FATs and the folders are read, in ascending order as far as the
volume allows, because the source is often a stream that has to be reopened to go back.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flasher import fatfolder, fatlayout, fatnames
from flasher.errors import ImageError
from flasher.fatfolder import MOST_SLOTS, Folder
from flasher.fatlayout import damaged
from flasher.fatnames import Record
from flasher.fatoverlay import Overlay
from flasher.model import ReadAt, Run

_ROOT = 0  # what stands for the root where a folder is named by its first cluster
_LONGEST_PATH = 4096  # Linux PATH_MAX
_MORE_ROOM = (
    "use an image with more room on its boot partition, or take stacks or files out of the "
    "cluster file"
)


@dataclass(frozen=True)
class Entry:
    """One file or folder. `path` has `/` between its names; `first_cluster` is 0 if it has none."""

    path: str
    size: int
    is_dir: bool
    attributes: int
    first_cluster: int


def too_full(what: str, *, needed: int, free: int) -> ImageError:
    """Give the error for a volume without the room; sizes in bytes."""
    return ImageError(
        f"boot partition: too full for {what}: {needed} bytes more are needed, in whole "
        f"clusters, and {free} are free",
        hint=_MORE_ROOM,
    )


def _refuse_nowhere(record: Record | None, owner: str) -> None:
    if record and record.is_folder and record.cluster == 0:
        raise damaged(f"folder {record.name!r} in {owner!r} has no cluster")


class FatVolume:
    """A FAT volume and the edits made to it so far; the source never changes.

    `when`: UTC seconds, the date of what is written. `size`: bytes of the partition, if known. Any
    method raises ImageError on a damaged volume; after an error in an edit discard the volume.
    """

    def __init__(self, source: ReadAt, *, when: int = 0, size: int | None = None) -> None:
        self._when = when
        self._overlay = Overlay(source, size)
        layout = self._layout = fatlayout.parse(source.read_at(0, 512))
        self._overlay.limit(layout.size)
        if not layout.mirrored:
            raise ImageError(
                "boot partition: FAT mirroring is off (FAT32 extension flags)",
                hint="use an image whose boot partition keeps its FATs the same",
            )
        self._infos = {at: self._overlay.original(at, layout.sector_size) for at in layout.infos}
        self._copies = [
            layout.table_offset + i * layout.table_size for i in range(layout.table_copies)
        ]
        first, *others = (self._overlay.original(at, layout.table_used) for at in self._copies)
        self._table = fatlayout.Table(first, layout)
        used = self._table.used_bytes
        self._same = all(other[:used] == first[:used] for other in others)
        self._folders: dict[int, Folder] = {}
        self._checked = self._edited = False

    # --- reading ---

    @property
    def kind(self) -> str:
        """`FAT12`, `FAT16` or `FAT32`, by the count of clusters."""
        return f"FAT{self._layout.bits}"

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster."""
        return self._layout.cluster_size

    @property
    def free_bytes(self) -> int:
        """Bytes in free clusters, after the edits made so far."""
        return self._table.free * self._layout.cluster_size

    @property
    def label(self) -> str:
        """The volume's label, from the root or else from the boot sector; empty if it has none."""
        raw = next((r.short for r in self._records(_ROOT, "/") if r.is_label), self._layout.label)
        text = raw.decode("cp437").rstrip(" \0")
        return "" if text == "NO NAME" else text

    def walk(self) -> Iterator[Entry]:
        """Give every file and folder, a folder before what is in it."""
        for path, record in self._tree():
            yield Entry(path, record.size, record.is_folder, record.attributes, record.cluster)

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder of that name, upper and lower case being the same."""
        return self._find(path) is not None

    def read(self, path: str) -> bytes:
        """Give a file's content. ImageError if it is missing or a folder."""
        record = self._find(path)
        if record is None or record.is_folder:
            what = "not there" if record is None else "a folder, not a file"
            raise ImageError(f"boot partition: {path}: {what}", hint="name a file that it has")
        clusters = self._chain(record, path)
        self._refuse_short(record, clusters, path)
        content = b"".join(self._pieces(clusters[: self._layout.clusters_for(record.size)]))
        return content[: record.size]

    def _pieces(self, clusters: Sequence[int]) -> Iterator[bytes]:
        """Give the clusters' content with one read for clusters that follow each other."""
        start = 0
        for stop in range(1, len(clusters) + 1):
            put = self._overlay.latest(self._layout.offset_of(clusters[start]))
            if put is not None:
                yield put
                start = stop
                continue
            if stop < len(clusters):
                after = clusters[stop]
                untouched = self._overlay.latest(self._layout.offset_of(after)) is None
                if after == clusters[stop - 1] + 1 and untouched:
                    continue
            offset = self._layout.offset_of(clusters[start])
            yield self._overlay.source(offset, (stop - start) * self.cluster_size)
            start = stop

    # --- checking ---

    def check(self) -> None:
        """ImageError if the volume is damaged. Reads every folder.

        The dirty flag alone is no damage: it says that nobody unmounted the image that was
        published, and everything that could be wrong then is looked at here.
        """
        if not self._same:
            raise damaged("its copies of the FAT differ")
        seen = bytearray(self._table.end)
        if self._layout.root_cluster:
            self._table.chain(self._layout.root_cluster, owner="/", seen=seen)
        for path, record in self._tree():
            clusters = self._table.chain(record.cluster, owner=repr(path), seen=seen)
            self._refuse_short(record, clusters, path)
        self._checked = True

    def _refuse_short(self, record: Record, clusters: Sequence[int], path: str) -> None:
        if not record.is_folder and len(clusters) < self._layout.clusters_for(record.size):
            raise damaged(
                f"{path!r} has {record.size} bytes, but only {len(clusters)} clusters of "
                f"{self.cluster_size}"
            )

    def _tree(self) -> Iterator[tuple[str, Record]]:
        """Give all entries; of the folders known so far, the one that lies first is read first."""
        waiting = [(_ROOT, "")]
        seen = {_ROOT, self._layout.root_cluster}
        while waiting:
            key, prefix = heapq.heappop(waiting)
            for record in self._files(key, prefix):
                path = prefix + record.name
                if len(path) > _LONGEST_PATH:
                    raise damaged(f"folders nested deeper than {_LONGEST_PATH} characters of path")
                yield path, record
                if record.is_folder:
                    if record.cluster in seen:
                        raise damaged(f"folder {path!r} is inside itself or is there twice")
                    seen.add(record.cluster)
                    heapq.heappush(waiting, (record.cluster, path + "/"))

    # --- editing ---

    def write(self, path: str, data: bytes) -> None:
        """Make the file's content `data`, adding the file and its folders if they are not there.

        An existing file keeps its names and attributes. Clusters that it gives up are zeroed.
        """
        self._editable()
        *folders, name = path.split("/")
        parent = self._folder_for(folders)
        record = self._named(parent, name, path)
        if record and record.is_folder:
            raise ImageError(f"boot partition: {path}: a folder", hint="give the file another name")
        old = self._chain(record, path) if record else []
        clusters = self._resized(old, self._layout.clusters_for(len(data)), path)
        for index, cluster in enumerate(clusters):
            part = data[index * self.cluster_size : (index + 1) * self.cluster_size]
            self._put(cluster, part)
        first = clusters[0] if clusters else 0
        if record is None:
            self._insert(parent, name, fatnames.ARCHIVE, first, len(data), path)
            return
        folder = self._folder(parent, path)
        folder.update(record, cluster=first, size=len(data), when=self._when)

    def mkdir(self, path: str) -> None:
        """Make a folder and the folders it is in; one that is there already is left alone."""
        self._editable()
        self._folder_for(path.split("/"))

    def remove(self, path: str) -> None:
        """Remove a file or an empty folder and zero its clusters. ImageError if it is not there."""
        self._editable()
        record = self._find(path)
        above = path.rpartition("/")[0]
        parent = self._find(above) if above else None
        if record is None:
            raise ImageError(f"boot partition: {path}: not there", hint="name a file that it has")
        if record.is_folder:
            if self._files(record.cluster, path):
                raise ImageError(
                    f"boot partition: {path}: a folder that is not empty",
                    hint="remove what is in it first",
                )
            self._folders.pop(record.cluster, None)
        self._wipe(self._chain(record, path))
        self._folder(parent.cluster if parent else _ROOT, path).delete(record)

    def runs(self) -> tuple[Run, ...]:
        """Give all edits as runs: sorted, apart from each other, offsets in the volume.

        FATs, folders and FSInfo give the sectors that differ. The clusters of a file that was
        written are given whole, because what they held was not read.
        """
        for folder in self._folders.values():
            if folder.touched:
                self._put_folder(folder)
        if self._edited:
            raw = self._table.raw()
            for at in self._copies:
                self._overlay.put(at, raw)
            for at, sector in self._infos.items():
                self._overlay.put(at, self._info(sector))
        return self._overlay.runs(self._layout.sector_size)

    # --- folders ---

    def _folder(self, key: int, owner: str) -> Folder:
        """Give a folder by its first cluster, read once and kept."""
        if key not in self._folders:
            first = self._layout.root_cluster if key == _ROOT else key
            clusters = self._table.chain(first, owner=repr(owner))
            if len(clusters) * self.cluster_size > MOST_SLOTS * fatnames.SLOT:
                raise damaged(f"folder {owner!r} has more than {MOST_SLOTS} entries")
            size = self.cluster_size
            parts = [self._overlay.original(self._layout.offset_of(c), size) for c in clusters]
            if not clusters and key == _ROOT:
                fixed = self._layout.root_offset, self._layout.root_size
                parts = [self._overlay.original(*fixed)]
            self._folders[key] = Folder(clusters, bytearray().join(parts))
        return self._folders[key]

    def _records(self, key: int, owner: str) -> list[Record]:
        return self._folder(key, owner).records(cluster_mask=self._layout.cluster_mask)

    def _files(self, key: int, owner: str) -> list[Record]:
        found = [r for r in self._records(key, owner) if not (r.is_label or r.is_dot)]
        for record in found:
            _refuse_nowhere(record, owner)
        return found

    def _named(self, key: int, name: str, owner: str) -> Record | None:
        index = self._folder(key, owner).index(cluster_mask=self._layout.cluster_mask)
        record = index.by_name.get(fatnames.fold(name))
        _refuse_nowhere(record, owner)
        return record

    def _find(self, path: str) -> Record | None:
        *folders, name = path.split("/")
        key = _ROOT
        for folder in folders:
            record = self._named(key, folder, path)
            if record is None or not record.is_folder:
                return None
            key = record.cluster
        return self._named(key, name, path)

    def _chain(self, record: Record, path: str) -> list[int]:
        return self._table.chain(record.cluster, owner=repr(path))

    # --- steps of an edit ---

    def _editable(self) -> None:
        if not self._checked:
            self.check()
        self._edited = True

    def _folder_for(self, names: Sequence[str]) -> int:
        """Give the folder of that path, made if need be."""
        key = _ROOT
        for depth, name in enumerate(names, 1):
            path = "/".join(names[:depth])
            record = self._named(key, name, path)
            if record is None:
                key = self._new_folder(key, name, path)
            elif record.is_folder:
                key = record.cluster
            else:
                raise ImageError(
                    f"boot partition: {path}: a file, but the seed needs a folder of that name",
                    hint="give the folder another name",
                )
        return key

    def _new_folder(self, parent: int, name: str, path: str) -> int:
        (cluster,) = self._taken(1, path)
        self._folders[cluster] = fatfolder.empty(
            cluster, parent=parent, cluster_size=self.cluster_size, when=self._when
        )
        self._insert(parent, name, fatnames.FOLDER, cluster, 0, path)
        return cluster

    def _insert(
        self, key: int, name: str, attributes: int, cluster: int, size: int, path: str
    ) -> None:
        fatnames.refuse_name(name, path=path)
        folder = self._folder(key, path)
        shorts = folder.index(cluster_mask=self._layout.cluster_mask).shorts
        new = fatnames.new_name(name, taken=shorts)
        at = self._room(folder, new.slots, path)
        slots = fatnames.encode(
            new, attributes=attributes, cluster=cluster, size=size, when=self._when
        )
        folder.put(at, slots)

    def _room(self, folder: Folder, count: int, path: str) -> int:
        """Give the first of `count` free slots in a row; the folder grows if it has none."""
        at = folder.place(count)
        missing = at + count - folder.slots
        if missing > 0:
            if not folder.clusters or at + count > MOST_SLOTS:
                raise ImageError(
                    f"boot partition: no room for {path!r} in its folder of {folder.slots} "
                    f"entries: it takes {count} in a row",
                    hint=_MORE_ROOM,
                )
            more = self._taken(self._layout.clusters_for(missing * fatnames.SLOT), path)
            folder.grow(more, cluster_size=self.cluster_size)
            self._table.link(folder.clusters)
        return at

    def _put_folder(self, folder: Folder) -> None:
        if not folder.clusters:
            self._overlay.put(self._layout.root_offset, bytes(folder.content))
        for index, cluster in enumerate(folder.clusters):
            start = index * self.cluster_size
            self._put(cluster, folder.content[start : start + self.cluster_size])

    def _put(self, cluster: int, data: bytes | bytearray) -> None:
        padded = bytes(data).ljust(self.cluster_size, b"\0")
        self._overlay.put(self._layout.offset_of(cluster), padded)

    def _resized(self, clusters: list[int], count: int, path: str) -> list[int]:
        """Give a chain of `count` clusters that keeps those it has; given up ones are zeroed."""
        self._wipe(clusters[count:])
        kept = clusters[:count]
        chain = kept + self._taken(count - len(kept), path)
        self._table.link(chain)
        return chain

    def _wipe(self, clusters: Sequence[int]) -> None:
        zeros = bytes(self.cluster_size)
        for cluster in clusters:
            self._overlay.put(self._layout.offset_of(cluster), zeros)
        self._table.release(clusters)

    def _taken(self, count: int, path: str) -> list[int]:
        if count > self._table.free:
            raise too_full(path, needed=count * self.cluster_size, free=self.free_bytes)
        return self._table.take(count)

    def _info(self, sector: bytes) -> bytes:
        """Give an FSInfo sector with the right counts; one without its signatures is left alone."""
        if sector[:4] != b"RRaA" or sector[484:488] != b"rrAa" or sector[510:512] != b"\x55\xaa":
            return sector
        (hint,) = struct.unpack_from("<I", sector, 492)
        counts = struct.pack("<II", self._table.free, self._table.latest or hint)
        return sector[:488] + counts + sector[496:]

    def growth(self, path: str, size: int) -> int:
        """Give the bytes of clusters that a file takes more when it gets `size` bytes, or less."""
        record = self._find(path)
        has = len(self._chain(record, path)) if record else 0
        return (self._layout.clusters_for(size) - has) * self.cluster_size
