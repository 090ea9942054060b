"""Directory entries of a FAT volume: long and short names, their slots of 32 bytes, dates. Pure.

Source: Microsoft's fatgen103 (long names, checksum, dates); Linux fs/fat/namei_vfat.c for the
lower-case flags of byte 12, which Windows NT introduced and fatgen103 does not mention.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from flasher.errors import ImageError

SLOT = 32
READ_ONLY, HIDDEN, SYSTEM, VOLUME, FOLDER, ARCHIVE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
DELETED = 0xE5
_LONG = 0x0F
_LONG_MASK = 0x3F
_LAST = 0x40
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10
_UNITS = 13  # UTF-16 units in one slot of a long name
_MOST_UNITS = 255
_MOST_LONG_SLOTS = 20  # they hold 260 units; Linux takes no more either
_FORBIDDEN = frozenset('"*/:<>?\\|') | {chr(i) for i in range(32)} | {"\x7f"}
_SHORT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_FLOOR = datetime(1980, 1, 1, tzinfo=timezone.utc)
_CEILING = datetime(2107, 12, 31, 23, 59, 58, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Record:
    """One entry of a directory; its slots are `first` to `last` (that of the short name)."""

    name: str
    short: bytes
    attributes: int
    cluster: int
    size: int
    first: int
    last: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return bool(self.attributes & FOLDER)

    @property
    def is_dot(self) -> bool:
        """Whether it is `.` or `..`."""
        return self.short[:1] == b"."

    @property
    def is_label(self) -> bool:
        """Whether it is the volume's label, not a file."""
        return bool(self.attributes & VOLUME)

    @property
    def calls(self) -> tuple[str, str]:
        """The folded names that open this entry: its long and its short one."""
        return fold(self.name), fold(short_text(self.short, lower=0))


@dataclass(frozen=True)
class NewName:
    """A name ready to be stored: the 11 bytes, byte 12, and the long name if it needs one."""

    short: bytes
    lower: int
    long: str

    @property
    def slots(self) -> int:
        """How many slots the entry takes."""
        return 1 + -(-_units(self.long) // _UNITS)


def fold(name: str) -> str:
    """Give the form in which two names are the same to FAT: upper case, one character for one."""
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := char.upper()) == 1 else char for char in name)


def records(slots: bytes | bytearray, *, cluster_mask: int) -> list[Record]:
    """Read a directory's content up to its end mark, in order, dots and label included.

    `cluster_mask`: 0xFFFF on FAT12 and FAT16, where the high half is used for other things.
    """
    found: list[Record] = []
    pending: list[bytes] = []
    for index in range(len(slots) // SLOT):
        slot = bytes(slots[index * SLOT : (index + 1) * SLOT])
        if slot[0] == 0:
            break
        if slot[0] == DELETED:
            pending = []
        elif slot[11] & _LONG_MASK == _LONG:
            if slot[0] & _LAST:
                pending = []
            # One more than there may be tells that there were too many.
            if len(pending) <= _MOST_LONG_SLOTS:
                pending.append(slot)
        else:
            found.append(_record(slot, index, pending, cluster_mask))
            pending = []
    return found


def _record(slot: bytes, index: int, pending: list[bytes], cluster_mask: int) -> Record:
    high, low, size = struct.unpack_from("<20xH4xHI", slot)
    long = _joined(pending, slot[:11])
    return Record(
        name=short_text(slot[:11], lower=slot[12]) if long is None else long,
        short=slot[:11],
        attributes=slot[11],
        cluster=(high << 16 | low) & cluster_mask,
        size=size,
        first=index if long is None else index - len(pending),
        last=index,
    )


def _joined(pending: list[bytes], short: bytes) -> str | None:
    """Give the long name of the slots before a short name, None unless they belong to it."""
    if not 0 < len(pending) <= _MOST_LONG_SLOTS:
        return None
    numbers = [slot[0] & ~_LAST for slot in pending]
    if numbers != list(range(len(pending), 0, -1)):
        return None
    if any(slot[13] != _checksum(short) for slot in pending):
        return None
    raw = b"".join(slot[1:11] + slot[14:26] + slot[28:32] for slot in reversed(pending))
    units = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    length = units.index(b"\0\0") if b"\0\0" in units else len(units)
    return raw[: length * 2].decode("utf-16-le", errors="replace")


def short_text(short: bytes, *, lower: int) -> str:
    """Give the 11 bytes as base.ext; `lower` is byte 12. 8-bit characters are of code page 437."""
    raw = bytes([DELETED]) + short[1:] if short[0] == 0x05 else short
    base = raw[:8].decode("cp437").rstrip(" ")
    extension = raw[8:].decode("cp437").rstrip(" ")
    base = base.lower() if lower & _LOWER_BASE else base
    extension = extension.lower() if lower & _LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total >> 1) + (total << 7) + byte) & 0xFF
    return total


