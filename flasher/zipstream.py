"""The one image in a zip file, inflated in a single pass over the file. Shell.

zipfile reads the directory; the data is inflated here, so that the stored file is read in order.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass

from flasher.decoders import INFLATE_ERRORS, INPUT, Deflate, Inflater
from flasher.errors import ImageError
from flasher.storedfile import StoredFile

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 0x1  # APPNOTE 4.4.4, bit 0
_LOCAL = struct.Struct("<4s2xHH16xHH")  # 4.3.7: signature, flags, method, name, extra field

# What zipfile lets out when a directory is damaged: its own errors and those of what it calls.
_DIRECTORY_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    struct.error,
    EOFError,
    IndexError,
    OSError,
)


@dataclass(frozen=True)
class Member:
    """The image in a zip, as the directory describes it."""

    name: str
    offset: int
    method: int
    stored_size: int
    size: int
    crc: int


def find_member(file: StoredFile) -> Member:
    """Give the zip's only file. ImageError for none, several, encrypted or an unknown method."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = [info for info in archive.infolist() if not _is_clutter(info)]
    except _DIRECTORY_ERRORS as error:
        raise file.damaged(f"the zip's directory is damaged or cut off ({error})") from None
    if len(infos) != 1:
        names = ", ".join(repr(info.filename) for info in infos[:5]) or "nothing"
        raise ImageError(
            f"{file.path}: the zip must hold one image and holds {len(infos)} files ({names})",
            hint="unpack it and name the image itself",
        )
    info = infos[0]
    if info.header_offset < 0:  # zipfile moves it by what a damaged end record says
        raise file.damaged("the zip's directory is damaged: its data starts before the file")
    if info.flag_bits & _ENCRYPTED:
        raise ImageError(
            f"{file.path}: {info.filename!r} is encrypted",
            hint="unpack it and name the image itself",
        )
    if info.compress_type not in _METHODS:
        raise ImageError(
            f"{file.path}: {info.filename!r} is packed with method {info.compress_type}, only "
            f"{' and '.join(_METHODS.values())} can be read",
            hint="unpack it and name the image itself, or pack it again with: zip",
        )
    return Member(
        name=info.filename,
        offset=info.header_offset,
        method=info.compress_type,
        stored_size=info.compress_size,
        size=info.file_size,
        crc=info.CRC,
    )


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    """Directories, and the resource forks that macOS packs beside each file."""
    return info.is_dir() or info.filename.startswith("__MACOSX/")


class ZipDecoder:
    """Gives the member's bytes; its CRC and its size are checked where it ends."""

    def __init__(self, file: StoredFile, *, member: Member) -> None:
        self._file = file
        self._member = member
        self._stored_left = member.stored_size
        self._left = member.size
        self._crc = 0
        self._inflater = Deflate(-zlib.MAX_WBITS) if member.method else None
        self._to_data()

    def readinto(self, view: memoryview) -> int:
        """See flasher.decoders.Decoder."""
        # One byte more than is left, to see data that goes on behind the declared end.
        with view[: self._left + 1] as part:
            if self._inflater is None:
                count = self._copy(part)
            else:
                count = self._inflate(part, self._inflater)
        with view[:count] as filled:
            self._crc = zlib.crc32(filled, self._crc)
        self._left -= count
        if self._left < 0:
            raise self._wrong("holds more data than the zip's directory says")
        if not count:
            self._check_end()
        return count

    def _to_data(self) -> None:
        """Go to the member's first byte, past the local header that stands before it."""
        self._file.skip(self._member.offset)
        header = self._file.read(_LOCAL.size)
        if len(header) < _LOCAL.size:
            raise self._file.truncated()
        magic, flags, method, name, extra = _LOCAL.unpack(header)
        if magic != b"PK\x03\x04" or method != self._member.method or flags & _ENCRYPTED:
            raise self._wrong("is described differently by the zip's directory and by itself")
        self._file.skip(name + extra)

    def _copy(self, view: memoryview) -> int:
        with view[: self._stored_left] as part:
            count = self._file.readinto(part)
        if not count and self._stored_left:
            raise self._file.truncated()
        self._stored_left -= count
        return count

    def _inflate(self, view: memoryview, inflater: Inflater) -> int:
        while not inflater.eof:
            data = b""
            if inflater.needs_input:
                data = self._file.read(min(INPUT, self._stored_left))
                self._stored_left -= len(data)
                if not data:
                    raise self._wrong("ends in the middle of its data")
            try:
                out = inflater.decompress(data, len(view))
            except INFLATE_ERRORS as error:
                raise self._wrong(f"is damaged ({error})") from None
            if out:
                view[: len(out)] = out
                return len(out)
        return 0

    def _check_end(self) -> None:
        if self._left:
            raise self._wrong(f"ends {self._left} bytes before the size in the zip's directory")
        if self._crc != self._member.crc:
            raise self._wrong("is damaged: its CRC-32 is not the one in the zip's directory")
        if self._stored_left or (self._inflater and self._inflater.unused_data):
            raise self._wrong("is followed by data that is not its own")

    def _wrong(self, what: str) -> ImageError:
        return self._file.damaged(f"{self._member.name!r} in the zip {what}")
