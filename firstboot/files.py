"""Files that are old or new after a power cut at any step, and files that are gone for good. Shell.

A rename lasts only once its directory has been synced; FAT and ext4 alike.
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
from typing import Iterator, Optional

# What a node cannot mend by itself, and a person can by looking at the disk.
_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)


def is_disk(error: OSError) -> bool:
    """Whether it says that a file system is full, or cannot be read or written."""
    # OpenSSL's errors have numbers of their own: SSL_ERROR_SYSCALL is 5, as EIO is.
    return error.errno in _DISK and not isinstance(error, ssl.SSLError)


def in_words(error: OSError) -> str:
    """Give the path, if it is about one, and the system's own words, in one line."""
    words = error.strerror or str(error)
    return "%s: %s" % (error.filename, words) if error.filename else words


def read(path: str, *, limit: int) -> Optional[bytes]:
    """Give the file's bytes, at most `limit` and one more; None if there is none."""
    try:
        with _naming(path), open(path, "rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        return None


def replace(path: str, content: bytes, *, mode: int) -> None:
    """Put a whole new file in place of the old one, and have it on disk."""
    new = path + ".new"
    create(new, content, mode=mode)
    os.replace(new, path)
    sync_directory(os.path.dirname(path))


def create(path: str, content: bytes, *, mode: int) -> None:
    """Write a file, whole and synced, over whatever is left of an earlier try."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with _naming(path), os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def make_directory(path: str, *, mode: int) -> None:
    """Make a directory and its parents where they are missing; the last one is synced."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    sync_directory(os.path.dirname(path))


def scrub(path: str) -> None:
    """Overwrite a file in place with zeros, have them on disk, then remove it.

    FAT writes in place; what the card's own wear levelling keeps is out of reach from here.
    """
    with _naming(path), open(path, "r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())
    os.unlink(path)


def sync_directory(path: str) -> None:
    """Have a directory's entries on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """The kernel's errors of write(2), read(2) and fsync(2) do not say of which file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise
