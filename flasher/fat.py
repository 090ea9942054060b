"""Edits of FAT12, FAT16 and FAT32 volumes, given as runs of bytes. Pure; writes nothing.

The door to the FAT modules: fatvolume (files and folders), fatfolder and fatnames (entries),
fatlayout (geometry and FAT), fatoverlay (what differs from the source).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flasher import fatnames
from flasher.errors import ImageError
from flasher.fatvolume import Entry, FatVolume, too_full
from flasher.model import ReadAt, Run

__all__ = ["Entry", "FatVolume", "patch"]


def patch(
    source: ReadAt, edits: Mapping[str, bytes], *, when: int, size: int | None = None
) -> tuple[Run, ...]:
    """Give the runs that put each file (path -> content) on the volume, adding and replacing.

    Same input, same runs. `when`: UTC seconds for the files' dates; `size`: bytes of the partition,
    if known. ImageError before anything is given: not a FAT volume, damaged, too full, names that
    FAT cannot hold.
    """
    volume = FatVolume(source, when=when, size=size)
    volume.check()
    _refuse_same_names(edits)
    growth = {path: volume.growth(path, len(data)) for path, data in edits.items()}
    folders = {path for edit in edits for path in _above(fatnames.fold(edit))}
    missing = sum(not volume.exists(path) for path in folders)
    needed = sum(growth.values()) + missing * volume.cluster_size
    if needed > volume.free_bytes:
        raise too_full(f"the seed's {len(edits)} files", needed=needed, free=volume.free_bytes)
    # What shrinks goes first, so that what grows finds the room.
    for path in sorted(edits, key=lambda path: (growth[path], path)):
        volume.write(path, edits[path])
    return volume.runs()


def _above(path: str) -> Iterator[str]:
    """Give the folders that a path is in."""
    while path := path.rpartition("/")[0]:
        yield path


def _refuse_same_names(edits: Mapping[str, bytes]) -> None:
    spellings: dict[str, str] = {}
    for path in sorted(edits):
        other = spellings.setdefault(fatnames.fold(path), path)
        if other != path:
            raise ImageError(
                f"boot partition: {other!r} and {path!r} are the same file on FAT",
                hint="give one of them another name",
            )
