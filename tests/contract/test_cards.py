"""Whole cards, written by the real command from images of many shapes, judged by other tools."""

from __future__ import annotations

import json
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from flasher import cli
from tests.support import baseimage, card
from tests.support.cluster import write_cluster
from tests.support.tools import need

# What the seed of a HypriotOS node may change among the files that the image has.
EDITED = {"user-data", "meta-data", "network-config", "fake-hwclock.data", "cmdline.txt"}


@dataclass(frozen=True)
class Shape:
    """A FAT of `fat` bits with clusters of `spc` sectors; `wear`: what its life did to it."""

    fat: int
    spc: int
    mib: int
    wear: str = "fresh"

    def __str__(self) -> str:
        return f"FAT{self.fat}-{self.spc * 512}B-{self.wear}"


# mkfs.vfat needs at most 4084 clusters for FAT12, 65524 for FAT16, at least 65525 for FAT32.
SHAPES = [
    Shape(12, 8, 15),
    Shape(12, 32, 60),
    Shape(12, 64, 120),
    Shape(16, 1, 31),
    Shape(16, 4, 64),
    Shape(16, 4, 64, "fragmented"),
    Shape(16, 4, 64, "nearly-full"),
    Shape(16, 4, 64, "long-names"),
    Shape(16, 16, 256),
    Shape(16, 64, 200, "fragmented"),
    Shape(32, 1, 40),
    Shape(32, 1, 64, "fragmented"),
    Shape(32, 1, 48, "nearly-full"),
    Shape(32, 1, 48, "long-names"),
    Shape(32, 8, 300),
    Shape(32, 64, 2100),
    Shape(12, 8, 15, "fragmented"),
    Shape(12, 8, 15, "nearly-full"),
    Shape(12, 64, 120, "long-names"),
]


def wear_down(image: Path, shape: Shape) -> None:
    """Give the boot partition a past, with mtools."""
    volume = f"{image}@@1M"
    luck = random.Random(str(shape))
    with tempfile.TemporaryDirectory() as scratch:
        if shape.wear == "fragmented":
            names = []
            for number in range(120):
                names.append(f"filler{number:03}.bin")
                size = luck.randrange(1, 3 * shape.spc * 512)
                Path(scratch, names[-1]).write_bytes(luck.randbytes(size))
            baseimage.run("mcopy", "-i", volume, *(Path(scratch, n) for n in names), "::overlays")
            baseimage.run("mdel", "-i", volume, *(f"::overlays/{n}" for n in names[::2]))
        elif shape.wear == "nearly-full":
            free = free_bytes(volume)
            keep = 600 << 10
            Path(scratch, "ballast.bin").write_bytes(luck.randbytes(free - keep))
            baseimage.run("mcopy", "-i", volume, Path(scratch, "ballast.bin"), "::ballast.bin")
            # The firmware in front of the ballast goes: what is free now is scattered.
            baseimage.run("mdel", "-i", volume, "::fixup.dat")
        elif shape.wear == "long-names":
            for number in range(40):
                name = f"a name of {number} " + "with spaces, dots. and ümlauts " * (1 + number % 4)
                path = Path(scratch, f"{number}.dat")
                path.write_bytes(luck.randbytes(luck.randrange(5000)))
                os.environ.setdefault("LC_ALL", "C.UTF-8")
                baseimage.run("mcopy", "-i", volume, path, f"::overlays/{name.strip()}.dtbo")


def free_bytes(volume: str) -> int:
    """Give the free bytes that mtools counts."""
    last = baseimage.run("mdir", "-i", volume, "::").decode().strip().splitlines()[-1]
    return int("".join(c for c in last if c.isdigit()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_card_is_sound_and_differs_from_its_image_only_where_meant(
    shape: Shape, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("mkfs.vfat", "fsck.vfat", "mcopy", "mke2fs", "e2fsck")
    monkeypatch.setenv("PIFLASH_CACHE", str(tmp_path / "cache"))
    geometry = baseimage.Geometry(
        boot_mib=shape.mib, root_mib=24, fat=shape.fat, sectors_per_cluster=shape.spc
    )
    image = baseimage.build(tmp_path / "base.img", geometry=geometry)
    wear_down(image, shape)
    cluster = write_cluster(tmp_path, image=str(image))
    written = tmp_path / "pi1.img"

    code = cli.run(["--cluster", str(cluster), "--node", "pi1", str(written), "--yes"])

    assert code == 0, capfd.readouterr().err
    card.assert_sound(written)
    found = card.parts(written)
    assert found == card.parts(image)
    with image.open("rb") as a, written.open("rb") as b:
        assert a.read(1 << 20) == b.read(1 << 20), "MBR and the gap behind it"
    assert card.same_bytes(image, written, found.root)
    assert written.stat().st_size == image.stat().st_size
    before = card.files(card.cut(image, found.boot, tmp_path / "before"))
    after = card.files(card.cut(written, found.boot, tmp_path / "after"))
    assert {n for n in before if after.get(n) != before[n]} <= EDITED
    added = set(after) - set(before)
    assert added
    assert all(name.startswith("piflash/") for name in added)
    node = json.loads(after["piflash/node.json"])
    assert (node["name"], node["role"], node["cluster"]) == ("pi1", "manager", "home")


def test_full_boot_partition_is_refused_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(tmp_path / "base.img", geometry=baseimage.Geometry(root_mib=8))
    volume = f"{image}@@1M"
    ballast = tmp_path / "ballast"
    ballast.write_bytes(b"x" * (free_bytes(volume) - 4096))
    baseimage.run("mcopy", "-i", volume, ballast, "::ballast.bin")
    cluster = write_cluster(tmp_path, image=str(image))

    code = cli.run(["--cluster", str(cluster), "--node", "pi1", str(tmp_path / "x.img"), "--yes"])

    assert code == 5
    assert not list(tmp_path.glob("x.img*"))
    assert "free" in capfd.readouterr().err


def test_two_cards_have_different_identities_and_the_same_image(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(tmp_path / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(tmp_path, image=str(image))
    one, two = tmp_path / "pi1.img", tmp_path / "pi2.img"

    code = cli.run(
        ["--cluster", str(cluster), "--node", "pi1", str(one), "--node", "pi2", str(two), "--yes"]
    )

    assert code == 0, capfd.readouterr().err
    found = card.parts(image)
    seeds = [card.files(card.cut(c, found.boot, tmp_path / "p1")) for c in (one, two)]
    assert seeds[0]["piflash/identity/node.key"] != seeds[1]["piflash/identity/node.key"]
    assert seeds[0]["piflash/identity/ca.pem"] == seeds[1]["piflash/identity/ca.pem"]
    assert "piflash/identity/permit.json" in seeds[0]
    assert "piflash/identity/permit.json" not in seeds[1]
    assert card.same_bytes(one, two, found.root)


def test_flash_again_takes_the_next_generation(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(tmp_path / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(tmp_path, image=str(image))
    generations, instances = [], []
    for _ in range(3):
        argv = ["--cluster", str(cluster), "--node", "pi3", str(tmp_path / "pi3.img"), "--yes"]
        assert cli.run(argv) == 0, capfd.readouterr().err
        files = card.files(card.cut(tmp_path / "pi3.img", card.parts(image).boot, tmp_path / "p1"))
        generations.append(json.loads(files["piflash/node.json"])["generation"])
        instances.append(files["meta-data"])
    assert generations == [1, 2, 3]
    assert len(set(instances)) == 3
