"""A base image as one stream of its decompressed bytes, hashed and checked on the way. Shell.

The kind of the file is told by its content. Nothing is ever decompressed to disk.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from types import TracebackType

from flasher import xzindex, zipstream
from flasher.container import Kind, foreign, sniff
from flasher.decoders import Decoder, RawDecoder, StreamsDecoder, ZstdDecoder
from flasher.errors import ImageError
from flasher.model import MIB, Image
from flasher.storedfile import StoredFile

CHUNK = MIB
KEPT_CHUNKS = 16
_SMALLEST = 512  # one sector: less cannot even hold a partition table


class ImageStream:
    """One pass over an image; used from one thread. A context manager; made by `open_image`.

    `size` is that of the decompressed image where the catalogue or the container tells it. Raw and
    zip files and xz files of one stream do; gzip, bzip2 and zstd do not, for they may go on.
    """

    def __init__(self, image: Image, file: StoredFile) -> None:
        self._image = image
        self._file = file
        self._decoder, told = _decoder(file)
        self._total = 0
        self._ended = False
        self._digest: str | None = None
        if image.size is not None and told is not None and told != image.size:
            raise self._other_size(f"{told} bytes")
        self._declared = image.size if told is None else told
        self._at_least(_SMALLEST, self._declared)

    @property
    def size(self) -> int | None:
        """The size of the decompressed image in bytes, where it is known beforehand."""
        return self._declared

    @property
    def sha256(self) -> str | None:
        """The stored file's SHA-256 in lower-case hex, once `finish` has passed."""
        return self._digest

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def readinto(self, view: memoryview) -> int:
        """Fill the whole view unless the image ends; gives the count, 0 at the end.

        ImageError as soon as the file is found cut off or damaged, or the image larger or smaller
        than it should be.
        """
        done = 0
        while done < len(view) and not self._ended:
            with view[done:] as rest:
                count = self._decoder.readinto(rest)
            done += count
            self._total += count
            if self._declared is not None and self._total > self._declared:
                raise self._other_size(f"more than {self._declared} bytes")
            if not count:
                self._end()
        return done

    def finish(self) -> None:
        """Check, after the end, the container to its last byte and the expected SHA-256.

        ImageError if they do not fit; RuntimeError if the image was not read to its end.
        """
        with memoryview(bytearray(1)) as scratch:
            if self.readinto(scratch):
                raise RuntimeError(f"{self._image.id}: finish() before the image's end")
        if self._digest is None:
            self._digest = self._file.digest()
        if self._image.sha256 is not None and self._digest != self._image.sha256:
            raise ImageError(
                f"{self._image.path}: its SHA-256 is {self._digest}, not the expected "
                f"{self._image.sha256}",
                hint=self._file.remedy
                if self._image.cached
                else f"if the file is right, correct its sha256; if not, {self._file.remedy}",
            )

    def _end(self) -> None:
        self._ended = True
        if self._declared is not None and self._total < self._declared:
            raise self._other_size(f"only {self._total} bytes")
        self._at_least(_SMALLEST, self._total)

    def _at_least(self, least: int, size: int | None) -> None:
        if size is not None and size < least:
            raise self._file.damaged(f"{size} bytes are no disk image, not even one sector")

    def _other_size(self, found: str) -> ImageError:
        if self._image.size is not None:
            wanted = f"{self._image.id} has {self._image.size} bytes"
        else:
            wanted = f"its own header says {self._declared} bytes"
        return self._file.damaged(f"the image in it has {found}, but {wanted}")


def stored_sha256(image: Image) -> str:
    """Give the SHA-256 of the file as it is stored, in lower-case hex. Reads all of it."""
    with StoredFile(image.path) as file:
        return file.digest()


def open_image(image: Image) -> ImageStream:
    """Open an image's file by its content: zip, xz, gz, bz2, zst or raw.

    ImageError for a file that is absent, empty, a web page, an unknown archive, a zip that does not
    hold exactly one file, or a container that declares another size than the catalogue.
    """
    with ExitStack() as stack:
        stream = ImageStream(
            image, stack.enter_context(StoredFile(image.path, cached=image.cached))
        )
        stack.pop_all()
        return stream


def _decoder(file: StoredFile) -> tuple[Decoder, int | None]:
    """Give what reads the file, and the size of the image as far as the file tells it."""
    kind = sniff(file.head)
    if kind is Kind.RAW:
        return RawDecoder(file), file.size
    if kind is Kind.ZIP:
        member = zipstream.find_member(file)
        return zipstream.ZipDecoder(file, member=member), member.size
    if kind is Kind.ZSTD:
        return ZstdDecoder(file), None
    if kind is Kind.HTML:
        raise ImageError(
            f"{file.path}: this is an HTML page, not an image",
            hint="open its address in a browser: a network's log-in page or an error page was "
            f"saved in its place; then {file.remedy}",
        )
    if kind is Kind.OTHER:
        raise ImageError(
            f"{file.path}: this is {foreign(file.head)}", hint="unpack it and name the image itself"
        )
    size = xzindex.image_size(file.path) if kind is Kind.XZ else None
    return StreamsDecoder(file, kind=kind), size


class Prefix:
    """Random reads near an image's start: a context manager, and a flasher.model.ReadAt.

    Keeps the last KEPT_CHUNKS chunks of CHUNK bytes; going back behind them starts the stream anew.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._stream = open_image(image)
        self._next = 0
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._buffer = bytearray(CHUNK)

    def __enter__(self) -> Prefix:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, error, trace)

    def read_at(self, offset: int, size: int) -> bytes:
        """Give exactly `size` bytes at `offset`; fewer only at the image's end."""
        parts = []
        end = offset + size
        while offset < end:
            number, start = divmod(offset, CHUNK)
            part = self._chunk(number)[start : start + end - offset]
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _chunk(self, number: int) -> bytes:
        if number in self._chunks:
            self._chunks.move_to_end(number)
            return self._chunks[number]
        if number < self._next:
            self._stream.__exit__(None, None, None)
            self._stream = open_image(self._image)
            self._next = 0
        chunk = b""
        while self._next <= number:
            chunk = self._read_next()
            if not chunk:
                break
        return chunk

    def _read_next(self) -> bytes:
        with memoryview(self._buffer) as view:
            count = self._stream.readinto(view)
        chunk = bytes(self._buffer[:count])
        if chunk:
            self._chunks[self._next] = chunk
            self._chunks.move_to_end(self._next)
            self._next += 1
        while len(self._chunks) > KEPT_CHUNKS:
            self._chunks.popitem(last=False)
        return chunk
