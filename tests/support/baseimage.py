"""Builds small base images shaped like HypriotOS with the real mkfs tools. No root, no mounts.

Layout after the facts of HypriotOS 1.12.3: MBR, p1 FAT of type 0x0c at sector 2048, p2 ext4 behind
it to the end of the image, a fixed disk signature that cmdline.txt names.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
SIGNATURE = 0x2FED7FEE
BOOT_START = 2048

# What mke2fs made in 2020: a newer one's defaults are not mountable by a kernel of that time.
EXT4 = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)

CMDLINE = (
    "dwc_otg.lpm_enable=0 console=tty1 root=PARTUUID=2fed7fee-02 rootfstype=ext4 elevator=deadline "
    "fsck.repair=yes rootwait cgroup_enable=cpuset cgroup_enable=memory swapaccount=1 quiet "
    "init=/usr/lib/raspi-config/init_resize.sh\n"
)

BOOT_FILES: Mapping[str, bytes] = {
    "bootcode.bin": b"\x0e" * 52296,
    "start.elf": bytes(range(256)) * 1200,
    "fixup.dat": b"\x01\x02" * 3300,
    "kernel7.img": bytes(reversed(range(256))) * 2000,
    "config.txt": b"hdmi_force_hotplug=1\nenable_uart=0\n[pi4]\n",
    "cmdline.txt": CMDLINE.encode(),
    "user-data": b"#cloud-config\nhostname: black-pearl\n",
    "meta-data": b"instance-id: pirate001\n",
    "network-config": (
        b"version: 1\nconfig:\n- type: physical\n  name: eth0\n  subnets:\n  - type: dhcp\n"
    ),
    "os-release": b'HYPRIOT_OS="HypriotOS/armhf"\nHYPRIOT_IMAGE_VERSION="v1.12.3"\n',
    "fake-hwclock.data": b"2020-07-02 12:00:00\n",
    "bcm2710-rpi-3-b-plus.dtb": b"\xd0\x0d\xfe\xed" * 6000,
    "overlays/README": b"overlays\n",
    "overlays/a-rather-long-overlay-name-v3.dtbo": b"\xd0\x0d\xfe\xed" * 300,
}


@dataclass(frozen=True)
class Geometry:
    """Sizes in MiB; `fat` is 12, 16, 32 or None for what mkfs.vfat picks (FAT16 at 64 MiB)."""

    boot_mib: int = 64
    root_mib: int = 48
    fat: int | None = None
    sectors_per_cluster: int | None = None
    root_block: int | None = None


def run(*argv: str | os.PathLike[str], data: bytes | None = None) -> bytes:
    """Run a tool; its standard error is in the exception."""
    done = subprocess.run(
        [os.fspath(a) for a in argv],
        input=data,
        capture_output=True,
        timeout=300,
        check=False,
        env={**os.environ, "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{argv}: rc {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def make_fat(path: Path, *, size: int, files: Mapping[str, bytes], geometry: Geometry) -> None:
    """Make a FAT file system in a new file and copy the files in with mtools."""
    with path.open("wb") as out:
        out.truncate(size)
    options = ["-n", "HypriotOS", "-i", "7d5ba1b2"]
    if geometry.fat:
        options += ["-F", str(geometry.fat)]
    if geometry.sectors_per_cluster:
        options += ["-s", str(geometry.sectors_per_cluster)]
    run("mkfs.vfat", *options, path)
    made: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            parent = str(Path(name).parent)
            if parent != "." and parent not in made:
                run("mmd", "-i", path, f"::{parent}")
                made.add(parent)
            local = Path(scratch) / "f"
            local.write_bytes(content)
            run("mcopy", "-o", "-i", path, local, f"::{name}")


def make_ext4(path: Path, *, size: int, geometry: Geometry, tree: Path | None = None) -> None:
    """Make an ext4 file system with the tree's files, or some of its own, without a mount."""
    with path.open("wb") as out:
        out.truncate(size)
    block = ["-b", str(geometry.root_block)] if geometry.root_block else []
    with tempfile.TemporaryDirectory() as scratch:
        root = tree or _small_root(Path(scratch))
        run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-O", EXT4, *block, "-d", root, path)


def _small_root(root: Path) -> Path:
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text("black-pearl\n")
    (root / "etc/fstab").write_text("PARTUUID=2fed7fee-02 / ext4 defaults,noatime 0 1\n")
    (root / "payload").write_bytes(bytes(range(256)) * 8192)
    return root


def mbr(boot_sectors: int, root_sectors: int) -> bytes:
    """Give a first sector with the two partitions."""

    def entry(kind: int, start: int, count: int) -> bytes:
        return struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)

    table = entry(0x0C, BOOT_START, boot_sectors) + entry(
        0x83, BOOT_START + boot_sectors, root_sectors
    )
    return b"\0" * 440 + struct.pack("<IH", SIGNATURE, 0) + table + b"\0" * 32 + b"\x55\xaa"


def build(
    path: Path,
    *,
    geometry: Geometry | None = None,
    files: Mapping[str, bytes] = BOOT_FILES,
    root_tree: Path | None = None,
) -> Path:
    """Make a raw base image at `path` and give the path back."""
    geometry = geometry or Geometry()
    boot, root = geometry.boot_mib << 20, geometry.root_mib << 20
    with tempfile.TemporaryDirectory() as scratch:
        fat, ext4 = Path(scratch) / "p1", Path(scratch) / "p2"
        make_fat(fat, size=boot, files=files, geometry=geometry)
        make_ext4(ext4, size=root, geometry=geometry, tree=root_tree)
        with path.open("wb") as out:
            out.truncate(BOOT_START * SECTOR + boot + root)
            out.write(mbr(boot // SECTOR, root // SECTOR))
            for part, offset in ((fat, BOOT_START * SECTOR), (ext4, BOOT_START * SECTOR + boot)):
                _copy_sparse(part, out.fileno(), offset)
    return path


def _copy_sparse(source: Path, fd: int, offset: int) -> None:
    with source.open("rb") as data:
        while chunk := data.read(1 << 20):
            if chunk.strip(b"\0"):
                os.pwrite(fd, chunk, offset)
            offset += len(chunk)


def zip_image(raw: Path, target: Path, *, level: int = 6) -> Path:
    """Zip one raw image as the only member, the way HypriotOS is published."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.write(raw, raw.name)
    return target
