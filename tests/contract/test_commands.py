"""init, check, render, fetch and devices as a user runs them."""

from __future__ import annotations

import io
import json
import re
import stat
from pathlib import Path

import pytest

from flasher import cli
from tests.contract.test_cloud_init_schema import judge
from tests.support import baseimage
from tests.support import cloud_init as installed
from tests.support.cluster import SSH_KEY, write_cluster
from tests.support.tools import need

HASH = "$6$saltsalt$" + "x" * 86
PSK = "correct horse battery staple"
NODES = ("pi1", "pi2", "pi3", "pi4")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, an ssh key in it, and no cache but one's own."""
    key = tmp_path / "home" / ".ssh" / "id_ed25519.pub"
    key.parent.mkdir(parents=True)
    key.write_text(SSH_KEY + "\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIFLASH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def options_on(text: str) -> str:
    """Turn every option of the example on: what stands commented must be right as well."""
    text = text.replace("$6$salt$hash", HASH)
    # The three alternatives of `image` exclude each other, and pi4.yaml is the user's.
    skip = ("#image:", "#  url:", "#  sha256:", "#  profile:", "#cloud_config: pi4.yaml")
    lines = []
    for line in text.splitlines():
        bare = line.lstrip()
        if bare.startswith(skip) or not re.match(r"#( {2})?[a-z_]+:", bare):
            lines.append(line)
        else:
            lines.append(line.replace("#", "", 1))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("everything", [False, True], ids=["as-written", "all-options-on"])
def test_example_is_valid_and_debians_cloud_init_accepts_its_seeds(
    everything: bool, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud_init = installed.cloud_init("trixie")
    monkeypatch.setenv("PIFLASH_CLOUD_INIT_SCHEMA", str(cloud_init.schemas))
    project = home / "cluster"
    assert cli.run(["init", str(project)]) == 0
    cluster = project / "cluster.yaml"
    if everything:
        text = options_on(cluster.read_text())
        assert "wifi: true" in text.replace("#", "")
        cluster.write_text(text)
    assert cli.run(["check", "--cluster", str(cluster)]) == 0, capfd.readouterr().err
    for node in NODES:
        argv = ["render", "--cluster", str(cluster), "--node", node, "-o", str(home / node)]
        assert cli.run([*argv, "--reveal-secrets"]) == 0, capfd.readouterr().err
    paths = [home / node / name for node in NODES for name in ("user-data", "network-config")]
    for path, (code, output) in judge(cloud_init, *paths).items():
        assert not code, f"{path}: {output}"
        assert "Valid schema" in output
    assert "not checked" not in capfd.readouterr().err


def test_init_keeps_what_is_there(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "cluster.yaml").write_text("mine\n")
    assert cli.run(["init", str(home)]) == 2
    assert (home / "cluster.yaml").read_text() == "mine\n"
    assert "kept" in capfd.readouterr().err


def test_init_without_a_key_says_so_and_check_refuses_the_placeholder(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "home" / ".ssh" / "id_ed25519.pub").unlink()
    assert cli.run(["init", str(home / "c")]) == 0
    assert "ssh-keygen" in capfd.readouterr().err
    assert cli.run(["check", "--cluster", str(home / "c" / "cluster.yaml")]) == 3
    assert "user.ssh_authorized_keys[0]" in capfd.readouterr().err


def test_render_gives_the_same_bytes_for_the_same_generation(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    flash = ["--cluster", str(cluster), "--node", "pi2", str(home / "pi2.img"), "--yes"]
    assert cli.run(flash) == 0, capfd.readouterr().err
    for name in ("one", "two"):
        argv = ["render", "--cluster", str(cluster), "--node", "pi2", "-o", str(home / name)]
        assert cli.run([*argv, "--reveal-secrets"]) == 0
    assert files(home / "one") == files(home / "two")
    assert cli.run(flash) == 0
    argv = ["render", "--cluster", str(cluster), "--node", "pi2", "-o", str(home / "three")]
    assert cli.run([*argv, "--reveal-secrets"]) == 0
    assert files(home / "one")["meta-data"] != files(home / "three")["meta-data"]


def test_secrets_are_masked_in_everything_but_what_reveals_them(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    text = cluster.read_text().replace("user:\n", f'user:\n  password_hash: "{HASH}"\n')
    text = text.replace("pi1: {role: manager}", "pi1: {role: manager, wifi: true}")
    text += f'network:\n  wifi: {{ssid: home, psk: "{PSK}", country: DE}}\n'
    cluster.write_text(text)
    base = ["--cluster", str(cluster)]
    for argv in (
        ["check", *base],
        ["check", *base, "--json"],
        ["render", *base, "--node", "pi1", "-o", str(home / "masked")],
        ["flash", *base, "--node", "pi1", str(home / "a.img"), "--dry-run"],
        ["flash", *base, "--node", "pi1", str(home / "a.img"), "--dry-run", "--json"],
        ["flash", *base, "--node", "pi1", str(home / "a.img"), "--yes", "--json"],
        ["flash", *base, "--node", "pi1", "/dev/null", "--yes"],
    ):
        assert cli.run(argv) in (0, 4), capfd.readouterr().err
    assert (
        cli.run(["render", *base, "--node", "pi1", "-o", str(home / "open"), "--reveal-secrets"])
        == 0
    )
    revealed = files(home / "open")
    assert HASH.encode() in revealed["user-data"]
    key = revealed["piflash/identity/node.key"].decode().splitlines()[1]
    signature = json.loads(revealed["piflash/identity/permit.json"])["signature"]
    psk_hex = re.search(r"psk=([0-9a-f]{64})", revealed["user-data"].decode())
    assert psk_hex
    out, err = capfd.readouterr()
    said = out + err + b"".join(files(home / "masked").values()).decode(errors="replace")
    for secret in (HASH, PSK, key, signature, psk_hex[1]):
        assert secret not in said
    for path in (home / "a.img", home / "open" / "user-data", home / ".piflash" / "authority.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((home / ".piflash").stat().st_mode) == 0o700


def test_json_is_one_document_on_stdout(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    base = ["--cluster", str(write_cluster(home, image=str(image))), "--json"]
    target = str(home / "pi1.img")
    for argv in (
        ["check", *base],
        ["devices", "--json"],
        ["fetch", *base],
        ["--node", "pi1", target, "--dry-run", *base],
        ["--node", "pi1", target, "--yes", *base],
        ["render", "--node", "pi1", "-o", str(home / "r"), *base],
    ):
        assert cli.run(argv) == 0, capfd.readouterr().err
        json.loads(capfd.readouterr().out)


def test_dry_run_writes_nothing_and_takes_no_generation(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    argv = ["--cluster", str(cluster), "--node", "pi1", str(home / "pi1.img"), "--json"]
    plans = []
    for _ in range(2):
        assert cli.run([*argv, "--dry-run"]) == 0
        plans.append(json.loads(capfd.readouterr().out))
    assert [plan[0]["generation"] for plan in plans] == [1, 1]
    assert not list(home.glob("pi1.img*"))
    assert cli.run([*argv, "--yes"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["generation"] == 1


def test_existing_file_that_is_no_card_is_kept_unless_forced(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    other = home / "holiday.img"
    other.write_bytes(b"the only copy of something")
    argv = ["--cluster", str(cluster), "--node", "pi1", str(other), "--yes"]
    assert cli.run(argv) == 4
    assert other.read_bytes() == b"the only copy of something"
    assert "foreign-file" in capfd.readouterr().err
    assert cli.run([*argv, "--force", "foreign-file"]) == 0
    assert cli.run(argv) == 0, "its own card needs no force"


@pytest.mark.parametrize("life", ["booted", "appended", "zipped"])
def test_backup_of_a_card_is_not_replaced_without_force(
    life: str, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    backup = home / "pi1.img"
    argv = ["--cluster", str(cluster), "--node", "pi1", str(backup), "--yes"]
    assert cli.run(argv) == 0, capfd.readouterr().err
    if life == "booted":  # the first boot takes the key from the FAT
        baseimage.run("mdel", "-i", f"{backup}@@1M", "::piflash/identity/node.key")
    elif life == "appended":
        with backup.open("r+b") as out:
            out.truncate(backup.stat().st_size + (32 << 20))
    else:
        archive = baseimage.zip_image(backup, home / "pi1.zip")
        archive.replace(backup)
    before = backup.stat().st_mtime_ns
    assert cli.run(argv) == 4
    assert "foreign-file" in capfd.readouterr().err
    assert backup.stat().st_mtime_ns == before


def test_target_inside_the_clusters_memory_is_refused(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    cluster = write_cluster(home, image=str(image))
    argv = ["--cluster", str(cluster), "--node", "pi1"]
    assert cli.run([*argv, str(home / "a.img"), "--yes"]) == 0
    assert cli.run([*argv, str(home / ".piflash" / "secrets" / "a.img"), "--yes"]) == 4
    assert "memory" in capfd.readouterr().err


def test_image_swapped_after_the_plan_is_not_written(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patch was planned for another image: the card would be a mixture that looks whole."""
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(home / "base.img", geometry=baseimage.Geometry(root_mib=8))
    files = {**baseimage.BOOT_FILES, "another.bin": b"another" * 9999}
    other = baseimage.build(
        home / "other.img", geometry=baseimage.Geometry(root_mib=8), files=files
    )
    cluster = write_cluster(home, image=str(image))

    class Swapping(io.StringIO):
        """A terminal at which somebody rebuilds the image before typing the name."""

        def isatty(self) -> bool:
            return True

        def readline(self, *_args: object) -> str:
            other.replace(image)
            return "pi1\n"

    monkeypatch.setattr("sys.stdin", Swapping())
    assert cli.run(["--cluster", str(cluster), "--node", "pi1", str(home / "pi1.img")]) == 5
    assert not list(home.glob("pi1.img*"))
    assert "SHA-256" in capfd.readouterr().err
