"""One card beside `unzip -p | dd` and `cmp` on the same loop device, and the peak memory of two.

Builds an image of HypriotOS 1.12.3's geometry (64 MiB FAT16, ext4, 1300 MiB in all) filled with
this machine's own /usr, because its compressibility is that of a real root file system.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import baseimage
from tests.support.cluster import write_cluster

TOTAL_MIB = 1300
BOOT_MIB = 64


def fill(tree: Path, *, mib: int) -> None:
    """Copy files of /usr until there is that much."""
    left = mib << 20
    for base, _, names in os.walk("/usr"):
        for name in names:
            source = Path(base) / name
            if source.is_symlink() or not source.is_file():
                continue
            size = source.stat().st_size
            if size > left:
                continue
            target = tree / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            left -= size + 4096
            if left < 1 << 20:
                return


def build_image(work: Path, *, boot_mib: int, total_mib: int, used_mib: int) -> Path:
    """Make the zip of a filled image."""
    raw = work / f"bench-{total_mib}.img"
    root_mib = total_mib - 1 - boot_mib
    geometry = baseimage.Geometry(boot_mib=boot_mib, root_mib=root_mib)
    with tempfile.TemporaryDirectory(dir=work) as tree:
        fill(Path(tree), mib=used_mib)
        baseimage.build(raw, geometry=geometry, root_tree=Path(tree))
    archive = baseimage.zip_image(raw, work / f"{raw.name}.zip", level=6)
    raw.unlink()
    return archive


@contextmanager
def loop_device(work: Path, *, size: int, name: str) -> Iterator[str]:
    """Attach a loop device to a fully written file, so that no run pays for allocation."""
    backing = work / name
    with backing.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, size)
    device = baseimage.run("losetup", "--find", "--show", backing).decode().strip()
    try:
        yield device
    finally:
        baseimage.run("losetup", "--detach", device)
        backing.unlink()


def timed(*argv: str, cwd: Path | None = None) -> float:
    """Give the wall seconds of a command that must succeed."""
    begin = time.monotonic()
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.monotonic() - begin


def settle(device: str) -> None:
    """Have no run pay for the dirty pages of the one before."""
    baseimage.run("blockdev", "--flushbufs", device)
    os.sync()


def peer(archive: Path, device: str) -> float:
    """Write with unzip and dd, then compare past the page cache: what a careful user does."""
    script = (
        f"set -o pipefail; unzip -p {archive} | dd of={device} bs=4M oflag=direct conv=fsync "
        f"iflag=fullblock status=none && blockdev --flushbufs {device} && "
        f"unzip -p {archive} | cmp -n {TOTAL_MIB << 20} - {device}"
    )
    return timed("bash", "-c", script)


def ours(cluster: Path, device: str) -> float:
    """Write and verify with piflash."""
    return timed(
        sys.executable, "-m", "flasher", "--cluster", str(cluster), "--node", "pi1", device, "--yes"
    )


def compare(work: Path, *, rounds: int) -> None:
    """Alternate the two and print the ratio of the medians and of each pair."""
    archive = build_image(work, boot_mib=BOOT_MIB, total_mib=TOTAL_MIB, used_mib=980)
    print(f"image: {TOTAL_MIB} MiB, zip {archive.stat().st_size >> 20} MiB", flush=True)
    cluster = write_cluster(work, image=str(archive))
    rows: list[tuple[float, float]] = []
    with loop_device(work, size=(TOTAL_MIB + 100) << 20, name="card") as device:
        for number in range(rounds):
            settle(device)
            theirs = peer(archive, device)
            settle(device)
            mine = ours(cluster, device)
            rows.append((theirs, mine))
            print(
                f"  run {number + 1}: unzip|dd + cmp {theirs:6.2f} s   piflash {mine:6.2f} s   "
                f"ratio {mine / theirs:.2f}",
                flush=True,
            )
    theirs, mine = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median: unzip|dd + cmp {theirs:.2f} s, piflash {mine:.2f} s, ratio {mine / theirs:.2f} "
        "(piflash also downloads nothing, patches, and reads back; loop device on this disk)"
    )


def memory(work: Path) -> None:
    """Write a 2.7 GB image to two cards at once and print the peak of /usr/bin/time -v."""
    archive = build_image(work, boot_mib=512, total_mib=2600, used_mib=1700)
    cluster = write_cluster(work, image=str(archive))
    before = shutil.disk_usage(work).used
    with ExitStack() as stack:
        cards = [
            stack.enter_context(loop_device(work, size=2700 << 20, name=f"card{n}")) for n in "ab"
        ]
        held = shutil.disk_usage(work).used
        argv = ["/usr/bin/time", "-v", sys.executable, "-m", "flasher", "--cluster", str(cluster)]
        for node, card in zip(("pi1", "pi2"), cards, strict=True):
            argv += ["--node", node, card]
        begin = time.monotonic()
        done = subprocess.run([*argv, "--yes"], check=True, capture_output=True, text=True)
        took = time.monotonic() - begin
        grown = shutil.disk_usage(work).used - held
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    print(
        f"two cards of a {2600 << 20} byte image (zip {archive.stat().st_size >> 20} MiB): "
        f"{took:.1f} s, peak {int(peak[1]) / 1000 if peak else -1:.0f} MB resident; "
        f"disk grew by {grown >> 10} KiB during the run (started at {before >> 20} MiB)"
    )


def main() -> None:
    """Run what was asked for; both without arguments."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("compare", "memory"))
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("make bench needs root for loop devices. Run: sudo make bench")
    with tempfile.TemporaryDirectory(prefix="piflash-bench-", dir="/var/tmp") as scratch:
        if args.only != "memory":
            compare(Path(scratch), rounds=args.rounds)
        if args.only != "compare":
            memory(Path(scratch))


if __name__ == "__main__":
    main()
