"""The cluster's memory, `.piflash/`: authority, flashes, secrets, image lock. Shell.

Every file is old or new after a crash at any moment; what was minted is on disk before it is used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TypeVar

import filelock

from flasher import ownership, permits, pki, records
from flasher.errors import WorkspaceError
from flasher.model import ClusterSpec, Identity, Secret, Ticket
from flasher.permits import Flash
from flasher.records import ImagePin, State

LOCK_SECONDS = 10.0

_AUTHORITY = "authority.json"
_STATE = "state.json"
_IMAGES = "images.json"
_SECRETS = "secrets"
_IGNORE = ".gitignore"
_LOCK = "lock"
_HOLDER = "lock.holder"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SECRET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Workspace:
    """One cluster's `.piflash/`; make it with `Workspace.open`. Reading needs no lock."""

    directory: Path
    cluster: str
    _authority: pki.Authority = field(repr=False)
    _lock_seconds: float

    @classmethod
    def open(
        cls, directory: Path, *, cluster: str, lock_seconds: float = LOCK_SECONDS
    ) -> Workspace:
        """Open the workspace, and make it, with a new authority, where there is none.

        `lock_seconds`: how long a change waits for another process that is changing it.
        WorkspaceError if others can read it, if it is another cluster's, or if it is damaged.
        """
        with _explained(directory):
            _make_private_directory(directory)
            if not _complete(directory):
                with _locked(directory, seconds=lock_seconds):
                    _complete_it(directory, cluster=cluster)
        history = _read_history(directory, cluster=cluster)
        authority = _read(
            directory / _AUTHORITY, parse=records.parse_authority, remedy=_lost(directory)
        )
        if authority is None or history is None:
            raise WorkspaceError(f"{directory}: emptied while it was read", hint="try again")
        return cls(directory, cluster, authority, lock_seconds)

    def next_ticket(self, spec: ClusterSpec, node: str, *, rebuild: bool, now: int) -> Ticket:
        """Give what `mint` would give now, without taking it."""
        return permits.next_ticket(self._flashes(), spec=spec, node=node, rebuild=rebuild, now=now)

    def mint(
        self,
        spec: ClusterSpec,
        node: str,
        *,
        rebuild: bool,
        now: int,
        expected: Ticket | None = None,
    ) -> Ticket:
        """Take the next ticket; it is on disk, and never given again, when this returns.

        WorkspaceError if it is not the `expected` one: another flash was faster.
        """
        with self._changing():
            history = self._flashes()
            ticket = permits.next_ticket(history, spec=spec, node=node, rebuild=rebuild, now=now)
            if expected is not None and ticket != expected:
                raise WorkspaceError(
                    f"{node}: another flash took generation {expected.generation} or changed the "
                    f"cluster's epoch meanwhile; what was confirmed is out of date",
                    hint=f"flash {node} again",
                )
            address = spec.node(node).cluster_address
            self._store([*history, Flash(ticket, delivered=False, address=address)])
        return ticket

    def delivered(self, ticket: Ticket) -> None:
        """Record, before the card is made bootable, that its permit is out in the world.

        WorkspaceError if another flash has overtaken it: the card must then stay unbootable.
        """
        with self._changing():
            history = self._flashes()
            permits.check_delivery(history, ticket=ticket)
            self._store([replace(f, delivered=f.delivered or f.ticket == ticket) for f in history])

    def clock_warning(self, now: int) -> str:
        """Give what to tell the user if a flash lies ahead of `now`, UTC seconds; else empty."""
        return permits.clock_warning(self._flashes(), now=now)

    def address_warning(self, spec: ClusterSpec) -> str:
        """Give what to tell the user if cards that are out know other addresses; else empty."""
        return permits.address_warning(self._flashes(), spec=spec)

    def last_ticket(self, node: str) -> Ticket | None:
        """Give the ticket of the node's last flash, delivered or not; None before the first."""
        mine = [flash.ticket for flash in self._flashes() if flash.ticket.node == node]
        return mine[-1] if mine else None

    def identity(self, spec: ClusterSpec, ticket: Ticket) -> Identity:
        """Give the ticket's identity; the same bytes each time."""
        role = spec.node(ticket.node).role
        return pki.issue(self._authority, cluster=self.cluster, role=role, ticket=ticket)

    def secret(self, name: str) -> Secret:
        """Give a stack's secret, made at its first use: 32 URL-safe characters, from then stable.

        It lies in `secrets/NAME`, where the user may put a value of their own before or after.
        """
        if not _SECRET_NAME.fullmatch(name):
            raise WorkspaceError(f"secret {name!r}: not a name of a-z, 0-9, '_', '.' and '-'")
        path = self.directory / _SECRETS / name
        remedy = f"write its value into it, or: rm {_quoted(path)}"
        found = _read(path, parse=_parse_secret, remedy=remedy)
        if found is not None:
            return found
        with self._changing():
            made = pki.stack_secret(self._authority, cluster=self.cluster, name=name)
            if not path.exists():
                _replace(path, made.reveal() + "\n")
        return _read(path, parse=_parse_secret, remedy=remedy) or made

    def image_pin(self, ref: str) -> str | None:
        """Give the SHA-256 that was recorded for the image of that name, path or URL, if any."""
        pin = self._pins().get(ref)
        return None if pin is None else pin.sha256

    def pin_image(self, ref: str, sha256: str, *, url: str | None = None) -> None:
        """Record an image's SHA-256 at its first use. WorkspaceError if another is recorded."""
        if not _SHA256.fullmatch(sha256):
            raise WorkspaceError(f"image {ref}: {sha256!r} is not a SHA-256 in lower-case hex")
        with self._changing():
            pins = dict(self._pins())
            if ref in pins and pins[ref].sha256 != sha256:
                raise WorkspaceError(
                    f"image {ref}: its hash is recorded as {pins[ref].sha256}, not {sha256}",
                    hint="if the new one is right: piflash fetch --repin",
                )
            if ref not in pins:
                pins[ref] = ImagePin(sha256, url, first_seen=int(time.time()))
                _replace(self.directory / _IMAGES, records.dump_pins(pins))

    def unpin_image(self, ref: str) -> None:
        """Forget the recorded hash of an image; nothing happens if there is none."""
        with self._changing():
            pins = {name: pin for name, pin in self._pins().items() if name != ref}
            _replace(self.directory / _IMAGES, records.dump_pins(pins))

    def _flashes(self) -> list[Flash]:
        history = _read_history(self.directory, cluster=self.cluster)
        if history is None:
            raise WorkspaceError(f"{self.directory / _STATE} is gone", hint=_lost(self.directory))
        return history

    def _store(self, history: Sequence[Flash]) -> None:
        state = State(self.cluster, tuple(history))
        _replace(self.directory / _STATE, records.dump_state(state))

    def _pins(self) -> Mapping[str, ImagePin]:
        path = self.directory / _IMAGES
        remedy = f"rm {_quoted(path)}; each image's hash is then recorded anew at its next use"
        return _read(path, parse=records.parse_pins, remedy=remedy) or {}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with _explained(self.directory), _locked(self.directory, seconds=self._lock_seconds):
            yield


