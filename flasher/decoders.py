"""Decompressors over a stored file: gzip, bzip2, xz and zstd, as many frames as there are. Shell.

Each gives the image's bytes in order and refuses a file that is cut off or damaged.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zstandard

from flasher.container import Kind
from flasher.storedfile import StoredFile

INPUT = 1 << 16
# `xz -9` needs 65 MiB (xz(1)); what asks for more than this is not meant for everyone's machine.
XZ_MEMORY = 256 << 20
# The zstd tool itself refuses more unless it is given --long (zstd(1): 128 MiB).
ZSTD_WINDOW = 128 << 20


class Decoder(Protocol):
    """Gives an image's bytes in order. ImageError if the file is cut off or damaged."""

    def readinto(self, view: memoryview) -> int:
        """Fill the view's beginning; gives the count, 0 only at the end."""


class Inflater(Protocol):
    """One compressed stream, as bz2 and lzma in the standard library have it."""

    @property
    def eof(self) -> bool:
        """The end of this stream was reached."""

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out unless more is put in."""

    @property
    def unused_data(self) -> bytes:
        """What was put in behind the stream's end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Put in `data`, take out at most `max_length` bytes."""


class Deflate:
    """zlib's decompressor in the shape of bz2's and lzma's. `bits`: see zlib's inflateInit2."""

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.decompressobj(bits)
        self._more = False

    @property
    def eof(self) -> bool:
        """See Inflater."""
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """See Inflater."""
        return not self._more

    @property
    def unused_data(self) -> bytes:
        """See Inflater."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Inflater. A full output may have more behind it inside zlib, with no input left."""
        out = self._zlib.decompress(data or self._zlib.unconsumed_tail, max_length)
        self._more = bool(self._zlib.unconsumed_tail) or len(out) == max_length
        return out


INFLATE_ERRORS = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)


@dataclass(frozen=True)
class Format:
    """How streams of one kind begin and are decompressed."""

    name: str
    magic: bytes
    new: Callable[[], Inflater]


FORMATS = {
    Kind.GZIP: Format("gzip", b"\x1f\x8b", lambda: Deflate(16 + zlib.MAX_WBITS)),
    Kind.BZIP2: Format("bzip2", b"BZh", bz2.BZ2Decompressor),
    Kind.XZ: Format(
        "xz",
        b"\xfd7zXZ\x00",
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
    ),
}


class RawDecoder:
    """An image that is not compressed."""

    def __init__(self, file: StoredFile) -> None:
        self._file = file

    def readinto(self, view: memoryview) -> int:
        """See Decoder."""
        return self._file.readinto(view)


class StreamsDecoder:
    """gzip, bzip2 or xz: one stream or several behind each other, zero bytes between and after."""

    def __init__(self, file: StoredFile, *, kind: Kind) -> None:
        self._file = file
        self._format = FORMATS[kind]
        self._inflater = self._format.new()
        self._input = b""

    def readinto(self, view: memoryview) -> int:
        """See Decoder."""
        while not self._inflater.eof or self._begin_next():
            out = self._inflate(len(view))
            if out:
                view[: len(out)] = out
                return len(out)
        return 0

    def _inflate(self, most: int) -> bytes:
        data = b""
        if self._inflater.needs_input:
            data, self._input = self._input or self._file.read(INPUT), b""
            if not data:
                raise self._file.truncated()
        try:
            return self._inflater.decompress(data, most)
        except INFLATE_ERRORS as error:
            what = f"the {self._format.name} data is damaged ({error})"
            raise self._file.damaged(what) from None

    def _begin_next(self) -> bool:
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest:
            data = self._file.read(INPUT)
            if not data:
                return False
            rest = data.lstrip(b"\0")
        if len(rest) < len(self._format.magic):
            rest += self._file.read(INPUT)
        if not rest.startswith(self._format.magic):
            raise self._file.damaged(f"something else follows its {self._format.name} data")
        self._inflater, self._input = self._format.new(), rest
        return True


class ZstdDecoder:
    """zstd frames, put into the decompressor block by block.

    The walk over the blocks (RFC 8878, 3.1.1) bounds each step's output by one block's 128 KiB and
    tells a file that is cut off, which python-zstandard's reader takes for the end.
    """

    _SKIPPABLE = range(0x184D2A50, 0x184D2A60)

    def __init__(self, file: StoredFile) -> None:
        self._file = file
        self._factory = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._checksum = 0
        self._out = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        """See Decoder."""
        while not self._out:
            if self._frame is None and not self._begin_frame():
                return 0
            if self._frame is not None:
                self._out = memoryview(self._next_block(self._frame))
        count = min(len(view), len(self._out))
        view[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def _begin_frame(self) -> bool:
        """Read a frame's header, or pass over a skippable frame; False at the end of the file."""
        magic = self._file.read(4)
        if not magic:
            return False
        if int.from_bytes(magic, "little") in self._SKIPPABLE and len(magic) == 4:
            self._file.skip(int.from_bytes(self._exactly(4), "little"))
            return True
        if magic != b"\x28\xb5\x2f\xfd":
            raise self._file.damaged("something else follows its zstd data")
        descriptor = self._exactly(1)
        single, content = descriptor[0] & 0x20, descriptor[0] >> 6
        length = (0 if single else 1) + (0, 1, 2, 4)[descriptor[0] & 3]
        length += (1 if single else 0, 2, 4, 8)[content]
        self._checksum = 4 if descriptor[0] & 4 else 0
        self._frame = self._factory.decompressobj()
        self._put(self._frame, magic + descriptor + self._exactly(length))
        return True

    def _next_block(self, frame: zstandard.ZstdDecompressionObj) -> bytes:
        head = self._exactly(3)
        fields = int.from_bytes(head, "little")
        last, kind, size = fields & 1, fields >> 1 & 3, fields >> 3
        body = self._exactly(1 if kind == 1 else size)
        out = self._put(frame, head + body + self._exactly(self._checksum if last else 0))
        if last:
            self._frame = None
        if bool(last) != frame.eof:
            raise self._file.damaged("the zstd data is damaged")
        return out

    def _put(self, frame: zstandard.ZstdDecompressionObj, data: bytes) -> bytes:
        try:
            return frame.decompress(data)
        except zstandard.ZstdError as error:
            raise self._file.damaged(f"the zstd data is damaged ({error})") from None

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise self._file.truncated()
        return data
