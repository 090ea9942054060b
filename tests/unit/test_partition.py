"""The MBR: what is read from it and what is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasher import partition
from flasher.errors import ImageError
from flasher.model import Partition

Row = tuple[int, int, int]  # type, first sector, sectors
HYPRIOT: tuple[Row, ...] = ((0x0C, 2048, 131072), (0x83, 133120, 2529279))


def sector(
    *rows: Row, signature: int = 0x2FED7FEE, status: int = 0, end: bytes = b"\x55\xaa"
) -> bytes:
    table = b"".join(struct.pack("<B3xB3xII", status, *row) for row in rows)
    return b"\0" * 440 + struct.pack("<IH", signature, 0) + table.ljust(64, b"\0") + end


def test_reads_the_table_of_hypriotos() -> None:
    mbr = partition.parse(sector(*HYPRIOT), image="hypriotos")
    assert mbr.signature == 0x2FED7FEE
    assert mbr.partitions == (
        Partition(1, 0x0C, 1 << 20, 64 << 20),
        Partition(2, 0x83, 133120 * 512, 2529279 * 512),
    )
    assert partition.boot_partition(mbr, image="hypriotos").number == 1


def test_numbers_follow_the_table_though_entries_are_unused() -> None:
    mbr = partition.parse(sector((0, 0, 0), (0x83, 2048, 8), (0x06, 63, 100)), image="i")
    assert [part.number for part in mbr.partitions] == [2, 3]
    assert partition.boot_partition(mbr, image="i").number == 3


@pytest.mark.parametrize("kind", [0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E])
def test_takes_every_fat_type(kind: int) -> None:
    mbr = partition.parse(sector((0x83, 1, 1), (kind, 2, 1), (0x0C, 3, 1)), image="i")
    assert partition.boot_partition(mbr, image="i").number == 2


REFUSED = {
    "short": (sector(*HYPRIOT)[:511], "511 bytes"),
    "empty file": (b"", "0 bytes"),
    "no signature": (sector(*HYPRIOT, end=b"\0\0"), "no MBR"),
    "zeros": (b"\0" * 512, "no MBR"),
    "no partitions": (sector(), "no partitions"),
    "gpt": (sector((0xEE, 1, 0xFFFFFFFF)), "GPT"),
    "hybrid gpt": (sector((0x0C, 2048, 100), (0xEE, 1, 2047)), "GPT"),
    "extended 05": (sector(*HYPRIOT, (0x05, 3000000, 100)), "extended"),
    "extended 0f": (sector(*HYPRIOT, (0x0F, 3000000, 100)), "extended"),
    "extended 85": (sector(*HYPRIOT, (0x85, 3000000, 100)), "extended"),
    "no sectors": (sector((0x0C, 2048, 0)), "0 sectors"),
    "at the table": (sector((0x0C, 0, 100)), "sector 0"),
    "overlap": (sector((0x0C, 2048, 131073), HYPRIOT[1]), "1 and 2 overlap"),
    "overlap in another order": (sector(HYPRIOT[1], (0x0C, 2048, 131073)), "2 and 1 overlap"),
    "status": (sector(*HYPRIOT, status=0x42), "0x42"),
}


@pytest.mark.parametrize(("data", "words"), REFUSED.values(), ids=REFUSED)
def test_refuses_with_the_image_the_reason_and_a_remedy(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        partition.parse(data, image="my.img")
    assert caught.value.message.startswith("my.img: ")
    assert words in caught.value.message
    assert caught.value.hint


def test_refuses_an_image_without_fat() -> None:
    mbr = partition.parse(sector((0x83, 2048, 8), (0x82, 4096, 8)), image="my.img")
    with pytest.raises(ImageError, match=r"my\.img: an image without FAT.*0x83, 0x82") as caught:
        partition.boot_partition(mbr, image="my.img")
    assert caught.value.hint


@given(st.binary(min_size=510, max_size=510))
def test_any_sector_gives_apart_partitions_or_an_error(data: bytes) -> None:
    try:
        mbr = partition.parse(data + b"\x55\xaa", image="i")
    except ImageError:
        return
    places = sorted((part.offset, part.end) for part in mbr.partitions)
    assert all(0 < start < end for start, end in places)
    assert all(one[1] <= other[0] for one, other in pairwise(places))


@given(
    st.lists(st.tuples(st.integers(1, 255), st.integers(1, 5000)), min_size=1, max_size=4),
    st.sampled_from([0x00, 0x80]),
)
def test_tables_of_apart_partitions_are_read_back(
    parts: list[tuple[int, int]], status: int
) -> None:
    kinds = [kind for kind, _ in parts]
    rows, start = [], 1
    for kind, count in parts:
        rows.append((kind, start, count))
        start += count
    if {0x05, 0x0F, 0x85, 0xEE} & set(kinds):
        with pytest.raises(ImageError):
            partition.parse(sector(*rows, status=status), image="i")
        return
    mbr = partition.parse(sector(*rows, status=status), image="i")
    assert [(p.type, p.offset // 512, p.size // 512) for p in mbr.partitions] == rows