# --- making it ----------------------------------------------------------------------------------


def _make_private_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        ownership.give(directory)
        _sync_directory(directory.parent)
    if os.name == "posix":
        _check_private(directory)


def _check_private(directory: Path) -> None:
    info = directory.stat()
    if not directory.is_dir():
        raise WorkspaceError(
            f"{directory} is not a directory", hint=f"mv {_quoted(directory)} elsewhere"
        )
    user, _ = ownership.operator()
    if info.st_uid not in (os.geteuid(), user):
        raise WorkspaceError(
            f"{directory} belongs to user {info.st_uid}, you are {user}: whoever owns it owns the "
            "cluster",
            hint=f"run piflash as its owner, or: sudo chown -R {user} {_quoted(directory)}",
        )
    if info.st_mode & 0o077:
        raise WorkspaceError(
            f"{directory} can be read by others (mode {info.st_mode & 0o777:04o}); it holds the "
            "cluster's keys",
            hint=f"chmod 700 {_quoted(directory)}",
        )


def _complete(directory: Path) -> bool:
    return all((directory / name).exists() for name in (_IGNORE, _SECRETS, _STATE, _AUTHORITY))


def _complete_it(directory: Path, *, cluster: str) -> None:
    """Make what is missing. The authority is last, and the state tells if one was ever used."""
    if not (directory / _IGNORE).exists():
        _replace(directory / _IGNORE, "*\n")
    if not (directory / _SECRETS).exists():
        _make_private_directory(directory / _SECRETS)
    history = _read_history(directory, cluster=cluster)
    if history is None:
        if (directory / _AUTHORITY).exists():
            raise WorkspaceError(
                f"{directory / _STATE} is gone: which generations were used is not known",
                hint=_lost(directory),
            )
        _replace(directory / _STATE, records.dump_state(State(cluster, ())))
    if not (directory / _AUTHORITY).exists():
        if history:
            raise WorkspaceError(
                f"{directory / _AUTHORITY} is gone: no card can be made for this cluster",
                hint=_lost(directory),
            )
        _replace(directory / _AUTHORITY, records.dump_authority(pki.new_authority(cluster=cluster)))


