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
from shlex import quote

from flasher import devices, loopfile, ownership
from flasher.cardio import GONE, CardIO
from flasher.errors import DeviceRefusedError, WriteError
from flasher.model import BlockDevice, Image, ImageFile
from flasher.plan import CardPlan, human

# linux/fs.h: _IOR(0x12, 114, size_t) and _IOR(0x12, 128, __u64).
_BLKGETSIZE64 = 0x80001272 | struct.calcsize("N") << 16
_BLKGETDISKSEQ = 0x80081280
_LOCK_SECONDS = 3.0
_PAGE = 4096
# What a card file is called until it is complete; ours alone, so that a leftover may be removed.
PARTIAL = ".piflash-partial"
_TRIES = 20


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
        _check_identity(fd, target)
        _check_file_behind(fd, target, image=image)
        stack.enter_context(loopfile.past_the_cache(fd))
        io = CardIO(fd, sector=target.sector_size, direct=direct, sparse=False)
        yield Claimed(target.path, io, target.size - target.size % target.sector_size)


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
    hint = f"see what holds it: lsblk {quote(path)}; fuser -v {quote(path)}"
    with suppress(DeviceRefusedError):
        now = devices.examine(path)
        holders = [f"{mount.source} mounted on {mount.point}" for mount in now.mounts]
        holders += now.users
        if now.mounts:
            points = dict.fromkeys(quote(mount.point) for mount in now.mounts)
            hint = f"umount {' '.join(points)}"
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


def _check_identity(fd: int, target: BlockDevice) -> None:
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


def _check_file_behind(fd: int, target: BlockDevice, *, image: Image) -> None:
    """Compare inodes: the names of files mean nothing between mount namespaces."""
    behind = loopfile.inode(fd)
    if behind is None:
        return
    with suppress(OSError):
        status = image.path.stat()
        if behind == (status.st_dev, status.st_ino):
            raise DeviceRefusedError(
                f"{target.path}: the file behind it is the base image itself, {image.path}",
                hint="attach another file: losetup -f FILE",
            )
    others = loopfile.others(fd)
    if others:
        raise DeviceRefusedError(
            f"{target.path}: the file behind it is also attached as {', '.join(others)}",
            hint=f"detach the one that is not needed: losetup -d {quote(others[0])}",
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
    partial = path.with_name(path.name + PARTIAL)
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
                _put_in_place(fd, partial, target)
        finally:
            if not claimed.complete:
                _remove(partial, fd)


def _create(partial: Path) -> int:
    """Make the partial file and lock it: whoever holds the lock on what stands there owns it."""
    # 0600: the card holds the node's private key.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            fd = os.open(partial, flags, 0o600)
        except FileExistsError:
            _remove_leftover(partial)
            continue
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(partial, fd):
                return fd
        # Another run took it for a dead one's between the open and the lock.
        os.close(fd)
    raise _written_by_another(partial)


def _remove_leftover(partial: Path) -> None:
    """Remove what a dead run left. DeviceRefusedError if the run is alive: it holds a lock."""
    # O_NONBLOCK: a FIFO of that name would wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(partial, flags)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DeviceRefusedError(
                f"{partial}: is in the way, and is not a file that piflash made",
                hint=f"look at it: ls -l {quote(str(partial))}",
            )
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(partial, fd)
    except BlockingIOError:
        raise _written_by_another(partial) from None
    finally:
        os.close(fd)


def _written_by_another(partial: Path) -> DeviceRefusedError:
    return DeviceRefusedError(
        f"{partial}: another piflash is writing it",
        hint=f"see who: fuser -v {quote(str(partial))}",
    )


def _stands(path: Path, fd: int) -> bool:
    """Tell whether an open file is still the one of that name."""
    try:
        there, ours = path.lstat(), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _remove(partial: Path, fd: int) -> None:
    if _stands(partial, fd):
        with suppress(OSError):
            partial.unlink()


def _put_in_place(fd: int, partial: Path, target: ImageFile) -> None:
    path = target.path
    try:
        os.fsync(fd)
        ownership.give(fd)
        if not _stands(partial, fd):
            raise WriteError(
                f"{partial}: was taken away while it was written", hint="write the card again"
            )
        if devices.file_version(path) != target.version:
            raise DeviceRefusedError(
                f"{path}: is not what stood there when the plan was confirmed; it is kept",
                hint=f"look at it: ls -l {quote(str(path))}; then write the card again",
            )
        partial.replace(path)
        _sync_directory(path.parent)
    except (OSError, WriteError, DeviceRefusedError) as error:
        _remove(partial, fd)
        if isinstance(error, OSError):
            raise _file_error(path, error) from None
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _file_error(path: Path, error: OSError) -> WriteError:
    directory = quote(str(path.parent))
    return WriteError(
        f"{path}: cannot be made: {error.strerror}",
        hint=f"look at: ls -ld {directory}; df -h {directory}",
    )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
