"""Reads the attributes of one block device: /sys, udev's database, volume signatures.

Follows no chains and decides nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flasher.blocktree import Node, Number
from flasher.model import Bus, DeviceKind

BLOCK = Path("/sys/class/block")

# blkid's names; a device of a volume is erased together with data on other disks.
_MEMBERS = frozenset(
    {
        "LVM1_member",
        "LVM2_member",
        "bcache",
        "ddf_raid_member",
        "drbd",
        "isw_raid_member",
        "linux_raid_member",
        "mpath_member",
        "stratis",
        "vmware_vsan_member",
        "zfs_member",
    }
)

_KINDS: tuple[tuple[str, DeviceKind], ...] = (
    (r"loop\d+", DeviceKind.LOOP),
    (r"mmcblk\d+(boot\d+|rpmb|gp\d+)", DeviceKind.EMMC_PART),
    (r"s(r|cd)\d+", DeviceKind.OPTICAL),
    (r"fd\d+", DeviceKind.FLOPPY),
    (r"(z?ram|pmem|zd)\d+", DeviceKind.MEMORY),
    (r"(dm-|md_?d?|bcache)\d+", DeviceKind.MAPPED),
    (r"(nbd|rbd|drbd|rnbd|ublkb|aoe)\d+", DeviceKind.NETWORK),
    (r"(sd|hd|vd|xvd)[a-z]+|nvme\d+(c\d+)?n\d+", DeviceKind.DISK),
)


def read_node(sys: Path) -> Node | None:
    """Read what a device stands on and what stands on it; None if it has just gone."""
    number = device_number(sys / "dev")
    if number is None:
        return None
    is_partition = (sys / "partition").exists()
    backing, is_device = _backing(text(sys / "loop/backing_file"))
    return Node(
        name=sys.name,
        number=number,
        parent=sys.resolve().parent.name if is_partition else None,
        holders=tuple(entry.name for entry in entries(sys / "holders")),
        slaves=tuple(entry.name for entry in entries(sys / "slaves")),
        backing_number=backing,
        backing_is_device=is_device,
    )


def _backing(path: str) -> tuple[Number | None, bool]:
    if not path:
        return None, False
    try:
        status = Path(path).stat()
    except OSError:
        return None, False
    is_device = stat.S_ISBLK(status.st_mode)
    device = status.st_rdev if is_device else status.st_dev
    return (os.major(device), os.minor(device)), is_device


@dataclass(frozen=True)
class About:
    """How a disk is attached and what it calls itself; of a partition: its disk's."""

    kind: DeviceKind
    bus: Bus
    removable: bool
    sector_size: int
    vendor: str
    model: str
    serial: str

    @classmethod
    def read(cls, node: Node, *, sys: Path) -> About:
        """Read the disk's attributes. `sys`: of the disk, also where the node is a partition."""
        udev = _udev(node.number)
        kind, bus = _kind(sys), _bus(sys, udev)
        model = text(sys / "device/model") or text(sys / "device/name")
        serial = text(sys / "device/cid") or udev.get("ID_SERIAL_SHORT") or udev.get("ID_SERIAL")
        return cls(
            kind=kind,
            bus=Bus.LOOP if kind is DeviceKind.LOOP else bus,
            removable=text(sys / "removable") == "1",
            sector_size=integer(sys / "queue/logical_block_size") or 512,
            vendor=text(sys / "device/vendor") or udev.get("ID_VENDOR", ""),
            model=model or udev.get("ID_MODEL", "").replace("_", " "),
            serial=serial or text(sys / "device/serial") or _usb_serial(sys),
        )


def _kind(sys: Path) -> DeviceKind:
    scsi_type = text(sys / "device/type")
    if re.fullmatch(r"mmcblk\d+", sys.name):
        return {"SD": DeviceKind.SD, "MMC": DeviceKind.EMMC}.get(scsi_type, DeviceKind.UNKNOWN)
    for pattern, kind in _KINDS:
        if re.fullmatch(pattern, sys.name):
            # SPC-4, peripheral device types: 0 is a disk, 5 a CD-ROM.
            if sys.name.startswith("sd") and scsi_type not in ("0", ""):
                return DeviceKind.OPTICAL if scsi_type == "5" else DeviceKind.UNKNOWN
            return kind
    return DeviceKind.UNKNOWN


def _bus(sys: Path, udev: Mapping[str, str]) -> Bus:
    where = str(sys.resolve())
    if "/mmc_host/" in where:
        return Bus.MMC
    # udev says ID_BUS=ata of a USB-SATA bridge that passes ATA commands; the path does not lie.
    if re.search(r"/usb\d+/", where) or udev.get("ID_BUS") == "usb":
        return Bus.USB
    return Bus.OTHER


def _usb_serial(sys: Path) -> str:
    for parent in sys.resolve().parents:
        if (parent / "idVendor").exists():
            return text(parent / "serial")
    return ""


def _udev(number: Number) -> Mapping[str, str]:
    """Give udev's properties; none where udev does not run or is not there."""
    try:
        import pyudev
    except ImportError:
        return {}
    try:
        device = pyudev.Devices.from_device_number(pyudev.Context(), "block", os.makedev(*number))
        return dict(device.properties)
    except (pyudev.DeviceNotFoundError, OSError):
        return {}


def member(names: tuple[str, ...]) -> str:
    """Give blkid's type of the first volume member among the named devices, or an empty text."""
    for name in names:
        number = device_number(BLOCK / name / "dev")
        kind = _udev(number).get("ID_FS_TYPE") if number else None
        kind = kind or _signature(f"/dev/{name}")
        if kind in _MEMBERS:
            return kind
    return ""


def _signature(path: str) -> str:
    """Know the commonest volume members by their magic, for machines without udev's database."""
    try:
        with Path(path).open("rb", buffering=0) as device:
            head = device.read(8192)
    except OSError:
        return ""
    # lib/label/label.c of LVM2: a label in one of the first four sectors.
    if any(head[n * 512 :].startswith(b"LABELONE") for n in range(4)):
        return "LVM2_member"
    # md(4), metadata 1.1 at the start, 1.2 at 4 KiB: magic a92b4efc.
    if any(head[n : n + 4] == b"\xfc\x4e\x2b\xa9" for n in (0, 4096)):
        return "linux_raid_member"
    return ""


def writable(path: str) -> bool:
    """Tell whether this process may open the device, as far as its owner and mode tell it."""
    effective = os.access in os.supports_effective_ids
    return os.geteuid() == 0 or os.access(path, os.R_OK | os.W_OK, effective_ids=effective)


def number_of_device(path: str) -> Number | None:
    """Give the number of the block device at a path, by the node or, failing that, by its name."""
    try:
        status = Path(path).stat()
    except OSError:
        return device_number(BLOCK / Path(path).name / "dev")
    if not stat.S_ISBLK(status.st_mode):
        return None
    return (os.major(status.st_rdev), os.minor(status.st_rdev))


def entries(directory: Path) -> tuple[Path, ...]:
    """List a directory; empty if it is not there."""
    try:
        return tuple(sorted(directory.iterdir()))
    except OSError:
        return ()


def text(path: Path) -> str:
    """Give an attribute without its padding; empty if it is not there."""
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def integer(path: Path) -> int | None:
    """Give a decimal attribute; None if it is not there."""
    found = text(path)
    return int(found) if found.isdigit() else None


def device_number(path: Path) -> Number | None:
    """Read a `dev` attribute, `major:minor`."""
    found = re.fullmatch(r"(\d+):(\d+)", text(path))
    return (int(found[1]), int(found[2])) if found else None
