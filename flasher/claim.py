"""Takes hold of the planned target, and of no other: exclusive open, identity checked again.

Writes nothing but what its caller says; a card file stands under its own name only once complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flasher import devices
from flasher.cardio import GONE, CardIO
from flasher.errors import DeviceRefusedError, WriteError
from flasher.model import BlockDevice, Image, ImageFile
from flasher.plan import CardPlan, human

# linux/fs.h: _IOR(0x12, 114, size_t) and _IOR(0x12, 128, __u64).
_BLKGETSIZE64 = 0x80001272 | struct.calcsize("N") << 16
_BLKGETDISKSEQ = 0x80081280
_LOCK_SECONDS = 3.0
_PAGE = 4096


@dataclass
class Claimed:
    """A target that is ours until the context ends.

    `size`: bytes that it holds; None for a file, which grows. `keep()` is called once it is
    complete: without it, a file is removed at the end.
    """

    name: str
    io: CardIO
    size: int | None
    _complete: bool = False

    def keep(self) -> None:
        """Say that the card is complete."""
        self._complete = True

    @property
    def complete(self) -> bool:
        """Whether keep() was called."""
        return self._complete


@contextmanager
def claim(plan: CardPlan) -> Iterator[Claimed]:
    """Hold the plan's target alone; it is released, and a partial file removed, at the end.

    DeviceRefusedError if it is in use, gone, or not what the plan was confirmed for: then nothing
    was written. WriteError if a card file cannot be made.
    """
    target = plan.target
    if isinstance(target, BlockDevice):
        with _claim_device(target, image=plan.image) as claimed:
            yield claimed
    else:
        with _claim_file(target, image=plan.image) as claimed:
            yield claimed


# --- block devices ------------------------------------------------------------------------------


@contextmanager
def _claim_device(target: BlockDevice, *, image: Image) -> Iterator[Claimed]:
    with ExitStack() as stack:
        fd, direct = _open_exclusively(target)
        stack.callback(os.close, fd)
        _lock(fd, target)
        _check_identity(fd, target, image=image)
        io = CardIO(fd, sector=target.sector_size, direct=direct, sparse=False)
        yield Claimed(target.path, io, target.size)


def _open_exclusively(target: BlockDevice) -> tuple[int, bool]:
    # O_RDWR alone opens a mounted device; O_EXCL is the kernel's own word that nobody uses it.
    flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
    direct = getattr(os, "O_DIRECT", 0)
    try:
        try:
            return os.open(target.path, flags | direct), bool(direct)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.open(target.path, flags), False
    except OSError as error:
        raise _open_refused(target, error) from None


def _open_refused(target: BlockDevice, error: OSError) -> DeviceRefusedError:
    path = target.path
    if error.errno == errno.EBUSY:
        return _busy(path)
    # The kernel says EACCES of a read-only device too.
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return DeviceRefusedError(
            f"{path}: you may not write this device", hint="run the same command with sudo"
        )
    if error.errno in GONE or error.errno == errno.ENOENT:
        return DeviceRefusedError(
            f"{path}: the card is gone: {error.strerror}",
            hint="plug it in again, then look: piflash devices",
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return _read_only(path)
    return DeviceRefusedError(
        f"{path}: cannot be opened: {error.strerror}", hint="see the kernel's words: dmesg | tail"
    )


def _read_only(path: str) -> DeviceRefusedError:
    return DeviceRefusedError(
        f"{path}: the card is read-only", hint="slide its lock switch towards the contacts"
    )


def _busy(path: str) -> DeviceRefusedError:
    holders: list[str] = []
    hint = f"see what holds it: lsblk {path}; fuser -v {path}"
    with suppress(DeviceRefusedError):
        now = devices.examine(path)
        holders = [f"{mount.source} mounted on {mount.point}" for mount in now.mounts]
        holders += now.users
        if now.mounts:
            hint = f"umount {' '.join(dict.fromkeys(mount.point for mount in now.mounts))}"
    who = ", ".join(holders) or "another program, or a mount in another namespace"
    return DeviceRefusedError(f"{path}: in use by {who}", hint=hint)


def _lock(fd: int, target: BlockDevice) -> None:
    # systemd's BLOCK_DEVICE_LOCKING: while this lock is held, udev does not probe the device.
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _busy(target.path) from None
            time.sleep(0.05)
        else:
            return


def _check_identity(fd: int, target: BlockDevice, *, image: Image) -> None:
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        raise _another(target, "it is not a block device any more")
    now = devices.examine(target.path)
    size = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    compared = (
        ("number", target.number, (os.major(status.st_rdev), os.minor(status.st_rdev))),
        ("size", target.size, size),
        ("sequence number", target.diskseq, _diskseq(fd) or now.diskseq),
        ("kind", target.kind.value, now.kind.value),
        ("vendor", target.vendor, now.vendor),
        ("model", target.model, now.model),
        ("serial number", target.serial, now.serial),
        ("backing file", target.backing_file, now.backing_file),
    )
    for what, planned, found in compared:
        if planned != found:
            raise _another(target, f"its {what} was {_shown(planned)}, and is {_shown(found)}")
    if now.read_only:
        raise _read_only(target.path)
    if now.mounts or now.users or now.system:
        raise _busy(target.path)
    if now.backing_file and _same_file(Path(now.backing_file), image.path):
        raise DeviceRefusedError(
            f"{target.path}: the file behind it is the base image itself, {image.path}",
            hint="attach another file: losetup -f FILE",
        )


def _diskseq(fd: int) -> int | None:
    try:
        return int(struct.unpack("Q", fcntl.ioctl(fd, _BLKGETDISKSEQ, bytes(8)))[0])
    except OSError:
        return None


def _another(target: BlockDevice, difference: str) -> DeviceRefusedError:
    return DeviceRefusedError(
        f"{target.path}: not the card that was confirmed: {difference}",
        hint="look at what is plugged in now, and start again: piflash devices",
    )


def _shown(value: object) -> str:
    return (
        human(value) + f" ({value} bytes)"
        if isinstance(value, int) and value > 9999
        else f"{value}"
    )


# --- card files ---------------------------------------------------------------------------------


@contextmanager
def _claim_file(target: ImageFile, *, image: Image) -> Iterator[Claimed]:
    path = target.path
    if _same_file(path, image.path):
        raise DeviceRefusedError(
            f"{path}: is the base image itself", hint="name another file for the card"
        )
    partial = path.with_name(f"{path.name}.partial")
    with ExitStack() as stack:
        try:
            fd = _create(partial)
        except OSError as error:
            raise _file_error(partial, error) from None
        stack.callback(os.close, fd)
        claimed = Claimed(str(path), CardIO(fd, sector=512, direct=False, sparse=True), None)
        try:
            yield claimed
            if claimed.complete:
                _put_in_place(fd, partial, path)
        finally:
            if not claimed.complete:
                with suppress(OSError):
                    partial.unlink()


def _create(partial: Path) -> int:
    # 0600: the card holds the node's private key.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(partial, flags, 0o600)
    except FileExistsError:
        _remove_leftover(partial)
        fd = os.open(partial, flags, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _remove_leftover(partial: Path) -> None:
    """Remove what a dead run left. DeviceRefusedError if the run is alive: it holds a lock."""
    fd = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink()
    except BlockingIOError:
        raise DeviceRefusedError(
            f"{partial}: another piflash is writing it", hint=f"see who: fuser -v {partial}"
        ) from None
    finally:
        os.close(fd)


def _put_in_place(fd: int, partial: Path, path: Path) -> None:
    try:
        os.fsync(fd)
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _file_error(path, error) from None


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _file_error(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be made: {error.strerror}",
        hint=f"look at: ls -ld {path.parent}; df -h {path.parent}",
    )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
