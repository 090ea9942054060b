"""What the kernel says of block devices: /sys, /proc and udev's database to BlockDevice.

Opens nothing for writing and decides nothing: flasher.safety judges, flasher.claim opens.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from flasher import blocktree, sysblock
from flasher.blocktree import MountLine, Node, Number, Usage
from flasher.errors import DeviceRefusedError
from flasher.model import BlockDevice, DeviceKind, ImageFile, Mount, Target

_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - the one place below /dev that is for files
_LIST = "list what can be written: piflash devices"


def what_is(path: str) -> Target:
    """Tell what the user's TARGET is: a block device, or a file ending in .img to be made.

    DeviceRefusedError says what anything else is. Nothing is opened or made.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return _missing(path)
    except OSError as error:
        raise DeviceRefusedError(
            f"{path}: {error.strerror}", hint=f"name another target; {_LIST}"
        ) from None
    if stat.S_ISBLK(mode):
        return examine(path)
    if stat.S_ISDIR(mode):
        raise DeviceRefusedError(
            f"{path}: is a directory", hint=f"name a file in it: {Path(path) / 'card.img'}"
        )
    if stat.S_ISCHR(mode):
        raise DeviceRefusedError(f"{path}: is a character device, not a card", hint=_LIST)
    if not stat.S_ISREG(mode):
        raise DeviceRefusedError(f"{path}: is a pipe or a socket, not a card", hint=_LIST)
    return _image_file(path, replaces=Path(path).stat().st_size)


def examine(path: str) -> BlockDevice:
    """Tell all about the block device at a path; symbolic links are followed.

    DeviceRefusedError if there is no block device, or the kernel does not describe it.
    """
    real = os.path.realpath(path)
    try:
        status = Path(real).stat()
    except OSError as error:
        raise DeviceRefusedError(
            f"{path}: {error.strerror}: the card is not plugged in", hint=_LIST
        ) from None
    if not stat.S_ISBLK(status.st_mode):
        raise DeviceRefusedError(f"{path}: is not a block device", hint=_LIST)
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    host = _Host.read()
    for node in host.nodes.values():
        if node.number == number:
            return host.device(node, path=real)
    raise DeviceRefusedError(
        f"{path}: the kernel knows no device {number[0]}:{number[1]}: the card is not plugged in",
        hint=_LIST,
    )


def list_devices() -> tuple[BlockDevice, ...]:
    """Give every whole disk, by name; loop devices only with a backing file."""
    host = _Host.read()
    devices = [
        host.device(node, path=f"/dev/{node.name}")
        for node in host.nodes.values()
        if node.parent is None
    ]
    return tuple(
        device
        for device in sorted(devices, key=lambda found: (len(found.name), found.name))
        if device.kind is not DeviceKind.LOOP or device.backing_file is not None
        if not device.name.startswith("ram")
    )


def _missing(path: str) -> ImageFile:
    if os.path.realpath(path).startswith("/dev/") and not _in_shared_memory(path):
        raise DeviceRefusedError(
            f"{path}: there is no such device: the card is not plugged in", hint=_LIST
        )
    found = _image_file(path, replaces=None)
    parent = found.path.parent
    if not parent.is_dir():
        raise DeviceRefusedError(
            f"{path}: there is no directory {parent}",
            hint=f"make it: mkdir -p {quote(str(parent))}",
        )
    return found


def _image_file(path: str, *, replaces: int | None) -> ImageFile:
    real = Path(os.path.realpath(path))
    if str(real).startswith("/dev/") and not _in_shared_memory(path):
        raise DeviceRefusedError(
            f"{path}: a regular file in /dev: the card is not plugged in, and an earlier copy went "
            "into the computer's memory",
            hint=f"plug in the card after: rm {quote(str(real))}; then look: piflash devices",
        )
    if real.suffix.lower() != ".img":
        raise DeviceRefusedError(
            f"{path}: neither a block device nor a file ending in .img",
            hint=f"name the device itself: {device}"
            if (device := _device_named(path))
            else f"name a card reader's device, or a file such as {real.with_suffix('.img').name}",
        )
    return ImageFile(real, replaces, version=file_version(real))