def _lost(directory: Path) -> str:
    here, away = _quoted(directory), _quoted(directory.with_name(f"{directory.name}.old"))
    return (
        f"bring it back from a backup; or, to start a new cluster: mv {here} {away}, and flash "
        "every node again"
    )


def _quoted(path: Path) -> str:
    return quote(str(path))


def _parse_secret(text: str) -> Secret:
    value = text.rstrip("\n")
    if not value:
        raise ValueError("it is empty")
    return Secret(value)


# --- files --------------------------------------------------------------------------------------


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{error.filename or directory}: {error.strerror or error}",
            hint=f"see that {directory} can be written and its file system has room",
        ) from error


@contextmanager
def _locked(directory: Path, *, seconds: float) -> Iterator[None]:
    path = directory / _LOCK
    if not path.exists():
        os.close(_create(path, truncate=False))
    try:
        with filelock.FileLock(path, timeout=seconds, mode=0o600):
            # Only for the message below; whoever reads it half-written sees no number.
            _write_whole(directory / _HOLDER, f"{os.getpid()}\n")
            yield
    except filelock.Timeout:
        holder = _holder(directory)
        raise WorkspaceError(
            f"{directory} is in use by another piflash ({holder}) for more than {seconds:g} s",
            hint="wait until it is done, then try again",
        ) from None


def _holder(directory: Path) -> str:
    try:
        text = (directory / _HOLDER).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        text = ""
    return f"process {text}" if text.isdecimal() else "which one is not known"


def _replace(path: Path, text: str) -> None:
    """Put a whole new file in place of the old one. Only under the lock, so one name will do."""
    new = path.with_name(f".{path.name}.new")
    _write_whole(new, text)
    new.replace(path)
    _sync_directory(path.parent)


def _write_whole(path: Path, text: str) -> None:
    with os.fdopen(_create(path, truncate=True), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _create(path: Path, *, truncate: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else 0)
    fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if os.name == "posix" and os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path, *, parse: Callable[[str], _T], remedy: str) -> _T | None:
    """Read one file; None if there is none. WorkspaceError, without its content, if damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkspaceError(f"{path}: {error.strerror}", hint=remedy) from None
    except UnicodeDecodeError:
        raise WorkspaceError(f"{path} is damaged: it is not text", hint=remedy) from None
    try:
        return parse(text)
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged: {error}", hint=remedy) from None


def _read_history(directory: Path, *, cluster: str) -> list[Flash] | None:
    path = directory / _STATE
    state = _read(path, parse=records.parse_state, remedy=_lost(directory))
    if state is None:
        return None
    if state.cluster != cluster:
        raise WorkspaceError(
            f"{directory} is that of cluster {state.cluster}, but the cluster file says {cluster}",
            hint=f"name it {state.cluster} again, or give {cluster} a directory of its own",
        )
    return list(state.flashes)
