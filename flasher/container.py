"""What kind of file an image lies in, by its first bytes and never by its name. Pure."""

from __future__ import annotations

import enum

SNIFF = 1024


class Kind(enum.Enum):
    """What an image's file is."""

    RAW = "raw"
    ZIP = "zip"
    XZ = "xz"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    ZSTD = "zstd"
    HTML = "a web page"
    OTHER = "no image"


# PKWARE APPNOTE 4.3.7, 4.3.16, 8.5.4; the .xz format 2.1.1.1; RFC 1952; bzip2 1.0 (level digit);
# RFC 8878 3.1.1 and, little-endian 0x184D2A50 to 5F, 3.1.2 (skippable frames, pzstd).
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", Kind.ZIP),
    (b"PK\x05\x06", Kind.ZIP),
    (b"PK\x07\x08", Kind.ZIP),
    (b"\xfd7zXZ\x00", Kind.XZ),
    (b"\x1f\x8b", Kind.GZIP),
    (b"\x28\xb5\x2f\xfd", Kind.ZSTD),
    *((bytes([0x50 + n]) + b"\x2a\x4d\x18", Kind.ZSTD) for n in range(16)),
    *((b"BZh%d" % level, Kind.BZIP2) for level in range(1, 10)),
)

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"QFI\xfb", "a qcow2 disk"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself"),
)


def sniff(head: bytes) -> Kind:
    """Tell a file's kind by its first SNIFF bytes."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if foreign(head):
        return Kind.OTHER
    return Kind.HTML if _is_web_page(head) else Kind.RAW


def foreign(head: bytes) -> str:
    """Name a known kind of file that is no image; empty for all others."""
    return next((name for magic, name in _FOREIGN if head.startswith(magic)), "")


def _is_web_page(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(b"<") and (b"<html" in text or b"<!doctype html" in text)
