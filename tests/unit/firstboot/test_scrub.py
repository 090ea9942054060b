from __future__ import annotations

from pathlib import Path

from firstboot import scrub
from firstboot.layout import Layout

KEPT = b"#cloud-config\nhostname: pi1\n"
SECRET = b"psk=0123456789abcdef"


def node(tmp_path: Path, *, over: bool = True) -> Layout:
    """A node after its first boot, or in it, with a secret in all that is made of user-data."""
    layout = Layout(boot=str(tmp_path / "boot"), root=str(tmp_path / "root"))
    (tmp_path / "boot/piflash").mkdir(parents=True)
    (tmp_path / "boot/piflash/user-data.kept").write_bytes(KEPT)
    (tmp_path / "boot/user-data").write_bytes(b"#cloud-config\n" + SECRET + b"\n" + b"x" * 5000)
    instance = Path(layout.cloud_instances, "home-pi1-g1")
    (instance / "scripts").mkdir(parents=True)
    (instance / "sem").mkdir()
    for name in ("obj.pkl", "user-data.txt", "user-data.txt.i", "cloud-config.txt"):
        (instance / name).write_bytes(b"x" + SECRET)
    (instance / "scripts/runcmd").write_bytes(SECRET)
    (instance / "sem/config_runcmd").write_text("done")
    Path(layout.state).mkdir(parents=True)
    if over:
        Path(layout.cloud_init_ended).parent.mkdir(parents=True)
        Path(layout.cloud_init_ended).write_text("{}")
        Path(layout.first_boot_done).parent.mkdir(parents=True)
        Path(layout.first_boot_done).write_text("")
    return layout


def holding(tmp_path: Path) -> list[str]:
    return [
        path.name for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_bytes()
    ]


def test_nothing_is_touched_while_cloud_init_runs(tmp_path: Path) -> None:
    layout = node(tmp_path, over=False)
    assert not scrub.user_data(layout)
    assert len(holding(tmp_path)) == 6


def test_secrets_go_and_what_every_boot_needs_stays(tmp_path: Path) -> None:
    layout = node(tmp_path)
    assert scrub.user_data(layout)
    assert holding(tmp_path) == []
    left = (tmp_path / "boot/user-data").read_bytes()
    assert left.rstrip(b"\n") + b"\n" == KEPT
    assert len(left) == 5000 + len(SECRET) + 15
    assert Path(layout.cloud_instances, "home-pi1-g1/sem/config_runcmd").exists()


def test_old_content_is_overwritten_in_place(tmp_path: Path) -> None:
    """A hard link is what a person with a disk editor would see of the old blocks."""
    layout = node(tmp_path)
    (tmp_path / "blocks").hardlink_to(tmp_path / "boot/user-data")
    (tmp_path / "more").hardlink_to(Path(layout.cloud_instances, "home-pi1-g1/obj.pkl"))
    scrub.user_data(layout)
    assert holding(tmp_path) == []


def test_is_done_once(tmp_path: Path) -> None:
    layout = node(tmp_path)
    scrub.user_data(layout)
    (tmp_path / "boot/user-data").write_bytes(b"of the owner's hand")
    assert scrub.user_data(layout)
    assert (tmp_path / "boot/user-data").read_bytes() == b"of the owner's hand"


def test_a_cut_in_the_middle_is_finished_the_next_time(tmp_path: Path) -> None:
    layout = node(tmp_path)
    (tmp_path / "boot/user-data").write_bytes(KEPT + b"\n" * 900 + SECRET)
    assert scrub.user_data(layout)
    assert holding(tmp_path) == []
