"""The wheel is whole: installed elsewhere, with no checkout in sight, it does the job."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import baseimage
from tests.support.cluster import write_cluster
from tests.support.tools import need

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, ROOT],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return next(directory.glob("piflash-*.whl"))


def test_wheel_carries_templates_profiles_and_the_pis_side(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "firstboot/__main__.py" in names
    assert "flasher/_data/cloud-init/catalogue.json" in names
    assert "flasher/_data/cloud-init/profiles/hypriotos.json" in names
    assert any(name.startswith("flasher/_data/stacks/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "cloud-init/", "stacks/"))]
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "flasher").rglob("*.py")}
    assert sources <= names


def test_installed_wheel_writes_the_same_seed_as_the_checkout(wheel: Path, tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(tmp_path / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(tmp_path, image=str(image))
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    seeds = {}
    for name, path in (("wheel", site), ("checkout", ROOT)):
        output = tmp_path / name
        environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}
        argv = ["render", "--cluster", cluster, "--node", "pi1", "-o", output, "--reveal-secrets"]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "flasher", *argv]
            if sys.version_info >= (3, 11)
            else [sys.executable, "-m", "flasher", *argv],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        seeds[name] = {
            p.relative_to(output).as_posix(): p.read_bytes()
            for p in output.rglob("*")
            if p.is_file()
        }
    assert seeds["wheel"] == seeds["checkout"]
