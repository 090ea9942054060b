from __future__ import annotations

import dataclasses
import os
import shutil
import stat
from pathlib import Path

import pytest

from firstboot import memory
from firstboot.importer import CardError, import_card, scrub
from firstboot.layout import Layout
from firstboot.model import Memory
from tests.support.identity import authority, issue, ticket
from tests.unit.firstboot.card import config, insert, permit


def identity(layout: Layout) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(layout.identity).iterdir()}


def secrets_on(fat: str) -> list[str]:
    """Give the files below a directory that hold a private key or a permit."""
    return [
        str(path)
        for path in Path(fat).rglob("*")
        if path.is_file() and (b"PRIVATE" in path.read_bytes() or b"payload" in path.read_bytes())
    ]


def test_moves_the_identity_to_ext4_and_off_fat(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    key = (Path(layout.card_identity) / "node.key").read_text()
    card = import_card(layout)
    assert card.config == config()
    assert card.permit == permit()
    assert card.left == ()
    assert identity(layout)["node.key"] == key
    assert set(identity(layout)) == {
        "ca.pem",
        "node.pem",
        "node.key",
        "permit.json",
        "charter.json",
    }
    assert not Path(layout.card_identity).exists()
    assert Path(layout.card_node_json).exists()
    assert secrets_on(layout.boot) == []


def test_only_root_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        layout = insert(tmp_path)
        import_card(layout)
    finally:
        os.umask(before)
    for path in (Path(layout.state), *Path(layout.state).rglob("*")):
        bits = stat.S_IMODE(path.stat().st_mode)
        assert bits == (0o700 if path.is_dir() else 0o600), path


def test_a_worker_has_no_permit(tmp_path: Path) -> None:
    layout = insert(tmp_path, "pi9")
    assert import_card(layout).permit == ""
    assert set(identity(layout)) == {"ca.pem", "node.pem", "node.key"}


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    first = import_card(layout)
    before = identity(layout)
    assert import_card(layout) == first
    assert identity(layout) == before


def test_the_key_was_overwritten_before_its_name_was_removed(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    path = Path(layout.card_identity) / "node.key"
    with path.open("rb") as old:
        size = path.stat().st_size
        import_card(layout)
        assert old.read() == bytes(size)


@pytest.mark.parametrize("name", ["node.key", "node.pem", "ca.pem"])
def test_an_incomplete_card_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    layout = insert(tmp_path)
    (Path(layout.card_identity) / name).unlink()
    with pytest.raises(CardError, match=f"{name}: not there") as caught:
        import_card(layout)
    assert caught.value.remedy == "flash pi1 again"
    assert len(os.listdir(layout.card_identity)) == 4
    assert not Path(layout.identity).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("node.key", ""),
        ("node.key", "\0" * 241),
        ("node.key", issue(ticket("pi2")).key_pem.reveal()),
        ("node.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("node.pem", authority().ca_pem),
        ("ca.pem", ""),
        ("ca.pem", "rubbish"),
    ],
)
def test_an_identity_that_cannot_be_used_is_not_scrubbed(
    tmp_path: Path, name: str, content: str
) -> None:
    layout = insert(tmp_path)
    path = Path(layout.card_identity) / name
    path.write_text(content)
    with pytest.raises(CardError, match="cannot be used") as caught:
        import_card(layout)
    assert "PRIVATE" not in str(caught.value)
    assert path.read_text() == content
    assert not Path(layout.identity).exists()


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    (Path(layout.card_identity) / "ca.pem").write_bytes(bytes(65537))
    with pytest.raises(CardError, match="larger than 65536"):
        import_card(layout)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not JSON"), (b"\xff", "node.json"), (b'{"version": 2}', "version: 2")],
)
def test_a_damaged_node_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    layout = insert(tmp_path)
    Path(layout.card_node_json).write_bytes(content)
    with pytest.raises(CardError, match=message):
        import_card(layout)
    assert not Path(layout.node_json).exists()


def test_a_card_without_node_json_is_refused(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    Path(layout.card_node_json).unlink()
    with pytest.raises(CardError, match=r"piflash/node\.json: not there"):
        import_card(layout)


def test_after_the_import_fat_may_be_damaged_or_gone(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    first = import_card(layout)
    Path(layout.card_node_json).write_text("rubbish")
    assert import_card(layout) == first
    shutil.rmtree(layout.boot)
    assert import_card(layout) == first


def test_a_torn_node_json_is_mended_from_the_card(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    first = import_card(layout)
    Path(layout.node_json).write_bytes(b"")
    assert import_card(layout) == first
    assert Path(layout.node_json).read_bytes() == Path(layout.card_node_json).read_bytes()


@pytest.mark.parametrize("name", ["node.key", "node.pem", "ca.pem"])
def test_an_identity_that_rotted_after_the_import_is_named(tmp_path: Path, name: str) -> None:
    layout = insert(tmp_path)
    import_card(layout)
    (Path(layout.identity) / name).unlink()
    with pytest.raises(CardError, match=r"/identity: No such file") as caught:
        import_card(layout)
    assert caught.value.remedy == "flash pi1 again"


def test_an_imported_node_has_a_memory(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    import_card(layout)
    lost = memory.lost(epoch=1, seed=True)
    assert memory.load(layout.memory, lost=lost) == (Memory(epoch=0), "")


def test_what_could_not_be_scrubbed_is_named(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    (Path(layout.card_identity) / "folder").mkdir()
    card = import_card(layout)
    assert len(card.left) == 1
    assert "identity/folder (Is a directory)" in card.left[0]
    assert secrets_on(layout.boot) == []


@pytest.mark.parametrize("rotten", ["piflash/identity", "piflash"])
def test_a_boot_partition_that_rots_after_the_import_is_named_and_keeps_no_node_from_its_work(
    tmp_path: Path, rotten: str
) -> None:
    layout = insert(tmp_path)
    first = import_card(layout)
    path = Path(layout.boot, rotten)
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("")
    card = import_card(layout)
    assert card == dataclasses.replace(first, left=card.left)
    assert card.left == (f"{layout.card_identity} (Not a directory)",)
    path.unlink()
    assert scrub(layout) == ()
