"""One file from a server into a `.part` file, resumed after a break and across runs. Shell.

The caller holds the lock, judges the hash and gives the file its final name.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import requests

from flasher import ownership, weburl
from flasher.container import SNIFF, Kind, sniff
from flasher.errors import DownloadError
from flasher.model import MIB, Phase, Progress
from flasher.wire import BrokenError, Retry, TransientError, body, check_status, opened, persist

# What is behind the last checkpoint is not trusted after a crash: it may never have reached the
# disk although the file is as long as if it had.
CHECKPOINT = 8 * MIB
_SPARE = MIB
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from the next, as its server says it."""

    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: no weak ETag (RFC 9110, 13.1.5)."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


@dataclass(frozen=True)
class Fetched:
    """A complete download. `resumed`: some of it came in an earlier run."""

    sha256: str
    size: int
    version: Version
    resumed: bool


def fetch(url: str, *, part: Path, hash_known: bool, progress: Progress, retry: Retry) -> Fetched:
    """Download into `part`, going on where an earlier run stopped; synced to disk on return.

    `hash_known`: the caller can tell a wrong file, so that a server without ETag and date may be
    resumed too. DownloadError if the server does not give it or the disk has no room for it.
    """
    try:
        with _Part(part) as file:
            job = _Download(url, file, hash_known=hash_known, progress=progress, retry=retry)
            return job.run()
    except OSError as error:
        if error.errno in _FULL:
            discard(part)
            raise _no_room(part, file_name=weburl.file_name(url)) from None
        raise DownloadError(
            f"{error.filename or part}: {error.strerror or error}",
            hint="make the directory writable, or name another one in PIFLASH_CACHE",
        ) from None


