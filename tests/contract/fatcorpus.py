"""FAT volumes made and read by the real tools: mkfs.vfat, mtools, fsck.vfat. Nothing of flasher's.

Volumes are sparse files; `Grid` says the type and the cluster size, `Shape` what is done to them.
"""

from __future__ import annotations

import enum
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flasher.model import Run

ENV = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
CLUSTERS = {12: 2000, 16: 5000, 32: 65600}

ORIGINAL: Mapping[str, bytes] = {
    "bootcode.bin": b"\x0e" * 52296,
    "start.elf": bytes(range(256)) * 300,
    "kernel7.img": bytes(reversed(range(256))) * 500,
    "config.txt": b"hdmi_force_hotplug=1\nenable_uart=0\n[pi4]\n",
    "cmdline.txt": b"console=tty1 root=PARTUUID=2fed7fee-02 quiet init=/usr/lib/init_resize.sh\n",
    "user-data": b"#cloud-config\nhostname: black-pearl\n" * 90,
    "meta-data": b"instance-id: pirate001\n",
    "os-release": b'HYPRIOT_OS="HypriotOS/armhf"\n',
    "fake-hwclock.data": b"2020-07-02 12:00:00\n",
    "EMPTY.TXT": b"",
    "bcm2710-rpi-3-b-plus.dtb": b"\xd0\x0d\xfe\xed" * 6000,
    "overlays/README": b"overlays\n",
    "overlays/vc4-kms-v3d.dtbo": b"\xd0\x0d\xfe\xed" * 300,
}

SEED: Mapping[str, bytes] = {
    "user-data": b"#cloud-config\nhostname: pi1\n" * 200,
    "meta-data": b"instance-id: pi1-7\n",
    "network-config": b"version: 1\nconfig: []\n",
    "cmdline.txt": b"console=tty1 quiet\n",
    "fake-hwclock.data": b"2026-11-22 12:00:00\n",
    "piflash/node.json": b'{"version": 1}' * 120,
    "piflash/firstboot.pyz": bytes(i * 7 & 0xFF for i in range(60_000)),
    "piflash/identity/ca.pem": b"-----BEGIN CERTIFICATE-----\n" * 20,
    "piflash/identity/node.key": b"-----BEGIN PRIVATE KEY-----\n" * 9,
    "piflash/stacks/traefik/stack.yml": b"services: {}\n" * 150,
    "piflash/stacks/traefik/a long name of a config.with.dots.toml": b"x = 1\n",
}


class Shape(enum.Enum):
    """What a volume went through before the seed comes."""

    FRAGMENTED = "fragmented"
    NEARLY_FULL = "nearly-full"
    LONG_NAMES = "long-names"
    DEEP_FOLDERS = "deep-folders"


