"""Whether a block device may be overwritten: refused unless it is explained as safe.

Pure: judges the values of a BlockDevice; every rule gives a stable code, a reason and a remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote

from flasher.model import BlockDevice, Bus, DeviceKind

GB = 10**9
# The largest card in common use; a USB disk behind a removable-looking bridge is mostly larger.
LARGE = 256 * GB


@dataclass(frozen=True)
class Refusal:
    """One reason not to write. `code` is stable: `--force CODE` overrides it if `overridable`."""

    code: str
    reason: str
    remedy: str
    overridable: bool


@dataclass(frozen=True)
class _Rule:
    code: str
    overridable: bool
    find: Callable[[BlockDevice], tuple[str, str] | None]


def judge(device: BlockDevice, *, need: int, allow: Collection[str]) -> tuple[Refusal, ...]:
    """Give every reason not to write `need` bytes there; empty if it may be done.

    `allow`: codes that the user overrides; what cannot be overridden is refused all the same.
    """
    refusals = []
    for rule in _rules(need):
        found = rule.find(device)
        if found and not (rule.overridable and rule.code in allow):
            refusals.append(Refusal(rule.code, *found, overridable=rule.overridable))
    return tuple(refusals)


def candidates(devices: Iterable[BlockDevice], *, need: int) -> tuple[BlockDevice, ...]:
    """Give those devices that could be written, with sudo perhaps, without overriding anything."""
    return tuple(
        device
        for device in devices
        if not judge(replace(device, writable=True), need=need, allow=())
    )


def _partition(device: BlockDevice) -> tuple[str, str] | None:
    if device.whole_disk:
        return None
    return (
        f"{device.path} is a partition; a card is written as a whole, with its partition table",
        f"name the whole disk: {device.parent}",
    )


_NEVER = {
    DeviceKind.EMMC_PART: "name a card reader's device",
    DeviceKind.OPTICAL: "name a card reader's device",
    DeviceKind.FLOPPY: "name a card reader's device",
    DeviceKind.MEMORY: "to write without a card, name a file ending in .img",
    DeviceKind.MAPPED: "name a card reader's device",
    DeviceKind.NETWORK: "to write without a card, name a file ending in .img",
}


def _not_a_card(device: BlockDevice) -> tuple[str, str] | None:
    if device.kind in _NEVER:
        return f"{device.path} is no card: {device.kind.value}", _NEVER[device.kind]
    if device.kind is DeviceKind.LOOP and (device.backing_file or "").startswith("/dev/"):
        return (
            f"{device.path} is a loop device over {device.backing_file}",
            f"name the device itself: {device.backing_file}",
        )
    if (device.backing_file or "").endswith(" (deleted)"):
        return (
            f"the file behind {device.path} is deleted: what is written there is lost",
            f"losetup --detach {quote(device.path)}",
        )
    return None


def _system(device: BlockDevice) -> tuple[str, str] | None:
    if not device.system:
        return None
    return f"this computer runs from {device.path}", "name another device"


def _mounted(device: BlockDevice) -> tuple[str, str] | None:
    if not device.mounts:
        return None
    points = ", ".join(f"{mount.source} on {mount.point}" for mount in device.mounts)
    names = " ".join(dict.fromkeys(quote(mount.point) for mount in device.mounts))
    remedy = "name another device" if device.system else f"if you do not need them: umount {names}"
    return f"file systems of {device.path} are mounted: {points}", remedy


def _swap(device: BlockDevice) -> tuple[str, str] | None:
    if "swap" not in device.users:
        return None
    return f"{device.path} is in use as swap", "see /proc/swaps; then: swapoff DEVICE"


def _in_use(device: BlockDevice) -> tuple[str, str] | None:
    users = [user for user in device.users if user != "swap"]
    if not users:
        return None
    return (
        f"{device.path} is in use by {', '.join(users)}",
        f"see what it is: lsblk {quote(device.path)} (then vgchange -an, mdadm --stop, losetup -d "
        "...)",
    )


def _read_only(device: BlockDevice) -> tuple[str, str] | None:
    if not device.read_only:
        return None
    if device.kind is DeviceKind.LOOP:
        remedy = f"attach its file for writing: losetup -d {quote(device.path)}; losetup -f FILE"
    else:
        remedy = "slide the lock switch at the card's side (or the adapter's) towards the contacts"
    return f"{device.path} is read-only", remedy


def _empty(device: BlockDevice) -> tuple[str, str] | None:
    if device.size or "the kernel does not tell its size" in device.unexplained:
        return None
    if device.kind is DeviceKind.LOOP:
        if device.backing_file:
            return (
                f"{device.path} is empty: {device.backing_file} has no bytes",
                f"truncate -s 4G {quote(device.backing_file)}; losetup -c {quote(device.path)}",
            )
        return f"{device.path} has no file behind it", f"losetup {quote(device.path)} FILE"
    return f"there is no card in the reader {device.path}", "put a card in"


def _too_small(device: BlockDevice, *, need: int) -> tuple[str, str] | None:
    if not 0 < device.size < need:
        return None
    return (
        f"{device.path} is too small: it has {device.size} bytes, the image needs {need}",
        f"use a card of at least {-(-need // GB)} GB",
    )


def _internal(device: BlockDevice) -> tuple[str, str] | None:
    attached = device.bus is not Bus.OTHER or device.removable
    if device.kind is not DeviceKind.DISK or attached:
        return None
    return (
        f"{device.path} is a disk inside this computer, not a card",
        "put the card in a reader",
    )


def _no_rights(device: BlockDevice) -> tuple[str, str] | None:
    # No advice to use sudo on a disk that root must not write either.
    if device.writable or device.system or _internal(device):
        return None
    return f"you may not write {device.path}", "run the same command with sudo"


def _unexplained(device: BlockDevice) -> tuple[str, str] | None:
    reasons = list(device.unexplained)
    if device.kind is DeviceKind.UNKNOWN:
        reasons.append(f"what {device.name} is, is not known")
    if device.kind is DeviceKind.DISK and device.bus is Bus.OTHER and device.removable:
        reasons.append("it says that it is removable, but is neither on USB nor in a card slot")
    if not reasons:
        return None
    return (
        f"{device.path} cannot be explained as safe: {'; '.join(reasons)}",
        f"look at it: lsblk -o +MODEL,TRAN {quote(device.path)}",
    )


def _not_removable(device: BlockDevice) -> tuple[str, str] | None:
    if device.kind is not DeviceKind.DISK or device.bus is not Bus.USB or device.removable:
        return None
    return (
        f"{device.path} is a USB disk that does not say it is removable: a hard disk or SSD",
        "name a card reader's device",
    )


def _large_disk(device: BlockDevice) -> tuple[str, str] | None:
    if device.bus not in (Bus.USB, Bus.MMC) or device.size <= LARGE:
        return None
    return (
        f"{device.path} has {device.size // GB} GB, more than most cards: it may be a backup disk",
        f"look at it: lsblk -o +MODEL,TRAN {quote(device.path)}",
    )


def _soldered(device: BlockDevice) -> tuple[str, str] | None:
    if device.kind is not DeviceKind.EMMC:
        return None
    return (
        f"{device.path} is an eMMC: the computer's own storage, soldered on",
        "name a card reader's device",
    )


def _member(device: BlockDevice) -> tuple[str, str] | None:
    if not device.member:
        return None
    return (
        f"{device.path} holds a part of a volume ({device.member}) that may span other disks",
        f"if nothing needs it any more: wipefs --all {quote(device.path)}",
    )


def _rules(need: int) -> tuple[_Rule, ...]:
    # Ordered by what the user most needs to read first.
    return (
        _Rule("partition", False, _partition),
        _Rule("not-a-card", False, _not_a_card),
        _Rule("system", False, _system),
        _Rule("mounted", False, _mounted),
        _Rule("swap", False, _swap),
        _Rule("in-use", False, _in_use),
        _Rule("empty", False, _empty),
        _Rule("read-only", False, _read_only),
        _Rule("too-small", False, partial(_too_small, need=need)),
        _Rule("internal", False, _internal),
        _Rule("no-rights", False, _no_rights),
        _Rule("unexplained", True, _unexplained),
        _Rule("not-removable", True, _not_removable),
        _Rule("soldered", True, _soldered),
        _Rule("large-disk", True, _large_disk),
        _Rule("volume-member", True, _member),
    )


CODES = tuple(rule.code for rule in _rules(0))
OVERRIDABLE = frozenset(rule.code for rule in _rules(0) if rule.overridable)