def file_version(path: Path) -> tuple[int, ...]:
    """Tell one state of a file from another: device, inode, size, time; empty if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _device_named(name: str) -> str:
    """Give the device that was meant by `sdb`, if there is one."""
    device = Path("/dev") / name
    return str(device) if "/" not in name and device.is_block_device() else ""


def _in_shared_memory(path: str) -> bool:
    return os.path.realpath(path).startswith(_SHARED_MEMORY)


@dataclass(frozen=True)
class _Host:
    """One reading of the kernel's tables. `unexplained`: why the system's disk may be unknown.

    `zfs`: the system lies on ZFS, whose mounts do not tell the disks of their pool.
    """

    nodes: Mapping[str, Node]
    mounts: tuple[Usage, ...]
    swaps: tuple[Usage, ...]
    system: frozenset[str]
    zfs: bool
    unexplained: tuple[str, ...]

    @classmethod
    def read(cls) -> _Host:
        nodes = {
            entry.name: node
            for entry in sysblock.entries(sysblock.BLOCK)
            if (node := sysblock.read_node(entry)) is not None
        }
        unexplained: list[str] = []
        lines = blocktree.parse_mountinfo(_text_or(unexplained, "/proc/self/mountinfo"))
        swap_paths = blocktree.parse_swaps(_text_or(unexplained, "/proc/swaps"))
        mounts = tuple(Usage(line.point, _numbers(line, lines)) for line in lines)
        swaps = tuple(Usage("swap", _swap_numbers(path)) for path in swap_paths)
        for line, mount in zip(lines, mounts, strict=True):
            if line.point == "/" and not mount.numbers and line.kind in _ON_DEVICES:
                unexplained.append(
                    f"it is not known which disk the root file system ({line.kind}) is on"
                )
        vital = [mount for mount in mounts if blocktree.is_system(mount.point)]
        zfs = any(line.kind == "zfs" and blocktree.is_system(line.point) for line in lines)
        system = blocktree.below(nodes, [n for use in (*vital, *swaps) for n in use.numbers])
        return cls(nodes, mounts, swaps, system, zfs, tuple(unexplained))

    def device(self, node: Node, *, path: str) -> BlockDevice:
        """Put together what is known of one device."""
        sys = sysblock.BLOCK / node.name
        parts = sorted(n.name for n in self.nodes.values() if n.parent == node.name)
        stack = blocktree.above(self.nodes, node.name)
        numbers = {self.nodes[name].number: name for name in stack if name in self.nodes}
        about = sysblock.About.read(node, sys=sysblock.BLOCK / (node.parent or node.name))
        member = sysblock.member((node.name, *parts))
        size = sysblock.integer(sys / "size")
        unexplained = [] if about.kind is DeviceKind.LOOP else list(self.unexplained)
        if size is None:
            unexplained.append("the kernel does not tell its size")
        return BlockDevice(
            path=path,
            name=node.name,
            number=node.number,
            whole_disk=node.parent is None,
            parent=f"/dev/{node.parent}" if node.parent else None,
            size=(size or 0) * 512,  # /sys counts 512-byte units whatever the sector is
            sector_size=about.sector_size,
            bus=about.bus,
            removable=about.removable,
            read_only=sysblock.text(sys / "ro") != "0",
            vendor=about.vendor,
            model=about.model,
            serial=about.serial,
            diskseq=sysblock.integer(sysblock.BLOCK / (node.parent or node.name) / "diskseq"),
            backing_file=sysblock.text(sys / "loop/backing_file") or None,
            partitions=tuple(parts),
            mounts=_mounts_on(self.mounts, numbers),
            users=self._users(node, stack=stack, numbers=numbers),
            system=node.name in self.system or (self.zfs and member == "zfs_member"),
            kind=about.kind,
            member=member,
            writable=sysblock.writable(path),
            unexplained=tuple(unexplained),
        )

    def _users(
        self, node: Node, *, stack: frozenset[str], numbers: Mapping[Number, str]
    ) -> tuple[str, ...]:
        names = {n for n in stack if n != node.name and self._parent(n) not in stack}
        if any(number in numbers for swap in self.swaps for number in swap.numbers):
            names.add("swap")
        names |= {
            f"btrfs {entry.parent.name}"
            for entry in Path("/sys/fs/btrfs").glob("*/devices")
            if stack & {device.name for device in sysblock.entries(entry)}
        }
        return tuple(sorted(names))

    def _parent(self, name: str) -> str | None:
        return self.nodes[name].parent if name in self.nodes else None


def _mounts_on(mounts: tuple[Usage, ...], numbers: Mapping[Number, str]) -> tuple[Mount, ...]:
    return tuple(
        Mount(f"/dev/{numbers[number]}", mount.point)
        for mount in mounts
        for number in mount.numbers
        if number in numbers
    )


# File systems that lie on block devices though mountinfo gives them no device number of their own.
_ON_DEVICES = frozenset({"overlay", "btrfs", "bcachefs", "aufs", "unionfs"})


def _numbers(line: MountLine, lines: tuple[MountLine, ...]) -> tuple[Number, ...]:
    """Give the devices a mount stands on; none for what lies in memory or on the network."""
    if line.number[0]:
        return (line.number,)
    found: set[Number] = set()
    if line.source.startswith("/") and (number := sysblock.number_of_device(line.source)):
        found |= _btrfs_siblings(number) if line.kind == "btrfs" else {number}
    for layer in line.layers:
        try:
            device = Path(layer).stat().st_dev
        except OSError:
            return ()
        number = (os.major(device), os.minor(device))
        under = [other for other in lines if other.number == number and other is not line]
        if number[0]:
            found.add(number)
        elif under and not under[0].layers:
            found |= set(_numbers(under[0], lines))
    return tuple(sorted(found))


def _btrfs_siblings(number: Number) -> set[Number]:
    for group in Path("/sys/fs/btrfs").glob("*/devices"):
        members = {sysblock.device_number(entry / "dev") for entry in sysblock.entries(group)} - {
            None
        }
        if number in members:
            return {member for member in members if member}
    return {number}


def _swap_numbers(path: str) -> tuple[Number, ...]:
    number = sysblock.number_of_device(path)
    if number:
        return (number,)
    try:
        device = Path(path).stat().st_dev
    except OSError:
        return ()
    return ((os.major(device), os.minor(device)),)


def _text_or(unexplained: list[str], path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError as error:
        unexplained.append(f"{path} cannot be read: {error.strerror}")
        return ""
