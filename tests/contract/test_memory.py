"""Memory and disk stay small, however large the image is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import baseimage
from tests.support.cluster import write_cluster
from tests.support.tools import need

# Raspberry Pi OS Lite's shape; HypriotOS is half of it.
BIG = baseimage.Geometry(boot_mib=512, root_mib=2087, fat=32)
LIMIT_KB = 150_000


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mkfs.vfat", "mcopy", "mke2fs")
    directory = tmp_path_factory.mktemp("big")
    noise = {f"kernel{number}.img": os.urandom(24 << 20) for number in range(3)}
    files = {**baseimage.BOOT_FILES, **noise}
    raw = baseimage.build(directory / "big.img", geometry=BIG, files=files)
    archive = baseimage.zip_image(raw, directory / "big.img.zip", level=1)
    raw.unlink()
    return archive


def test_two_cards_of_a_large_image_fit_in_150_mb(zipped: Path, tmp_path: Path) -> None:
    need("time")
    cluster = write_cluster(tmp_path, image=str(zipped))
    argv = ["/usr/bin/time", "-v", sys.executable, "-m", "flasher", "--cluster", str(cluster)]
    for node in ("pi1", "pi2"):
        argv += ["--node", node, str(tmp_path / f"{node}.img")]

    done = subprocess.run([*argv, "--yes"], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    assert peak
    assert int(peak[1]) < LIMIT_KB, f"{peak[1]} kB resident"
    left = sum(p.stat().st_blocks * 512 for p in tmp_path.rglob("*") if p.suffix != ".img")
    assert left < 1 << 20, "something decompressed was left"
