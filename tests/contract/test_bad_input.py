"""Bad input through the real command: exit code, thing, value, remedy, no leftovers."""

from __future__ import annotations

import hashlib
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from flasher import cli
from tests.support import baseimage
from tests.support.cluster import write_cluster
from tests.support.tools import need

Make = Callable[[Path, Path], str]  # (directory, a good raw image) -> what `image:` says


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mkfs.vfat", "mcopy", "mke2fs")
    directory = tmp_path_factory.mktemp("good")
    return baseimage.build(
        directory / "base.img", geometry=baseimage.Geometry(boot_mib=20, root_mib=8)
    )


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _cut(path: Path) -> str:
    os.truncate(path, path.stat().st_size * 2 // 3)
    return str(path)


def truncated_zip(directory: Path, good: Path) -> str:
    return _cut(_zip(directory / "base.img.zip", {"base.img": good.read_bytes()}))


def truncated_xz(directory: Path, good: Path) -> str:
    path = directory / "base.img.xz"
    path.write_bytes(lzma.compress(good.read_bytes(), preset=0))
    return _cut(path)


def truncated_zst(directory: Path, good: Path) -> str:
    path = directory / "base.img.zst"
    path.write_bytes(zstandard.compress(good.read_bytes()))
    return _cut(path)


def two_members(directory: Path, good: Path) -> str:
    path = directory / "two.zip"
    return str(_zip(path, {"one.img": good.read_bytes(), "two.img": b"second"}))


def no_member(directory: Path, good: Path) -> str:
    return str(_zip(directory / "none.zip", {}))


def other_hash(directory: Path, good: Path) -> str:
    path = directory / "base.img"
    path.write_bytes(good.read_bytes())
    return f"{{path: {path}, sha256: {'ab' * 32}}}"


def no_mbr(directory: Path, good: Path) -> str:
    path = directory / "nombr.img"
    path.write_bytes(b"\0" * 512 + good.read_bytes()[512:])
    return str(path)


def no_fat(directory: Path, good: Path) -> str:
    path = directory / "nofat.img"
    content = bytearray(good.read_bytes())
    content[446 + 4] = 0x83
    path.write_bytes(content)
    return str(path)


def fat_destroyed(directory: Path, good: Path) -> str:
    path = directory / "broken.img"
    content = bytearray(good.read_bytes())
    content[1 << 20 : (1 << 20) + 512] = os.urandom(512)
    path.write_bytes(content)
    return str(path)


def missing(directory: Path, good: Path) -> str:
    return str(directory / "not-there.img")


def a_web_page(directory: Path, good: Path) -> str:
    path = directory / "page.img"
    path.write_bytes(b"<!DOCTYPE html><html><body>Please log in to the hotel Wi-Fi</body></html>")
    return str(path)


def cut_raw(directory: Path, good: Path) -> str:
    path = directory / "cut.img"
    path.write_bytes(good.read_bytes()[: 24 << 20])
    return str(path)


@dataclass(frozen=True)
class Case:
    make: Make
    code: int
    says: tuple[str, ...]


IMAGES = [
    Case(truncated_zip, 5, ("base.img.zip",)),
    Case(truncated_xz, 5, ("base.img.xz",)),
    Case(truncated_zst, 5, ("base.img.zst",)),
    Case(two_members, 5, ("two.zip", "one.img", "two.img")),
    Case(no_member, 5, ("none.zip",)),
    Case(other_hash, 5, ("ab" * 32,)),
    Case(no_mbr, 5, ("nombr.img", "MBR")),
    Case(no_fat, 5, ("nofat.img", "FAT")),
    Case(fat_destroyed, 5, ("broken.img",)),
    Case(missing, 5, ("not-there.img",)),
    Case(a_web_page, 5, ("page.img", "HTML")),
    Case(cut_raw, 5, ("cut.img",)),
]


@pytest.mark.parametrize("case", IMAGES, ids=lambda case: case.make.__name__)
def test_wrong_image_is_refused(
    case: Case, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = write_cluster(tmp_path, image=case.make(tmp_path, good))
    target = tmp_path / "pi1.img"

    code = cli.run(["--cluster", str(cluster), "--node", "pi1", str(target), "--yes"])

    said = capfd.readouterr().err
    assert code == case.code, said
    for word in case.says:
        assert word in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("pi1.img*")), "a half-written card was left"


def test_card_that_was_good_survives_a_failing_flash(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = write_cluster(tmp_path, image=str(good))
    target = tmp_path / "pi1.img"
    argv = ["--cluster", str(cluster), "--node", "pi1", str(target), "--yes"]
    assert cli.run(argv) == 0, capfd.readouterr().err
    before = hashlib.sha256(target.read_bytes()).hexdigest()
    write_cluster(tmp_path, image=truncated_zip(tmp_path, good))

    assert cli.run(argv) == 5

    assert hashlib.sha256(target.read_bytes()).hexdigest() == before


TYPO = "name: home\nuser:\n  ssh_authorized_keys: [{key}]\nnodes:\n  pi1: {{rol: manager}}\n"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("name: [home\n", 3, "cluster.yaml:"),
        ("name: home\n\tnodes: x\n", 3, "tab"),
        ("", 3, "cluster.yaml"),
        (TYPO, 3, "role"),
        ("name: home\nname: again\n", 3, "name"),
    ],
)
def test_wrong_cluster_file_is_refused_with_its_place(
    text: str, code: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)

    assert cli.run(["check", "--cluster", str(file)]) == code

    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not (tmp_path / ".piflash").exists()


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--node", "pi9", "x.img"], 2, "pi1, pi2, pi3, pi4"),
        (["--node", "pi1"], 2, "TARGET"),
        (["--node", "pi1", "a.img", "b.img"], 2, "TARGET"),
        (["--node", "pi1", "a.img", "--node", "pi1", "b.img"], 2, "twice"),
        (["--node", "pi1", "a.img", "--node", "pi2", "a.img"], 2, "twice"),
        (["--node", "pi1", "x.img", "--image", "hypriotos-1.12.4"], 5, "hypriotos-1.12.3"),
        (["--node", "pi1", "x.img", "--image", "x#sha256=12"], 2, "64"),
        (["--node", "pi1", "x.img", "--force", "everything"], 2, "everything"),
        (["--node", "pi1", "x.txt"], 4, ".img"),
        (["--node", "pi1", "."], 4, "directory"),
        (["--node", "pi1", "/dev/piflash-no-such-device"], 4, "piflash devices"),
        (["--node", "pi1", "/dev/null"], 4, "/dev/null"),
        (["frobnicate"], 2, "frobnicate"),
        (["--node", "pi1", "x.img", "--frob"], 2, "--frob"),
    ],
)
def test_wrong_usage_names_what_is_there(
    argv: list[str],
    code: int,
    says: str,
    good: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_cluster(tmp_path, image=str(good))
    monkeypatch.chdir(tmp_path)

    assert cli.run(argv) == code

    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.img*"))


def test_without_terminal_and_without_yes_nothing_is_written(good: Path, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, image=str(good))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flasher",
            "--cluster",
            cluster,
            "--node",
            "pi1",
            tmp_path / "pi1.img",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 12, done.stderr
    assert "--yes" in done.stderr
    assert not list(tmp_path.glob("pi1.img*"))


def test_image_must_not_be_its_own_target(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "base.img"
    image.write_bytes(good.read_bytes())
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    cluster = write_cluster(tmp_path, image=str(image))

    assert cli.run(["--cluster", str(cluster), "--node", "pi1", str(image), "--yes"]) == 4

    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
    assert "base.img" in capfd.readouterr().err
