"""The directory of downloaded images: what lies there, with its hash, and the locks. Shell.

Nothing in it is ever deleted but a part that cannot become an image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import filelock

from flasher import ownership, weburl
from flasher.download import Version
from flasher.errors import DownloadError
from flasher.model import MIB, Progress

VERSION = 1


@dataclass(frozen=True)
class Slot:
    """Where the image of one address lies in the cache, or will lie."""

    url: str
    image: Path

    @property
    def part(self) -> Path:
        """The download under way."""
        return _beside(self.image, ".part")

    @property
    def sidecar(self) -> Path:
        """What is known of the image."""
        return _beside(self.image, ".json")

    @property
    def lock(self) -> Path:
        """Held by whoever downloads."""
        return _beside(self.image, ".lock")


@dataclass(frozen=True)
class Stored:
    """A complete image in the cache. `published`: the SHA-256 that its server stated, if any."""

    path: Path
    sha256: str
    published: str | None


def slot(directory: Path, *, url: str) -> Slot:
    """Give an address's place; the same for whoever logs in there."""
    return Slot(url, directory / f"{weburl.key(url)}-{weburl.file_name(url)}")


def lookup(place: Slot) -> Stored | None:
    """Give the image if it is there and is what was stored; None if not.

    A file whose size or time of change is not the recorded one is hashed again.
    """
    try:
        record = json.loads(place.sidecar.read_text(encoding="utf-8"))
        info = place.image.stat()
        sha256, published = record["sha256"], record["published"]
        if record["version"] != VERSION or not isinstance(sha256, str) or not info.st_size:
            return None
        same = (record["size"], record["mtime_ns"]) == (info.st_size, info.st_mtime_ns)
        if not same and _sha256(place.image) != sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Stored(place.image, sha256, published if isinstance(published, str) else None)


def store(place: Slot, *, sha256: str, version: Version, published: str | None) -> Stored:
    """Give the complete, synced and verified part its final name. DownloadError if that fails."""
    with _explained(place.image.parent):
        info = place.part.stat()
        record = {
            **asdict(version),
            "version": VERSION,
            "url": weburl.shown(place.url),
            "sha256": sha256,
            "published": published,
            "size": info.st_size,
            "mtime_ns": info.st_mtime_ns,
            "fetched": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        new = _beside(place.sidecar, ".new")
        with new.open("w", encoding="utf-8") as file:
            ownership.give_inside(new.parent, file.fileno())
            file.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Between the two the old record stands beside a new file, which `lookup` then hashes.
        place.part.replace(place.image)
        new.replace(place.sidecar)
        _beside(place.part, ".json").unlink(missing_ok=True)
        _sync_directory(place.image.parent)
    return Stored(place.image, sha256, published)


@contextmanager
def locked(place: Slot, *, progress: Progress) -> Iterator[None]:
    """Keep every other piflash from downloading into the same part; waits as long as it takes."""
    with _explained(place.image.parent):
        ownership.make_directories(place.image.parent)
        lock = filelock.FileLock(place.lock, mode=0o644)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress.say(f"{place.image.name}: another piflash is downloading it; waiting")
            lock.acquire()
        ownership.give_inside(place.lock.parent, place.lock)
    try:
        yield
    finally:
        lock.release()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(MIB):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except NotImplementedError:  # filelock's word for a file system without flock
        raise DownloadError(
            f"{directory}: its file system cannot lock files",
            hint="name a directory on another one in PIFLASH_CACHE",
        ) from None
    except OSError as error:
        raise DownloadError(
            f"{error.filename or directory}: {error.strerror or error}",
            hint=f"make {directory} writable, or name another directory in PIFLASH_CACHE",
        ) from None


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
