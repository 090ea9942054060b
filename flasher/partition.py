"""The MBR of a base image: first sector in, partitions out. Pure; reads and writes nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from flasher.errors import ImageError
from flasher.model import Partition

SECTOR = 512
FAT_TYPES = frozenset({0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E})
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_GPT_PROTECTIVE = 0xEE
_SUPPORTED = (
    "use an image with an MBR of primary partitions, the first FAT one being the boot partition, "
    "as HypriotOS has (piflash fetch --image hypriotos-1.12.3)"
)


@dataclass(frozen=True)
class Mbr:
    """A partition table: the disk signature and the used primary entries in table order."""

    signature: int
    partitions: tuple[Partition, ...]


def parse(first_sector: bytes, *, image: str) -> Mbr:
    """Read the MBR from the first 512 bytes of an image; `image` names it in errors.

    ImageError: no MBR, no partitions, GPT, extended, empty or overlapping partitions.
    """
    if len(first_sector) < SECTOR:
        raise ImageError(
            f"{image}: has {len(first_sector)} bytes where a partition table needs {SECTOR}",
            hint="the file is cut short: download it again, or name another with --image",
        )
    if first_sector[510:512] != b"\x55\xaa":
        raise ImageError(
            f"{image}: no MBR: the first sector ends in {first_sector[510:512].hex()}, not 55aa",
            hint=_SUPPORTED,
        )
    entries = [first_sector[446 + 16 * i : 462 + 16 * i] for i in range(4)]
    partitions = tuple(_partition(i, raw, image) for i, raw in enumerate(entries, 1) if raw[4])
    if not partitions:
        raise ImageError(f"{image}: the MBR has no partitions", hint=_SUPPORTED)
    _refuse_overlap(partitions, image)
    (signature,) = struct.unpack_from("<I", first_sector, 440)
    return Mbr(signature, partitions)


def boot_partition(mbr: Mbr, *, image: str) -> Partition:
    """Give the first partition of a FAT type. ImageError if there is none."""
    for part in mbr.partitions:
        if part.type in FAT_TYPES:
            return part
    types = ", ".join(f"{part.type:#04x}" for part in mbr.partitions)
    raise ImageError(
        f"{image}: an image without FAT: partition types are {types}, none of them FAT; "
        "the seed needs a FAT boot partition",
        hint=_SUPPORTED,
    )


def _partition(number: int, raw: bytes, image: str) -> Partition:
    status, kind, start, count = struct.unpack("<B3xB3xII", raw)
    where = f"{image}: partition {number}"
    if status not in (0x00, 0x80):
        raise ImageError(
            f"{where}: status byte {status:#04x} is neither 00 nor 80: damaged partition table, "
            "or an image of a single partition",
            hint=_SUPPORTED,
        )
    if kind == _GPT_PROTECTIVE:
        raise ImageError(f"{where}: type 0xee: GPT images are not supported", hint=_SUPPORTED)
    if kind in _EXTENDED:
        raise ImageError(
            f"{where}: type {kind:#04x}: extended partitions are not supported", hint=_SUPPORTED
        )
    if start == 0 or count == 0:
        raise ImageError(
            f"{where}: starts at sector {start} and has {count} sectors: damaged partition table",
            hint=_SUPPORTED,
        )
    return Partition(number, kind, start * SECTOR, count * SECTOR)


def _refuse_overlap(partitions: tuple[Partition, ...], image: str) -> None:
    for one, other in pairwise(sorted(partitions, key=lambda part: part.offset)):
        if other.offset < one.end:
            raise ImageError(
                f"{image}: partitions {one.number} and {other.number} overlap: one ends at byte "
                f"{one.end}, the other starts at byte {other.offset}",
                hint=_SUPPORTED,
            )