@dataclass(frozen=True)
class Grid:
    """`bits`: 12, 16 or 32; `per_cluster`: sectors of 512 bytes, or of `sector`.

    `clusters`: about how many, None for CLUSTERS; `root_entries`: None for what mkfs.vfat takes.
    """

    bits: int
    per_cluster: int
    sector: int = 512
    clusters: int | None = None
    root_entries: int | None = None

    @property
    def cluster(self) -> int:
        """Bytes in a cluster."""
        return self.per_cluster * self.sector

    @property
    def size(self) -> int:
        """Bytes of such a volume."""
        root = 32 * (self.root_entries or 512)
        clusters = self.clusters or CLUSTERS[self.bits]
        return clusters * (self.cluster + self.bits // 4) + root + 64 * self.sector

    def __str__(self) -> str:
        return f"fat{self.bits}-{self.cluster}" + ("-tiny" if self.clusters else "")


def tool(*argv: str | Path, ok: Iterable[int] = (0,)) -> str:
    """Run a tool and give both its outputs; any other exit code is an AssertionError with them."""
    done = subprocess.run(
        [os.fspath(arg) for arg in argv],
        capture_output=True,
        timeout=120,
        check=False,
        env=ENV,
        stdin=subprocess.DEVNULL,
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode in ok, f"{argv[0]}: exit {done.returncode}: {said}"
    return said


def make(path: Path, grid: Grid, *, bad: Iterable[int] = ()) -> Path:
    """Make an empty volume; the clusters `bad` are marked as such."""
    path.unlink(missing_ok=True)
    with path.open("wb") as out:
        out.truncate(grid.size)
    options = ["-F", str(grid.bits), "-s", str(grid.per_cluster), "-S", str(grid.sector)]
    options += ["-n", "HypriotOS", "-i", "7d5ba1b2"]
    options += ["-r", str(grid.root_entries)] if grid.root_entries else []
    tool("mkfs.vfat", *options, path)
    blocks = [(first_byte(path) + (c - 2) * grid.cluster + 1023) // 1024 for c in bad]
    if blocks:
        listing = path.with_suffix(".bad")
        listing.write_text("".join(f"{block}\n" for block in blocks))
        tool("mkfs.vfat", *options, "-l", listing, path)
        # mkfs.fat 4.2 counts bad clusters as free in FSInfo; fsck.vfat mends that.
        tool("fsck.vfat", "-a", path, ok=(0, 1))
    return path


def first_byte(path: Path) -> int:
    """Give the offset of cluster 2, from the boot sector."""
    with path.open("rb") as volume:
        boot = volume.read(512)
    sector, _, reserved, copies, entries, _, _, small = struct.unpack_from("<HBHBHHBH", boot, 11)
    (large,) = struct.unpack_from("<I", boot, 36)
    return (reserved + copies * (small or large)) * sector + -(-entries * 32 // sector) * sector


def free_bytes(path: Path) -> int:
    """Give what mdir says is free."""
    last = tool("mdir", "-i", path, "::").strip().splitlines()[-1]
    return int(last.replace("bytes free", "").replace(" ", ""))


def put(path: Path, files: Mapping[str, bytes], scratch: Path) -> None:
    """Copy files onto a volume with one mcopy."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name, content in files.items():
        local = scratch / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content)
    tool("mcopy", "-s", "-o", "-i", path, *sorted(scratch.iterdir()), "::")


def tree(path: Path, scratch: Path) -> dict[str, bytes | None]:
    """Read a whole volume with one mcopy: path -> content, None for a folder."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    tool("mcopy", "-s", "-n", "-i", path, "::/", scratch)
    return {
        str(found.relative_to(scratch)): found.read_bytes() if found.is_file() else None
        for found in scratch.rglob("*")
    }


def listed(path: Path) -> list[str]:
    """Give every path that mdir shows, folders with a slash at the end; no name comes twice."""
    return [
        line.removeprefix("::/")
        for line in tool("mdir", "-a", "-b", "-/", "-i", path, "::").split("\n")[:-1]
    ]


def assert_clean(path: Path) -> int:
    """fsck.vfat finds nothing and says nothing beyond its summary; gives the clusters in use."""
    said = tool("fsck.vfat", "-n", path).strip().splitlines()
    assert len(said) == 2, said
    return int(said[1].rsplit(" ", 2)[1].split("/")[0])


def clusters(path: Path) -> int:
    """Give how many clusters the volume has, as fsck.vfat counts them."""
    summary = tool("fsck.vfat", "-n", path).strip().splitlines()[-1]
    return int(summary.rsplit(" ", 2)[1].split("/")[1])


def apply(path: Path, runs: Iterable[Run], *, like: Path | None = None) -> Path:
    """Write the runs into a volume, or into a sparse copy of `like`."""
    if like is not None:
        tool("cp", "--sparse=always", "--reflink=auto", like, path)
    with path.open("r+b") as volume:
        for run in runs:
            volume.seek(run.offset)
            volume.write(run.data)
    return path


class FileSource:
    """A volume in a file as a source that notes what is read of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads: list[tuple[int, int]] = []
        self._file = path.open("rb")

    def read_at(self, offset: int, size: int) -> bytes:
        """Give exactly `size` bytes at `offset`; fewer only at the end."""
        self.reads.append((offset, size))
        return os.pread(self._file.fileno(), size, offset)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


# --- the corpus --------------------------------------------------------------------------------


def corpus_volume(path: Path, grid: Grid, shape: Shape, *, leave: int) -> dict[str, bytes]:
    """Make a volume of that shape with ORIGINAL on it; give the files on it.

    NEARLY_FULL leaves `leave` clusters free, whatever is on it.
    """
    scratch = path.with_suffix(".in")
    files = dict(ORIGINAL)
    if shape is Shape.LONG_NAMES:
        files |= _long_names()
    if shape is Shape.DEEP_FOLDERS:
        files |= {
            "/".join(["folder"] * depth) + f"/file {depth}": b"d" * 700 for depth in range(1, 13)
        }
    make(path, grid)
    if shape is Shape.FRAGMENTED:
        holes = {f"hole{i:02}": b"h" * (grid.cluster * (1 + i % 3)) for i in range(40)}
        put(path, holes, scratch)
        tool("mdel", "-i", path, *(f"::{name}" for i, name in enumerate(holes) if i % 2))
        files |= {name: data for i, (name, data) in enumerate(holes.items()) if not i % 2}
        put(path, ORIGINAL, scratch)
        tool("mdel", "-i", path, *(f"::hole{i:02}" for i in range(0, 40, 4)))
        files = {name: data for name, data in files.items() if name not in _every_fourth()}
    elif shape is Shape.NEARLY_FULL:
        put(path, files, scratch)
        surplus = free_bytes(path) // grid.cluster - leave
        if surplus * grid.cluster < 40 << 20:
            files["filler.bin"] = b"\xf1" * (surplus * grid.cluster)
            put(path, {"filler.bin": files["filler.bin"]}, scratch)
        else:
            last = clusters(path) + 1
            make(path, grid, bad=range(last - surplus + 1, last + 1))
            put(path, files, scratch)
        assert free_bytes(path) == leave * grid.cluster
    else:
        put(path, files, scratch)
    assert_clean(path)
    shutil.rmtree(scratch, ignore_errors=True)
    return files


def _every_fourth() -> set[str]:
    return {f"hole{i:02}" for i in range(0, 40, 4)}


def _long_names() -> dict[str, bytes]:
    return {
        "overlays/" + "n" * 200 + ".dtbo": b"1",
        "overlays/exactly 13.ch": b"2",
        "overlays/exactly26characterslong.xy": b"3",
        "overlays/grüße aus Köln.txt": b"4",
        "overlays/日本語のファイル.txt": b"5",
        "piflash leftovers/Mixed.Case.Name": b"6",
        **{f"overlays/same prefix number {i}.dtbo": bytes([i]) * 40 for i in range(40)},
    }