def discard(part: Path) -> None:
    """Remove a part and what is known of it."""
    _state_of(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _no_room(part: Path, *, file_name: str) -> DownloadError:
    return DownloadError(
        f"{part.parent}: the disk is full, {file_name} does not fit; what had come was removed",
        hint="free some space there, or name another directory in PIFLASH_CACHE",
    )


def _state_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


class _Part:
    """The bytes so far, with their hash and their version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.have = 0
        self.version = Version()
        self._synced = 0
        self._sha256 = hashlib.sha256()
        # Nobody's link may lead what root writes, and gives away, to another file.
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        self._file = io.FileIO(fd, "r+")
        ownership.give_inside(path.parent, fd)
        self._load()
        self.earlier = self.have

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what has come, whatever stopped it."""
        with self._file:
            if self.have and not isinstance(error, OSError):
                self.checkpoint()
        if not self.have:
            discard(self.path)

    def begin(self, version: Version) -> None:
        """Start over, with another version perhaps."""
        _state_of(self.path).unlink(missing_ok=True)
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self.have = self._synced = self.earlier = 0
        self.version = version

    def append(self, data: bytes) -> None:
        """Put bytes behind those that are there."""
        self._sha256.update(data)
        self.have += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        if self.have - self._synced >= CHECKPOINT:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Have everything on disk, then say so beside it."""
        os.fsync(self._file.fileno())
        self._synced = self.have
        state = {
            "etag": self.version.etag,
            "last_modified": self.version.last_modified,
            "total": self.version.total,
            "synced": self._synced,
        }
        new = self.path.with_name(self.path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            ownership.give_inside(new.parent, file.fileno())
            file.write(json.dumps(state))
        new.replace(_state_of(self.path))

    def head(self) -> bytes:
        """Give the first bytes."""
        self._file.seek(0)
        data = self._file.read(SNIFF)
        self._file.seek(self.have)
        return data

    def sha256(self) -> str:
        """Give the hash of what is there."""
        return self._sha256.hexdigest()

    def _load(self) -> None:
        state = _read_state(_state_of(self.path))
        synced = state.get("synced")
        length = os.fstat(self._file.fileno()).st_size
        if not isinstance(synced, int) or not 0 < synced <= length:
            self.begin(Version())
            return
        self._file.truncate(synced)
        while self.have < synced:
            data = self._file.read(MIB)
            if not data:
                raise OSError(errno.EIO, "the file ends too soon", str(self.path))
            self._sha256.update(data)
            self.have += len(data)
        self._synced = synced
        etag, date, total = state.get("etag"), state.get("last_modified"), state.get("total")
        self.version = Version(
            etag if isinstance(etag, str) else None,
            date if isinstance(date, str) else None,
            total if isinstance(total, int) else None,
        )


def _read_state(path: Path) -> Mapping[str, object]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


class _Download:
    """Gets a part's missing bytes, as often as it takes."""

    def __init__(
        self, url: str, part: _Part, *, hash_known: bool, progress: Progress, retry: Retry
    ) -> None:
        self._url = url
        self._name = weburl.file_name(url)
        self._part = part
        self._hash_known = hash_known
        self._progress = progress
        self._retry = retry
        self._ranges = True
        self._counting = False
        self._best = part.have

    def run(self) -> Fetched:
        """Give the complete file; DownloadError if it cannot be had."""
        part = self._part
        try:
            if part.have == 0 or part.have != part.version.total:
                persist(
                    self._attempt,
                    url=self._url,
                    retry=self._retry,
                    progress=self._progress,
                    reached=lambda: self._best,
                    kept=self._resumable,
                )
        finally:
            if self._counting:
                self._progress.finish(self._name, Phase.DOWNLOAD)
        if not part.have:
            raise self._refused("the server sent an empty file")
        if sniff(part.head()) is Kind.HTML:
            raise self._refused("the server sent an HTML page instead of the image")
        part.checkpoint()
        return Fetched(part.sha256(), part.have, part.version, resumed=part.earlier > 0)

    def _attempt(self) -> None:
        part = self._part
        try:
            with opened(self._url, headers=self._conditions(), retry=self._retry) as answer:
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    self._start_over(f"the server has nothing from byte {part.have} on")
                check_status(answer, url=self._url)
                end = self._agree(answer)
                self._check_room()
                self._receive(answer, end=end)
        except BrokenError as error:
            of = f" of {part.version.total}" if part.version.total else ""
            where = f" at byte {part.have}{of}" if part.have else ""
            raise type(error)(error.reason + where) from None
        total = part.version.total
        if total is not None and part.have < total:
            raise TransientError(f"the connection ended at byte {part.have} of {total}")

    def _agree(self, answer: requests.Response) -> int | None:
        """Take up the answer's version; gives the offset at which it ends, if it says so."""
        if answer.status_code == requests.codes.partial_content:
            return self._continue(answer)
        self._stop_counting()
        self._part.begin(_version(answer, total=self._length(answer)))
        return self._part.version.total

    def _conditions(self) -> dict[str, str]:
        """Ask for the rest where that is safe, else for everything."""
        part = self._part
        validator = part.version.validator
        if not self._ranges or not self._resumable():
            return {}
        headers = {"Range": f"bytes={part.have}-"}
        return {**headers, "If-Range": validator} if validator else headers

    def _resumable(self) -> bool:
        part = self._part
        return part.have > 0 and bool(part.version.validator or self._hash_known)

    def _continue(self, answer: requests.Response) -> int:
        """Check that a 206 is what was asked for; gives the offset at which it ends."""
        part = self._part
        stated = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(stated.strip())
        if not match:
            self._start_over(f"the server answers with the range {stated[:60]!r}")
        start, end = int(match[1]), int(match[2]) + 1
        total = part.version.total if match[3] == "*" else int(match[3])
        version = _version(answer, total=total)
        if (
            start != part.have
            or end <= start
            or (total is not None and end > total)
            or (part.version.total not in (None, total))
        ):
            self._start_over(f"asked from byte {part.have} on, the server answers {stated!r}")
        if _changed(part.version, version):
            self._start_over("the file changed on the server")
        part.version = replace(part.version if part.have else version, total=total)
        return end

    def _receive(self, answer: requests.Response, *, end: int | None) -> None:
        part = self._part
        if not self._counting:
            self._progress.start(self._name, Phase.DOWNLOAD, part.version.total)
            self._progress.advance(self._name, Phase.DOWNLOAD, part.have)
            self._counting = True
        for data in body(answer, url=self._url, retry=self._retry):
            part.append(data)
            self._best = max(self._best, part.have)
            self._progress.advance(self._name, Phase.DOWNLOAD, len(data))
            if end is not None and part.have > end:
                self._start_over("the server sent more than it announced")

    def _start_over(self, reason: str) -> NoReturn:
        self._stop_counting()
        self._part.begin(Version())
        self._ranges = False
        raise TransientError(f"{reason}; starting over")

    def _stop_counting(self) -> None:
        if self._counting:
            self._progress.finish(self._name, Phase.DOWNLOAD)
            self._counting = False

    def _check_room(self) -> None:
        part = self._part
        if part.version.total is None:
            return
        missing = part.version.total - part.have
        free = shutil.disk_usage(part.path.parent).free
        if missing + _SPARE > free:
            raise DownloadError(
                f"{part.path.parent}: {self._name} needs {missing} more bytes, {free} are free",
                hint="free some space there, or name another directory in PIFLASH_CACHE",
            )

    def _length(self, answer: requests.Response) -> int | None:
        text = answer.headers.get("Content-Length")
        # Chunks go before it (RFC 9112, 6.3).
        if text is None or "Transfer-Encoding" in answer.headers:
            return None
        if not _LENGTH.fullmatch(text.strip()):
            raise self._refused(f"the server states the length {text[:40]!r}")
        return int(text)

    def _refused(self, what: str) -> DownloadError:
        self._part.begin(Version())
        return DownloadError(
            f"{weburl.shown(self._url)}: {what}",
            hint="open the address in a browser: a network's log-in page may answer in its place",
        )


def _version(answer: requests.Response, *, total: int | None) -> Version:
    return Version(answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total)


def _changed(before: Version, after: Version) -> bool:
    """Tell whether a server that was asked for more of one version answers with another's."""
    if before.etag and after.etag:
        return before.etag != after.etag
    return bool(
        before.last_modified and after.last_modified and before.last_modified != after.last_modified
    )
