"""FAT volumes in memory: types, names, dates, damage, and that nothing stale stays behind."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import fat, fatfolder, fatlayout, fatnames
from flasher.errors import ImageError
from flasher.fatnames import NewName

WHEN = 1_763_800_000
SECTOR = 512


@dataclass
class Memory:
    """A volume in memory that notes what is read."""

    data: bytearray
    reads: list[tuple[int, int]] = field(default_factory=list)

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return bytes(self.data[offset : offset + size])

    def apply(self, edits: dict[str, bytes]) -> Memory:
        return self.done(fat.FatVolume(self, when=WHEN), edits)

    def done(self, volume: fat.FatVolume, edits: dict[str, bytes] | None = None) -> Memory:
        for path, content in (edits or {}).items():
            volume.write(path, content)
        after = bytearray(self.data)
        for run in volume.runs():
            after[run.offset : run.end] = run.data
        return Memory(after)


@dataclass
class Sparse:
    """A volume of zeros but for a few pieces, each within its sector, that notes what is read."""

    pieces: dict[int, bytes]
    reads: list[tuple[int, int]] = field(default_factory=list)

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        data = bytearray(size)
        for at, piece in self.pieces.items():
            if offset <= at < offset + size:
                data[at - offset : at - offset + len(piece)] = piece
        return bytes(data)


def boot_sector(
    clusters: int, *, wide: bool, per_cluster: int = 1, table: int | None = None
) -> bytes:
    bits = 32 if wide else 16 if clusters >= 4085 else 12
    table = table or -(-(clusters + 2) * bits // 8 // SECTOR) + 1
    reserved, entries = (32, 0) if wide else (1, 64)
    total = reserved + 2 * table + entries * 32 // SECTOR + clusters * per_cluster
    boot = bytearray(SECTOR)
    struct.pack_into(
        "<HBHBHHBH",
        boot,
        11,
        SECTOR,
        per_cluster,
        reserved,
        2,
        entries,
        total if total < 65536 and not wide else 0,
        0xF8,
        0 if wide else table,
    )
    struct.pack_into("<I", boot, 32, total if total >= 65536 or wide else 0)
    if wide:
        struct.pack_into("<IHHIHH", boot, 36, table, 0, 0, 2, 1, 6)
    boot[510:] = b"\x55\xaa"
    return bytes(boot)


def empty(clusters: int, *, wide: bool | None = None, per_cluster: int = 1) -> Memory:
    """Format a volume: an independent reading of fatgen103, no more than the tests need."""
    wide = clusters >= 65525 if wide is None else wide
    boot = boot_sector(clusters, wide=wide, per_cluster=per_cluster)
    layout = fatlayout.parse(boot)
    data = bytearray(layout.size)
    data[:SECTOR] = boot
    heads = {
        12: b"\xf8\xff\xff",
        16: b"\xf8\xff\xff\xff",
        32: b"\xf8\xff\xff\x0f\xff\xff\xff\x0f" * 2,
    }
    head = heads[layout.bits][:12]
    for copy in range(2):
        at = layout.table_offset + copy * layout.table_size
        data[at : at + len(head)] = head
    if wide:
        info = bytearray(SECTOR)
        info[:4], info[484:488], info[510:] = b"RRaA", b"rrAa", b"\x55\xaa"
        struct.pack_into("<II", info, 488, clusters - 1, 2)
        data[SECTOR : 2 * SECTOR] = data[7 * SECTOR : 8 * SECTOR] = info
        data[6 * SECTOR : 7 * SECTOR] = boot
    return Memory(data)


SMALL = 300


# --- the type ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clusters", "kind"),
    [(1, 12), (4084, 12), (4085, 16), (65524, 16), (65525, 32), (70000, 32)],
)
def test_type_follows_the_count_of_clusters(clusters: int, kind: int) -> None:
    layout = fatlayout.parse(boot_sector(clusters, wide=kind == 32))
    assert (layout.bits, layout.cluster_count) == (kind, clusters)


@pytest.mark.parametrize(("clusters", "wide"), [(65524, True), (65525, False), (300, True)])
def test_refuses_boot_sector_whose_shape_contradicts_the_count(clusters: int, wide: bool) -> None:
    table = 600 if wide else 256
    with pytest.raises(ImageError, match=f"{clusters} clusters"):
        fatlayout.parse(boot_sector(clusters, wide=wide, table=table))


def changed(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


BOOT = boot_sector(SMALL, wide=False)
BOOT32 = boot_sector(65525, wide=True)
BAD_BOOTS = {
    "zeros": bytes(512),
    "short": BOOT[:500],
    "nothing": b"",
    "no signature": changed(BOOT, 510, b"\0\0"),
    "sectors of 256": changed(BOOT, 11, b"\0\x01"),
    "sectors of 8192": changed(BOOT, 11, b"\0\x20"),
    "sectors of 513": changed(BOOT, 11, b"\x01\x02"),
    "no sectors a cluster": changed(BOOT, 13, b"\0"),
    "three sectors a cluster": changed(BOOT, 13, b"\3"),
    "nothing reserved": changed(BOOT, 14, b"\0\0"),
    "no FAT": changed(BOOT, 16, b"\0"),
    "no FAT size": changed(BOOT, 22, b"\0\0"),
    "too small": changed(BOOT, 19, b"\5\0"),
    "FAT too small for the clusters": changed(BOOT32, 36, b"\x01\0\0\0"),
    "version": changed(BOOT32, 42, b"\1\0"),
    "a FAT beyond all measure": changed(changed(BOOT32, 36, b"\0\0\x40\0"), 32, b"\xff" * 4),
}


@pytest.mark.parametrize("boot", BAD_BOOTS.values(), ids=BAD_BOOTS)
def test_refuses_what_is_no_fat_volume(boot: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        fat.FatVolume(Memory(bytearray(boot)))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (21, b"\0", "media byte 0x00"),
        (21, b"\xef", "media byte 0xef"),
        (21, b"\xf1", "media byte 0xf1"),
        (21, b"\xf7", "media byte 0xf7"),
        (17, b"\x41\0", "root folder of 2080 bytes does not fill sectors of 512"),
        (16, b"\3", "3 FATs; 2 are supported"),
        (16, b"\xff", "255 FATs; 2 are supported"),
    ],
)
def test_refuses_volumes_that_other_systems_refuse(offset: int, value: bytes, message: str) -> None:
    source = empty(SMALL)
    source.data[:SECTOR] = changed(BOOT, offset, value)
    with pytest.raises(ImageError, match=message) as caught:
        fat.FatVolume(source)
    assert caught.value.hint


@pytest.mark.parametrize("media", [0xF0, 0xF8, 0xFF])
def test_takes_the_media_bytes_that_linux_takes(media: int) -> None:
    assert fatlayout.parse(changed(BOOT, 21, bytes([media]))).bits == 12


def test_reads_of_a_fat_only_what_its_clusters_need() -> None:
    boot = boot_sector(70000, wide=True, table=600 << 11)
    layout = fatlayout.parse(boot)
    head = b"\xf8\xff\xff\x0f\xff\xff\xff\x0f" * 2
    sparse = Sparse({0: boot} | {layout.table_offset + i * (600 << 20): head for i in range(2)})
    runs = fat.patch(sparse, {"config.txt": b"1"}, when=WHEN)
    assert layout.table_used == -(-70002 * 4 // SECTOR) * SECTOR
    assert max(size for _, size in sparse.reads) == layout.table_used
    starts = [run.offset for run in runs]
    assert starts[:3] == [SECTOR * 32, SECTOR * 32 + (600 << 20), layout.data_offset]


def test_refuses_volume_larger_than_its_partition() -> None:
    source = empty(SMALL)
    with pytest.raises(ImageError, match="the partition only 1000"):
        fat.patch(source, {}, when=WHEN, size=1000)


def test_refuses_source_that_ends_in_the_fat() -> None:
    with pytest.raises(ImageError, match="ends at byte 600"):
        fat.FatVolume(Memory(empty(SMALL).data[:600]))


def test_refuses_fat32_without_mirroring() -> None:
    source = empty(65525)
    source.data[40] = 0x81
    with pytest.raises(ImageError, match="mirroring"):
        fat.FatVolume(source)


# --- names -------------------------------------------------------------------------------------

LOWER_BASE, LOWER_EXTENSION = 0x08, 0x10
NAMES = {
    "config.txt": ("CONFIG  TXT", LOWER_BASE | LOWER_EXTENSION, ""),
    "CONFIG.TXT": ("CONFIG  TXT", 0, ""),
    "config.TXT": ("CONFIG  TXT", LOWER_BASE, ""),
    "CONFIG.txt": ("CONFIG  TXT", LOWER_EXTENSION, ""),
    "Config.txt": ("CONFIG  TXT", 0, "Config.txt"),
    "config.Txt": ("CONFIG  TXT", 0, "config.Txt"),
    "overlays": ("OVERLAYS   ", LOWER_BASE, ""),
    "1234.56": ("1234    56 ", 0, ""),
    "user-data": ("USER-D~1   ", 0, "user-data"),
    "cmdline.text": ("CMDLIN~1TEX", 0, "cmdline.text"),
    ".hidden": ("HIDDEN~1   ", 0, ".hidden"),
    "a.b.c": ("AB~1    C  ", 0, "a.b.c"),
    "a b.txt": ("AB~1    TXT", 0, "a b.txt"),
    "a+b.txt": ("A_B~1   TXT", 0, "a+b.txt"),
    "é": ("_~1        ", 0, "é"),
    "straße.txt": ("STRA_E~1TXT", 0, "straße.txt"),
    "\u0131.txt": ("I~1     TXT", 0, "\u0131.txt"),
    "😀": ("_~1        ", 0, "😀"),
    "...x": ("X~1        ", 0, "...x"),
    " lead": ("LEAD~1     ", 0, " lead"),
    "{~}'`.!#$": ("{~}'`   !#$", 0, ""),
}


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_stores_names_as_windows_and_linux_do(name: str) -> None:
    short, lower, long = NAMES[name]
    assert fatnames.new_name(name, taken=()) == NewName(short.encode(), lower, long)


def test_counts_short_names_up_past_those_taken() -> None:
    taken = [f"LONGNA~{i}TXT".encode() for i in range(1, 10)]
    assert fatnames.new_name("longname here.txt", taken=taken).short == b"LONGN~10TXT"


def test_checksum_and_layout_of_a_long_name_are_those_of_the_specification() -> None:
    # fatgen103 page 30: "The quick brown.fox" in two slots before THEQUI~1.FOX
    new = fatnames.new_name("The quick brown.fox", taken=())
    raw = fatnames.encode(new, attributes=0x20, cluster=7, size=9, when=WHEN)
    second, first, short = raw[:32], raw[32:64], raw[64:]
    assert second[:11] == b"\x42" + "wn.fo".encode("utf-16-le")
    assert second[11:14] == bytes([0x0F, 0, 0x07])
    assert second[14:26] == "x\0".encode("utf-16-le") + b"\xff" * 8
    assert second[26:] == b"\0\0" + b"\xff" * 4
    assert first[:11] == b"\x01" + "The q".encode("utf-16-le")
    assert first[14:26] + first[28:] == "uick bro".encode("utf-16-le")
    assert short[:11] == b"THEQUI~1FOX"


@given(st.text(min_size=1, max_size=255))
def test_every_name_is_refused_or_read_back(name: str) -> None:
    try:
        fatnames.refuse_name(name, path=name)
    except ImageError:
        return
    new = fatnames.new_name(name, taken=())
    raw = fatnames.encode(new, attributes=0x20, cluster=70000, size=9, when=WHEN)
    assert len(raw) == new.slots * 32
    (record,) = fatnames.records(raw, cluster_mask=0x0FFFFFFF)
    assert (record.name, record.cluster, record.size) == (name, 70000, 9)
    assert (record.first, record.last) == (0, new.slots - 1)
    assert fatnames.fold(name) in record.calls
    assert not set(new.short) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~ ")


BAD_NAMES = [
    "",
    ".",
    "..",
    "a ",
    "a.",
    "a:b",
    'a"b',
    "a*",
    "a?",
    "a|b",
    "a<",
    "a>",
    "a\\b",
    "a\x1f",
]
BAD_NAMES += ["x" * 256, "😀" * 128, "\ud800", "a\x7f"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_refuses_names_that_fat_cannot_hold(name: str) -> None:
    with pytest.raises(ImageError, match="cannot be stored") as caught:
        fat.patch(empty(SMALL), {f"folder/{name}": b"x"}, when=WHEN)
    assert caught.value.hint


def test_reads_lower_case_flags_and_eight_bit_names() -> None:
    source = empty(SMALL)
    layout = fatlayout.parse(bytes(source.data[:512]))
    slot = fatnames.encode(
        NewName(b"\x05\x8eA     TXT", 0x08, ""), attributes=0x20, cluster=0, size=0, when=0
    )
    source.data[layout.root_offset : layout.root_offset + 32] = slot
    assert [entry.path for entry in fat.FatVolume(source).walk()] == ["\u03c3äa.TXT"]
    assert fat.FatVolume(source).exists("\u03a3ÄA.txt")


def test_long_name_that_belongs_to_another_entry_is_not_taken() -> None:
    source = empty(SMALL).apply({"a long name": b""})
    root = fatlayout.parse(bytes(source.data[:512])).root_offset
    source.data[root + 32 : root + 43] = b"OTHER   TXT"
    assert [entry.path for entry in fat.FatVolume(source).walk()] == ["OTHER.TXT"]


ORPHAN = b"\x01" + b"A\0" * 5 + b"\x0f\0\0" + b"A\0" * 6 + b"\0\0" + b"A\0" * 2


def test_folders_full_of_long_name_slots_take_no_time_to_speak_of() -> None:
    slots = ORPHAN * fatfolder.MOST_SLOTS
    start = time.process_time()
    assert fatnames.records(slots, cluster_mask=0xFFFF) == []
    # A tenth of a second; the square of 65,536 slots took some four.
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("count", "long"), [(20, True), (21, False)])
def test_a_long_name_has_at_most_twenty_slots(count: int, long: bool) -> None:
    name = "x" * 13 * count
    raw = fatnames.encode(
        NewName(b"X          ", 0, name), attributes=0x20, cluster=0, size=0, when=0
    )
    (record,) = fatnames.records(raw, cluster_mask=0xFFFF)
    assert (record.name, record.first) == ((name, 0) if long else ("X", count))


def test_a_folder_is_parsed_once_for_all_lookups_and_anew_after_an_edit() -> None:
    folder = fatfolder.empty(5, parent=0, cluster_size=512, when=WHEN)
    before = folder.index(cluster_mask=0xFFFF)
    assert folder.index(cluster_mask=0xFFFF) is before
    new = fatnames.new_name("Some File.txt", taken=before.shorts)
    folder.put(2, fatnames.encode(new, attributes=0x20, cluster=0, size=0, when=WHEN))
    added = folder.index(cluster_mask=0xFFFF)
    assert set(added.by_name) == {"SOME FILE.TXT", "SOMEFI~1.TXT"}
    folder.update(added.by_name["SOME FILE.TXT"], cluster=9, size=1, when=WHEN)
    updated = folder.index(cluster_mask=0xFFFF).by_name["SOMEFI~1.TXT"]
    assert (updated.cluster, updated.size) == (9, 1)
    folder.delete(updated)
    assert folder.index(cluster_mask=0xFFFF) == before


def test_file_is_found_by_its_short_name_and_in_any_case() -> None:
    volume = fat.FatVolume(empty(SMALL), when=WHEN)
    volume.write("User-Data.yaml", b"1")
    volume.write("USER-D~1.YAM", b"22")
    volume.write("uSER-dATA.YAML", b"333")
    assert [(entry.path, entry.size) for entry in volume.walk()] == [("User-Data.yaml", 3)]
    assert volume.read("user-data.yaml") == b"333"


# --- dates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "date"),
    [
        (0, (1980, 1, 1, 0, 0, 0)),
        (-5, (1980, 1, 1, 0, 0, 0)),
        (315532800, (1980, 1, 1, 0, 0, 0)),
        (WHEN + 1, (2025, 11, 22, 8, 26, 40)),
        (10**12, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_stamps_utc_between_1980_and_2107(when: int, date: tuple[int, ...]) -> None:
    day, clock = fatnames.stamp(when)
    assert date == (
        (day >> 9) + 1980,
        day >> 5 & 15,
        day & 31,
        clock >> 11,
        clock >> 5 & 63,
        (clock & 31) * 2,
    )


def test_stamp_of_today_is_todays() -> None:
    assert datetime.fromtimestamp(WHEN, tz=timezone.utc).isoformat() == "2025-11-22T08:26:40+00:00"


# --- edits -------------------------------------------------------------------------------------

SIZES = [SMALL, 5000, 65600]


@pytest.mark.parametrize("clusters", SIZES)
def test_writes_replaces_and_removes(clusters: int) -> None:
    source = empty(clusters)
    first = source.apply({"config.txt": b"1" * 600, "a/b c/d.txt": b"2", "empty": b""})
    volume = fat.FatVolume(first, when=WHEN)
    free = volume.free_bytes
    volume.write("CONFIG.txt", b"3" * 2000)
    volume.remove("a/b c/d.txt")
    volume.remove("a/b c")
    second = first.done(volume)
    again = fat.FatVolume(second)
    again.check()
    assert [(e.path, e.size) for e in again.walk()] == [
        ("config.txt", 2000),
        ("a", 0),
        ("empty", 0),
    ]
    assert again.read("config.txt") == b"3" * 2000
    assert again.free_bytes == free  # two more for config.txt, two back from the folder
    assert {entry.path: entry.first_cluster for entry in again.walk()}["empty"] == 0


@pytest.mark.parametrize("clusters", SIZES)
def test_copies_of_the_fat_stay_the_same(clusters: int) -> None:
    after = empty(clusters).apply({"a": b"x" * 5000, "b": b"y"})
    layout = fatlayout.parse(bytes(after.data[:512]))
    start, size = layout.table_offset, layout.table_size
    assert after.data[start : start + size] == after.data[start + size : start + 2 * size]
    assert after.data[start : start + 16] != empty(clusters).data[start : start + 16]


def test_both_fsinfo_sectors_are_kept_right_and_strange_ones_left_alone() -> None:
    source = empty(65600)
    after = source.apply({"a": b"x" * 5000})
    assert struct.unpack_from("<II", after.data, 512 + 488) == (65600 - 1 - 10, 12)
    assert after.data[7 * 512 : 8 * 512] == after.data[512:1024]
    source.data[512 + 484] = 0
    after = source.apply({"a": b"x" * 5000})
    assert after.data[512:1024] == source.data[512:1024]
    assert struct.unpack_from("<I", after.data, 7 * 512 + 488) == (65600 - 1 - 10,)


def test_reserved_high_bits_of_fat32_entries_are_kept() -> None:
    source = empty(65600)
    layout = fatlayout.parse(bytes(source.data[:512]))
    for copy in range(2):
        at = layout.table_offset + copy * layout.table_size + 3 * 4
        source.data[at : at + 4] = b"\0\0\0\xa0"
    after = source.apply({"a": b"x" * 600})
    assert after.data[at : at + 8] == b"\x04\0\0\xa0\xff\xff\xff\x0f"
    assert fat.FatVolume(source).free_bytes == 65599 * 512


def test_bits_after_the_last_fat12_entry_are_kept() -> None:
    source = empty(301)  # 303 entries end in the middle of byte 454
    layout = fatlayout.parse(bytes(source.data[:512]))
    for copy in range(2):
        source.data[layout.table_offset + copy * layout.table_size + 454] = 0xA0
    after = source.apply({"a": b"x" * 512 * 301})
    for copy in range(2):
        assert after.data[layout.table_offset + copy * layout.table_size + 454] == 0xAF
    assert fat.FatVolume(after).read("a") == b"x" * 512 * 301


def test_folders_name_the_root_as_cluster_zero() -> None:
    after = empty(65600).apply({"folder/file": b""})
    at = after.data.index(b"..         \x10")
    assert after.data[at + 20 : at + 22] + after.data[at + 26 : at + 28] == bytes(4)


@pytest.mark.parametrize("clusters", SIZES)
def test_nothing_stale_stays_where_secrets_were(clusters: int) -> None:
    secret = b"SECRET-OF-THE-OLD-CARD "
    before = empty(clusters).apply(
        {"key": secret * 100, "shrinks": secret * 100, "gone": secret * 100, "d/e": secret * 9}
    )
    assert secret in before.data
    volume = fat.FatVolume(before, when=WHEN)
    volume.write("key", b"")
    volume.write("shrinks", b"now short")
    for path in ("gone", "d/e", "d"):
        volume.remove(path)
    after = before.done(volume)
    assert secret[:8] not in after.data
    layout = fatlayout.parse(bytes(after.data[:512]))
    in_use = sum(
        bool(after.data[at : at + 512].strip(b"\0"))
        for at in range(layout.data_offset, layout.size, 512)
    )
    assert in_use == clusters - fat.FatVolume(after).free_bytes // 512


def test_deleted_entries_are_used_again() -> None:
    volume = fat.FatVolume(empty(SMALL), when=WHEN)
    for number in range(64):
        volume.write(f"F{number}", b"")
    with pytest.raises(ImageError, match="64 entries"):
        volume.write("G", b"")
    volume.remove("F30")
    volume.remove("F31")
    volume.write("long name", b"")
    assert volume.exists("long name")
    assert [entry.path for entry in volume.walk()].index("long name") == 30


def test_clusters_given_back_are_used_again_in_the_same_go() -> None:
    volume = fat.FatVolume(empty(20), when=WHEN)
    volume.write("a", b"x" * 512 * 20)
    volume.remove("a")
    volume.write("b", b"y" * 512 * 20)
    assert volume.free_bytes == 0
    assert volume.read("b") == b"y" * 512 * 20


def test_replaced_file_may_start_beyond_cluster_65535() -> None:
    source = empty(65600).apply({"a": b""})
    layout = fatlayout.parse(bytes(source.data[:512]))
    for copy in range(2):
        at = layout.table_offset + copy * layout.table_size
        source.data[at + 12 : at + 65590 * 4] = b"\xf7\xff\xff\x0f" * (65590 - 3)
    after = fat.FatVolume(source.apply({"a": b"x" * 600}))
    after.check()
    assert [entry.first_cluster for entry in after.walk()] == [65590]
    assert after.read("a") == b"x" * 600


def test_what_lies_behind_the_end_mark_of_a_folder_does_not_come_alive() -> None:
    source = empty(SMALL)
    root = fatlayout.parse(bytes(source.data[:512])).root_offset
    ghost = NewName(b"GHOST   TXT", 0, "")
    source.data[root + 64 : root + 96] = fatnames.encode(
        ghost, attributes=0x20, cluster=9, size=9, when=0
    )
    after = source.apply({"a": b"", "b": b"", "c": b""})
    assert [entry.path for entry in fat.FatVolume(after).walk()] == ["a", "b", "c"]
    assert b"GHOST" not in after.data


def test_no_edits_give_no_runs() -> None:
    assert fat.patch(empty(65600), {}, when=WHEN) == ()


def test_runs_are_small_and_never_read_what_they_replace() -> None:
    source = empty(65600).apply({"big": b"x" * 300_000, "small": b"y"})
    source.reads.clear()
    runs = fat.patch(source, {"big": b"z" * 300_000}, when=WHEN)
    data = fatlayout.parse(bytes(source.data[:512])).data_offset
    assert [size for offset, size in source.reads if offset >= data] == [512]  # the root
    assert sum(len(run.data) for run in runs) < 300_000 + 4 * 512


def test_what_shrinks_makes_room_for_what_grows() -> None:
    source = empty(20).apply({"a": b"x" * 512, "b": b"x" * 512 * 19})
    after = Memory(bytearray(source.data))
    for run in fat.patch(source, {"a": b"y" * 512 * 19, "b": b"y" * 512}, when=WHEN):
        after.data[run.offset : run.end] = run.data
    assert fat.FatVolume(after).read("a") == b"y" * 512 * 19
    with pytest.raises(ImageError, match=r"512 bytes more are needed.* 0 are free"):
        fat.patch(source, {"a": b"y" * 512 * 19, "b": b"y" * 512 * 2}, when=WHEN)


def test_full_volume_is_told_in_bytes_with_its_new_folders() -> None:
    with pytest.raises(ImageError) as caught:
        fat.patch(empty(20), {"a/b/c": b"x" * 512 * 19, "a/d": b""}, when=WHEN)
    assert f"{21 * 512} bytes more" in caught.value.message
    assert f"{20 * 512} are free" in caught.value.message
    assert "2 files" in caught.value.message


CLASHES = {
    "same file twice": {"a/File": b"", "a/fILE": b""},
    "file where a folder is": {"folder": b""},
    "folder where a file is": {"file/x": b""},
    "file and folder": {"new": b"", "new/x": b""},
}


@pytest.mark.parametrize("edits", CLASHES.values(), ids=CLASHES)
def test_refuses_edits_that_cannot_be(edits: dict[str, bytes]) -> None:
    source = empty(SMALL).apply({"file": b"", "folder/inside": b""})
    with pytest.raises(ImageError) as caught:
        fat.patch(source, edits, when=WHEN)
    assert caught.value.hint


def test_refuses_to_remove_a_full_folder_or_nothing() -> None:
    volume = fat.FatVolume(empty(SMALL), when=WHEN)
    volume.write("folder/file", b"")
    volume.mkdir("folder")
    for path in ("folder", "nothing", "folder/nothing", "nothing/file"):
        with pytest.raises(ImageError):
            volume.remove(path)
    for path in ("folder", "nothing", "folder/file/x"):
        with pytest.raises(ImageError):
            volume.read(path)
    assert not volume.exists("")


def test_label_is_that_of_the_root() -> None:
    source = empty(SMALL)
    assert fat.FatVolume(source).label == ""
    source.data[0x2B:0x36] = b"NO NAME    "
    assert fat.FatVolume(source).label == ""
    root = fatlayout.parse(bytes(source.data[:512])).root_offset
    source.data[root : root + 12] = b"HypriotOS  \x08"
    assert fat.FatVolume(source).label == "HypriotOS"
    assert list(fat.FatVolume(source).walk()) == []


# --- damage ------------------------------------------------------------------------------------


def full(clusters: int) -> Memory:
    """Clusters (FAT12, FAT16): 2-4 one, 5-6 two, 7 folder, 8 folder/in. FAT32: one more each."""
    return empty(clusters).apply({"one": b"1" * 1500, "two": b"2" * 1000, "folder/in": b"3"})


def relink(cluster: int, value: int) -> Callable[[Memory], None]:
    def change(source: Memory) -> None:
        layout = fatlayout.parse(bytes(source.data[:512]))
        wide = layout.bits == 32
        bad = value if value >= 0 else (0x0FFFFFFF if wide else 0xFFFF) + 1 + value
        for copy in range(2):
            at = layout.table_offset + copy * layout.table_size
            size = 4 if wide else 2
            at += (cluster + wide) * size
            shifted = bad + 1 if wide and 2 <= value < 1000 else bad
            source.data[at : at + size] = shifted.to_bytes(size, "little")

    return change


def entry(name: bytes, offset: int, value: bytes) -> Callable[[Memory], None]:
    def change(source: Memory) -> None:
        at = source.data.index(name) + offset
        source.data[at : at + len(value)] = value

    return change


def second_fat(source: Memory) -> None:
    layout = fatlayout.parse(bytes(source.data[:512]))
    source.data[layout.table_offset + layout.table_size + 20] ^= 1


def clean_bit(source: Memory) -> None:
    layout = fatlayout.parse(bytes(source.data[:512]))
    for copy in range(2):
        at = layout.table_offset + copy * layout.table_size
        source.data[at + (7 if layout.bits == 32 else 3)] &= 0x07 if layout.bits == 32 else 0x7F


def boot_flag(source: Memory) -> None:
    layout = fatlayout.parse(bytes(source.data[:512]))
    source.data[0x41 if layout.bits == 32 else 0x25] |= 1


DAMAGE = {
    "loop": (relink(4, 2), "second time"),
    "loop onto itself": (relink(3, 3), "second time"),
    "cross-linked": (relink(6, 3), "second time"),
    "chain into a free cluster": (relink(6, 20), "free cluster"),
    "chain that ends in nothing": (relink(6, 0), "free cluster"),
    "chain into a bad cluster": (relink(6, -9), "bad cluster"),
    "chain out of range": (relink(6, -100), "not in 2 to"),
    "chain into the reserved": (relink(6, 1), "not in 2 to"),
    "chain too short": (relink(2, -1), "only 1 clusters"),
    "file starts out of range": (entry(b"TWO     ", 26, b"\xf0\xff"), "not in 2 to|free cluster"),
    "file starts in a free cluster": (entry(b"TWO     ", 26, b"\x40\x00"), "free cluster"),
    "two files with one start": (entry(b"TWO     ", 26, b"\x03\x00"), "second time"),
    "file without clusters": (entry(b"TWO     ", 26, b"\0\0"), "only 0 clusters"),
    "folder without a cluster": (entry(b"FOLDER  ", 26, b"\0\0"), "no cluster"),
    "second FAT differs": (second_fat, "FAT differ"),
}


@pytest.mark.parametrize("clusters", [5000, 65600])
@pytest.mark.parametrize(("change", "words"), DAMAGE.values(), ids=DAMAGE)
def test_refuses_damaged_volume(
    clusters: int, change: Callable[[Memory], None], words: str
) -> None:
    source = full(clusters)
    fat.patch(source, {"new": b"x"}, when=WHEN)
    change(source)
    with pytest.raises(ImageError, match=words) as caught:
        fat.patch(source, {"new": b"x"}, when=WHEN)
    assert "piflash fetch" in caught.value.hint


@pytest.mark.parametrize("clusters", [5000, 65600])
@pytest.mark.parametrize("flag", [clean_bit, boot_flag])
def test_dirty_flag_alone_is_kept_and_no_reason_to_refuse(
    clusters: int, flag: Callable[[Memory], None]
) -> None:
    clean, dirty = full(clusters), full(clusters)
    flag(dirty)
    for source in (clean, dirty):
        for run in fat.patch(source, {"new": b"x"}, when=WHEN):
            source.data[run.offset : run.end] = run.data
    assert bytes(clean.data) != bytes(dirty.data)
    flag(clean)
    assert bytes(clean.data) == bytes(dirty.data)


def test_dirty_volume_can_still_be_read() -> None:
    source = full(5000)
    boot_flag(source)
    second_fat(source)
    assert fat.FatVolume(source).read("two") == b"2" * 1000
    assert len(list(fat.FatVolume(source).walk())) == 4


def test_refuses_folder_inside_itself_when_only_reading() -> None:
    source = full(5000)
    at = source.data.index(b"IN      ")
    source.data[at + 11] = 0x10
    source.data[at + 26] = 7
    with pytest.raises(ImageError, match="inside itself"):
        list(fat.FatVolume(source).walk())


def test_refuses_endless_depth() -> None:
    volume = fat.FatVolume(empty(5000), when=WHEN)
    deep = "/".join(["d" * 250] * 17)
    volume.mkdir(deep)
    with pytest.raises(ImageError, match="nested deeper"):
        list(volume.walk())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_volume_gives_an_error_or_runs_inside_it(data: st.DataObject) -> None:
    clean = FUZZED[data.draw(st.sampled_from(sorted(FUZZED)))]
    source = Memory(bytearray(clean.data))
    places = [i for i, byte in enumerate(clean.data[:8192]) if byte] + list(range(64))
    for _ in range(data.draw(st.integers(1, 8))):
        source.data[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    try:
        volume = fat.FatVolume(source, size=len(source.data))
        for found in volume.walk():
            if not found.is_dir:
                volume.read(found.path)
    except ImageError:
        pass
    try:
        runs = fat.patch(
            source, {"two": b"x" * 3000, "a/b c": b"y"}, when=WHEN, size=len(source.data)
        )
    except ImageError:
        return
    assert all(run.offset >= 0 and run.end <= len(source.data) for run in runs)


FUZZED = {"fat12": full(60), "fat16": full(5000)}