def _units(name: str) -> int:
    return len(name.encode("utf-16-le")) // 2


def refuse_name(name: str, *, path: str) -> None:
    """ImageError unless FAT can hold the name (one component of `path`) and give it back."""
    bad = sorted(_FORBIDDEN & set(name))
    why = ""
    if name in ("", ".", ".."):
        why = "empty, `.` or `..`"
    elif bad:
        why = f"contains {bad[0]!r}"
    elif name[-1] in ". ":
        why = "ends in a dot or a space"
    elif any(0xD800 <= ord(char) < 0xE000 for char in name):
        why = "is not valid Unicode"
    elif _units(name) > _MOST_UNITS:
        why = f"is {_units(name)} UTF-16 units long, {_MOST_UNITS} being the most"
    if why:
        raise ImageError(
            f"boot partition: {path!r}: the name {name!r} cannot be stored on FAT: {why}",
            hint="give the file another name",
        )


def new_name(name: str, *, taken: Iterable[bytes]) -> NewName:
    """Give how a valid name is stored beside the short names that its directory has.

    The name must not open any entry there already.
    """
    used = set(taken)
    base, dot, extension = name.rpartition(".")
    if not dot:
        base, extension = extension, ""
    stem, suffix = base.upper(), extension.upper()
    fits = (
        name.isascii() and 0 < len(stem) <= 8 and len(suffix) <= 3 and set(stem + suffix) <= _SHORT
    )
    if not fits:
        return NewName(_numbered(name, used), 0, name)
    short = f"{stem:8}{suffix:3}".encode("ascii")
    if base not in (stem, base.lower()) or extension not in (suffix, extension.lower()):
        return NewName(short, 0, name)
    lower = (_LOWER_BASE if base != stem else 0) | (_LOWER_EXTENSION if extension != suffix else 0)
    return NewName(short, lower, "")


def _numbered(name: str, used: set[bytes]) -> bytes:
    """Give the first free BASE~N.EXT: the name without what a short name cannot hold."""
    stripped = name.replace(" ", "").lstrip(".")
    base, dot, extension = stripped.rpartition(".")
    if not dot:
        base, extension = extension, ""
    stem = _lossy(base.replace(".", "")) or "_"
    suffix = _lossy(extension)[:3]
    for number in range(1, 1_000_000):
        tail = f"~{number}"
        short = f"{stem[: 8 - len(tail)]}{tail}".ljust(8) + f"{suffix:3}"
        if short.encode("ascii") not in used:
            return short.encode("ascii")
    raise ImageError(f"boot partition: no short name is left for {name!r}", hint="rename the file")


def _lossy(text: str) -> str:
    return "".join(char if char in _SHORT else "_" for char in fold(text))


def encode(name: NewName, *, attributes: int, cluster: int, size: int, when: int) -> bytes:
    """Give all slots of a new entry, the long name's first. `when`: UTC seconds."""
    day, clock = stamp(when)
    slot = struct.pack(
        "<11sBBBHHHHHHHI",
        name.short,
        attributes,
        name.lower,
        0,
        clock,
        day,
        day,
        cluster >> 16,
        clock,
        day,
        cluster & 0xFFFF,
        size,
    )
    return _long_slots(name) + slot


def _long_slots(name: NewName) -> bytes:
    count = name.slots - 1
    raw = name.long.encode("utf-16-le")
    if len(raw) < count * _UNITS * 2:
        raw = (raw + b"\0\0").ljust(count * _UNITS * 2, b"\xff")
    slots = b""
    for number in range(count, 0, -1):
        part = raw[(number - 1) * _UNITS * 2 : number * _UNITS * 2]
        order = number | (_LAST if number == count else 0)
        head = struct.pack("<B10sBBB", order, part[:10], _LONG, 0, _checksum(name.short))
        slots += head + part[10:22] + b"\0\0" + part[22:]
    return slots


def restamp(slot: bytes, *, cluster: int, size: int, when: int) -> bytes:
    """Give an existing short-name slot with other content: its name, attributes, birth are kept."""
    day, clock = stamp(when)
    tail = struct.pack("<HHHHHI", day, cluster >> 16, clock, day, cluster & 0xFFFF, size)
    return slot[:18] + tail


def stamp(when: int) -> tuple[int, int]:
    """Give UTC seconds as FAT's date and time words; 1980 to 2107, in steps of two seconds."""
    low, high = int(_FLOOR.timestamp()), int(_CEILING.timestamp())
    moment = datetime.fromtimestamp(max(low, min(when, high)), tz=timezone.utc)
    day = (moment.year - 1980) << 9 | moment.month << 5 | moment.day
    return day, moment.hour << 11 | moment.minute << 5 | moment.second // 2
