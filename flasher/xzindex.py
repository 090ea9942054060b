"""The size of the image in an xz file, from the index at its end. Shell: reads a file's tail.

After "The .xz File Format" 1.2.1, sections 2.1.2 (footer) and 4 (index).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_FOOTER = struct.Struct("<I I 2s 2s")  # CRC-32, backward size, flags, magic
_HEADER = 12
_LARGEST = 1 << 20


def image_size(path: Path) -> int | None:
    """Give the decompressed size; None where the file is not one whole stream or cannot tell."""
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            if total < _HEADER + _FOOTER.size:
                return None
            file.seek(total - _FOOTER.size)
            crc, backward, flags, magic = _FOOTER.unpack(file.read(_FOOTER.size))
            length = (backward + 1) * 4
            at = total - _FOOTER.size - length
            if magic != b"YZ" or length > _LARGEST or at < _HEADER:
                return None
            if zlib.crc32(struct.pack("<I2s", backward, flags)) != crc:
                return None
            file.seek(at)
            index = file.read(length)
    except OSError:
        return None
    sizes = _sum(index)
    # Several streams, or padding behind: the blocks that this index counts do not fill the file.
    return sizes[1] if sizes and _HEADER + sizes[0] == at else None


def _sum(index: bytes) -> tuple[int, int] | None:
    """Add up an index: stored size of all blocks with their padding, decompressed size."""
    body, crc = index[:-4], index[-4:]
    if index[:1] != b"\0" or zlib.crc32(body) != int.from_bytes(crc, "little"):
        return None
    stored = size = 0
    try:
        records, at = _number(body, 1)
        for _ in range(records):
            unpadded, at = _number(body, at)
            count, at = _number(body, at)
            stored += (unpadded + 3) // 4 * 4
            size += count
    except IndexError:
        return None
    return stored, size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a variable-length integer (section 1.2); gives it and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
