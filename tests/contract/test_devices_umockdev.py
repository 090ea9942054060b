"""Card readers and disks that this machine does not have, as umockdev's test bed.

umockdev/*.umockdev describe hardware; the mount table and swaps of a case are put into the test
bed's /proc, which umockdev shows to the child as the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.tools import need, need_root

HERE = Path(__file__).parent / "umockdev"
ROOT = Path(__file__).parents[2]
NEED = 1_363_148_800

CHILD = """
import json, os, sys
from pathlib import Path
bed = Path(os.environ["UMOCKDEV_DIR"])
case = json.load(sys.stdin)
for name, content in case["files"].items():
    (bed / name).parent.mkdir(parents=True, exist_ok=True)
    (bed / name).write_text(content)
from flasher import devices, safety
from flasher.model import BlockDevice
found = {}
for path in case["paths"]:
    device = devices.what_is(path)
    assert isinstance(device, BlockDevice), path
    found[path] = {
        "codes": [r.code for r in safety.judge(device, need=case["need"], allow=())],
        "bus": device.bus.value, "kind": device.kind.name,
        "about": f"{device.vendor} {device.model}",
        "serial": device.serial, "parent": device.parent, "users": list(device.users),
        "mounts": [f"{m.source} {m.point}" for m in device.mounts], "diskseq": device.diskseq,
    }
