"""Image + target + seed -> CardPlan: all that the writer will do, decided before it touches anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from flasher.model import Image, Partition, PermitKind, Role, Run, Target


@dataclass(frozen=True)
class Layout:
    """The base image's own layout. `size`: bytes from the first sector to the last partition's end."""

    size: int
    signature: int
    boot: Partition
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class FileChange:
    """One file that the seed puts on the boot partition, or takes the place of."""

    path: str
    size: int
    replaces: bool


@dataclass(frozen=True)
class CardPlan:
    """One card: what is written where, from what. The writer accepts nothing else.

    `patch` has absolute offsets in the image, sorted, not overlapping. `size` is that of the whole
    decompressed image where it is known, else the least it can be (the end of the last partition).
    """

    cluster: str
    node: str
    role: Role
    generation: int
    epoch: int
    permit: PermitKind | None
    image: Image
    layout: Layout
    size: int
    target: Target
    files: tuple[FileChange, ...]
    verify: bool
    patch: tuple[Run, ...] = field(repr=False)
