"""An image's file as it lies on disk: read once from start to end, hashed on the way. Shell."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from shlex import quote
from types import TracebackType

from flasher.container import SNIFF
from flasher.errors import ImageError

_BUFFER = 1 << 18


class StoredFile:
    """A regular file that is read in order; every byte passes the SHA-256 exactly once."""

    def __init__(self, path: Path, *, cached: bool = False) -> None:
        """Open it. ImageError if it is not there, not a file, empty or not readable.

        `cached`: it is piflash's own download, so that an error may tell the user to remove it.
        """
        self.path = path
        self._cached = cached
        self._sha256 = hashlib.sha256()
        try:
            # A named pipe would hang the open itself.
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):
                kind = "a directory" if stat.S_ISDIR(info.st_mode) else "a device or a pipe"
                raise ImageError(f"{path}: {kind}, not an image", hint="name the image's file")
            self._file = io.BufferedReader(path.open("rb", buffering=0), _BUFFER)
        except OSError as error:
            raise self.unreadable(error) from None
        self.size = info.st_size
        try:
            self.head = self._file.read(SNIFF)
            self._file.seek(0)
        except OSError as error:
            self._file.close()
            raise self.unreadable(error) from None
        if not self.head:
            self._file.close()
            raise self.damaged("the file is empty")

    def __enter__(self) -> StoredFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Give up to `size` bytes; none at the end."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self.unreadable(error) from None
        self._sha256.update(data)
        return data

    def readinto(self, view: memoryview) -> int:
        """Fill the view, less only at the end; gives the count."""
        try:
            count = self._file.readinto(view)
        except OSError as error:
            raise self.unreadable(error) from None
        with view[:count] as filled:
            self._sha256.update(filled)
        return count

    def skip(self, count: int) -> None:
        """Pass over bytes; they are hashed. ImageError if there are fewer."""
        while count:
            data = self.read(min(count, _BUFFER))
            if not data:
                raise self.truncated()
            count -= len(data)

    def digest(self) -> str:
        """Read what is left and give the SHA-256 of the whole file, in lower-case hex."""
        while self.read(_BUFFER):
            pass
        return self._sha256.hexdigest()

    def damaged(self, what: str) -> ImageError:
        """Make the error for content that is not what it should be."""
        return ImageError(f"{self.path}: {what}", hint=self.remedy)

    @property
    def remedy(self) -> str:
        """What to do about a file whose content is wrong."""
        if self._cached:
            return f"remove it, and the next run downloads it anew: rm {self.shell_name}"
        return "get the file again from where it came from"

    @property
    def shell_name(self) -> str:
        """The path as it is typed in a command."""
        return quote(os.fspath(self.path))

    def truncated(self) -> ImageError:
        """Make the error for a file that ends too soon."""
        return self.damaged(f"the file is cut off: it ends in the middle, at byte {self.size}")

    def unreadable(self, error: OSError) -> ImageError:
        """Make the error for what the operating system says."""
        if isinstance(error, FileNotFoundError):
            hint = "correct the path, or copy the file there"
        elif isinstance(error, PermissionError):
            hint = f"chmod a+r {self.shell_name}"
        else:
            hint = "check the disk it lies on, or get the file anew"
        return ImageError(f"{self.path}: {error.strerror or error}", hint=hint)