json.dump({"found": found, "listed": [d.path for d in devices.list_devices()]}, sys.stdout)
"""


@dataclass(frozen=True)
class Case:
    """`hardware`: names of files of umockdev/. `refused`: path -> codes. `about`: what else."""

    hardware: tuple[str, ...]
    refused: dict[str, list[str]]
    mounts: tuple[str, ...] = ("259:2 / / ext4 /dev/nvme0n1p2 rw",)
    swaps: tuple[str, ...] = ()
    about: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def mountinfo(lines: tuple[str, ...]) -> str:
    """Make mountinfo(5) of `number root point kind source options` lines."""
    text = ""
    for count, line in enumerate(lines):
        number, root, point, kind, source, options = line.split(" ")
        text += f"{count + 20} 1 {number} {root} {point} rw shared:1 - {kind} {source} {options}\n"
    return text


CASES: dict[str, Case] = {
    "card in a USB reader": Case(
        ("usb-reader",),
        {"/dev/sdb": []},
        about={
            "bus": "usb",
            "kind": "DISK",
            "about": "Generic STORAGE DEVICE",
            "serial": "000000000272",
            "diskseq": 17,
        },
    ),
    "card in a USB reader, no udev": Case(
        ("usb-reader-without-udev",),
        {"/dev/sdb": []},
        about={"bus": "usb", "about": "Generic STORAGE DEVICE", "serial": "000000000272"},
    ),
    "USB reader without a card": Case(("usb-reader-empty",), {"/dev/sdb": ["empty"]}),
    "reader with two slots": Case(
        ("usb-reader-empty", "usb-reader-second-slot"), {"/dev/sdb": ["empty"], "/dev/sdc": []}
    ),
    "card with its lock switch on": Case(("usb-reader-locked",), {"/dev/sdb": ["read-only"]}),
    "card of 512 GB": Case(("usb-reader-large",), {"/dev/sdb": ["large-disk"]}),
    "partition of a card": Case(
        ("usb-reader",), {"/dev/sdb1": ["partition", "too-small"]}, about={"parent": "/dev/sdb"}
    ),
    "card that a desktop mounted": Case(
        ("usb-reader",),
        {"/dev/sdb": ["mounted"], "/dev/sdb2": ["partition", "mounted"]},
        mounts=(
            "259:2 / / ext4 /dev/nvme0n1p2 rw",
            "8:17 / /media/me/HypriotOS vfat /dev/sdb1 rw",
            "8:18 / /media/me/my\\040root ext4 /dev/sdb2 rw",
        ),
        about={"mounts": ["/dev/sdb1 /media/me/HypriotOS", "/dev/sdb2 /media/me/my root"]},
    ),
    "card with a btrfs mount": Case(
        # btrfs mounts have an anonymous number: the source tells, and /sys/fs/btrfs.
        ("usb-reader",),
        {"/dev/sdb": ["mounted", "in-use"]},
        mounts=("0:44 / /mnt btrfs /dev/nvme0n1p2 rw", "0:45 / /srv btrfs /dev/sdb2 rw"),
        files={"sys/fs/btrfs/1b2c/devices/sdb2/dev": "8:18\n"},
    ),
    "second disk of a btrfs": Case(
        ("usb-reader", "nvme-system"),
        {"/dev/sdb": ["system", "mounted", "in-use"]},
        mounts=("0:44 / / btrfs /dev/nvme0n1p2 rw",),
        files={
            "sys/fs/btrfs/1b2c/devices/nvme0n1p2/dev": "259:2\n",
            "sys/fs/btrfs/1b2c/devices/sdb2/dev": "8:18\n",
        },
    ),
    "swap partition on a card": Case(
        ("usb-reader",), {"/dev/sdb": ["system", "swap"]}, swaps=("/dev/sdb2",)
    ),
    "LVM in use": Case(
        ("usb-reader-lvm",),
        {"/dev/sdb": ["in-use", "volume-member"], "/dev/dm-0": ["not-a-card"]},
        about={"users": ["dm-0"]},
    ),
    "LVM mounted": Case(
        ("usb-reader-lvm",),
        {"/dev/sdb": ["mounted", "in-use", "volume-member"]},
        mounts=("252:0 / /srv ext4 /dev/mapper/vg-data rw",),
    ),
    "LVM idle": Case(("usb-reader-lvm-idle",), {"/dev/sdb": ["volume-member"]}),
    "system on LVM on a USB disk": Case(
        ("usb-reader-lvm",),
        {"/dev/sdb": ["system", "mounted", "in-use", "volume-member"]},
        mounts=("252:0 / / ext4 /dev/mapper/vg-data rw",),
    ),
    "RAID member": Case(
        ("usb-reader-raid",),
        {"/dev/sdb": ["in-use", "volume-member"], "/dev/md127": ["not-a-card"]},
        about={"users": ["md127"]},
    ),
    "bcache member": Case(("usb-reader-bcache",), {"/dev/sdb": ["in-use", "volume-member"]}),
    "LUKS opened": Case(("usb-reader-luks",), {"/dev/sdb": ["in-use"]}),
    "ZFS pool idle": Case(("usb-reader-zfs",), {"/dev/sdb": ["volume-member"]}),
    "system on ZFS": Case(
        ("usb-reader-zfs",),
        {"/dev/sdb": ["system", "volume-member"]},
        mounts=("0:30 / / zfs rpool/ROOT rw",),
    ),
    "loop device over a partition of the card": Case(
        ("usb-reader-looped",),
        {"/dev/sdb": ["mounted", "in-use"], "/dev/loop5": ["not-a-card", "mounted"]},
        mounts=("7:5 / /mnt ext4 /dev/loop5 rw",),
    ),
    "USB SSD behind a SATA bridge": Case(
        ("usb-ssd",), {"/dev/sdb": ["not-removable", "large-disk"]}, about={"bus": "usb"}
    ),
    "USB floppy drive": Case(("usb-floppy",), {"/dev/sdb": ["too-small"]}),
    "USB CD-ROM": Case(("usb-cdrom",), {"/dev/sr0": ["not-a-card", "too-small"]}),
    "USB thing of an unknown SCSI type": Case(("usb-scanner-like",), {"/dev/sdb": ["unexplained"]}),
    "SD card in a PCI slot": Case(
        ("sd-slot",),
        {"/dev/mmcblk0": [], "/dev/mmcblk0p1": ["partition", "too-small"]},
        about={"bus": "mmc", "kind": "SD", "serial": "035344534331364780123456"},
    ),
    "SD card in a USB slot without SCSI": Case(
        ("sd-usb-mmc",), {"/dev/mmcblk0": []}, about={"bus": "mmc", "kind": "SD"}
    ),
    "a Raspberry Pi's own card": Case(
        ("sd-slot",),
        {"/dev/mmcblk0": ["system", "mounted"]},
        mounts=("179:1 / / ext4 /dev/root rw",),
    ),
    "eMMC": Case(
        ("emmc",),
        {
            "/dev/mmcblk1": ["soldered"],
            "/dev/mmcblk1boot0": ["not-a-card", "read-only", "too-small"],
        },
        about={"kind": "EMMC"},
    ),
    "NVMe system disk": Case(
        ("nvme-system",),
        {"/dev/nvme0n1": ["system", "mounted", "internal"]},
        about={"about": " Samsung SSD 980", "serial": "S64DNX0R", "bus": "other"},
    ),
    "NVMe with the system below LUKS and LVM": Case(
        ("nvme-encrypted", "usb-reader"),
        {"/dev/nvme0n1": ["system", "mounted", "swap", "in-use", "internal"], "/dev/sdb": []},
        mounts=("252:1 / / ext4 /dev/mapper/vg-root rw",),
        swaps=("/dev/dm-2",),
    ),
    "only /boot/firmware on the card": Case(
        ("usb-reader",),
        {"/dev/sdb": ["system", "mounted"]},
        mounts=("259:2 / / ext4 /dev/nvme0n1p2 rw", "8:17 / /boot/firmware vfat /dev/sdb1 rw"),
    ),
    "overlay root that cannot be traced": Case(
        ("usb-reader",),
        {"/dev/sdb": ["unexplained"]},
        mounts=(
            "0:50 / / overlay overlay rw,lowerdir=/nowhere/l1:/nowhere/l2,upperdir=/nowhere/u",
        ),
    ),
    "overlay root that is traced": Case(
        ("usb-reader",),
        {"/dev/sdb": []},
        mounts=("0:50 / / overlay overlay rw,lowerdir=/usr:/etc,upperdir=/var",),
    ),
    "SATA disk": Case(("sata-disk",), {"/dev/sda": ["internal"]}),
    "hot-plug SATA": Case(("sata-hotplug",), {"/dev/sdd": ["unexplained"]}),
    "virtio disk": Case(("virtio-disk",), {"/dev/vdb": ["internal"]}),
    "network block device": Case(("nbd",), {"/dev/nbd0": ["not-a-card"]}),
    "compressed RAM as swap": Case(
        ("zram",), {"/dev/zram0": ["not-a-card", "system", "swap"]}, swaps=("/dev/zram0",)
    ),
    "driver that nobody knows": Case(("unknown-driver",), {"/dev/foo0": ["unexplained"]}),
}


def look(case: Case) -> dict[str, dict[str, dict[str, object]]]:
    files = {
        "proc/self/mountinfo": mountinfo(case.mounts),
        "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n"
        + "".join(f"{path} partition 1 0 -2\n" for path in case.swaps),
        **case.files,
    }
    beds = [argument for name in case.hardware for argument in ("-d", f"{HERE / name}.umockdev")]
    done = subprocess.run(
        ["umockdev-run", *beds, "--", sys.executable, "-c", CHILD],
        input=json.dumps({"files": files, "paths": list(case.refused), "need": NEED}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, dict[str, object]]] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", CASES)
def test_judges_hardware(name: str) -> None:
    need("umockdev-run")
    case = CASES[name]
    result = look(case)
    found = result["found"]
    assert {path: about["codes"] for path, about in found.items()} == case.refused
    first = found[next(iter(case.refused))]
    assert {key: first[key] for key in case.about} == case.about
    whole = [path for path, about in found.items() if about["parent"] is None]
    assert set(whole) <= set(result["listed"])


def test_every_hardware_file_is_used() -> None:
    used = {name for case in CASES.values() for name in case.hardware}
    assert used == {path.stem for path in HERE.glob("*.umockdev")}


def test_card_pulled_between_question_and_claim_is_refused(tmp_path: Path) -> None:
    """The device node of a reader that is gone: udev removed it, or it points nowhere."""
    need("umockdev-run")
    need_root()
    script = (
        "import os, sys; from pathlib import Path\n"
        "from flasher import devices\nfrom flasher.claim import claim\n"
        "from flasher.errors import DeviceRefusedError\n"
        "from tests.support import loopdev\n"
        "device = devices.what_is('/dev/sdb')\n"
        "image = loopdev.make_image(Path(sys.argv[1]), loopdev.image_bytes(4 << 20))\n"
        "os.unlink(Path(os.environ['UMOCKDEV_DIR']) / 'dev/sdb')\n"
        "try:\n    claim(loopdev.make_plan(device, image)).__enter__()\n"
        "except DeviceRefusedError as error:\n    print(error)\n"
    )
    bed = str(HERE / "usb-reader.umockdev")
    done = subprocess.run(
        ["umockdev-run", "-d", bed, "--", sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert "the card is gone" in done.stdout, done.stdout + done.stderr
