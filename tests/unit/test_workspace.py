from __future__ import annotations

import json
import os
import shlex
import stat
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from flasher import records
from flasher.errors import WorkspaceError
from flasher.model import PermitKind, Role
from flasher.records import State
from flasher.workspace import Workspace
from tests.support.identity import NOW, authority, issue, spec

THREE = spec(managers=("pi1", "pi2", "pi3"))
ONE = spec()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make(tmp_path / ".piflash")


def make(made: Path) -> Path:
    """Make a workspace of cluster `home` with the fixed authority."""
    made.mkdir(mode=0o700, parents=True)
    (made / "authority.json").write_text(records.dump_authority(authority()))
    (made / "state.json").write_text(records.dump_state(State("home", ())))
    return made


@pytest.fixture
def opened(directory: Path) -> Workspace:
    return Workspace.open(directory, cluster="home")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith("lock")
    }


def test_makes_a_private_workspace_that_git_ignores(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Workspace.open(tmp_path / ".piflash", cluster="lab")
        made.secret("minio")
        made.mint(replace(ONE, name="lab"), "pi1", rebuild=False, now=NOW)
    finally:
        os.umask(before)
    assert mode(tmp_path / ".piflash") == 0o700
    assert (tmp_path / ".piflash" / ".gitignore").read_text() == "*\n"
    for path in (tmp_path / ".piflash").rglob("*"):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert [path.name for path in tmp_path.iterdir()] == [".piflash"]


def test_opening_again_changes_nothing(directory: Path, opened: Workspace) -> None:
    opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    before = tree(directory)
    again = Workspace.open(directory, cluster="home")
    assert tree(directory) == before
    ticket = again.last_ticket("pi1")
    assert ticket is not None
    assert again.identity(ONE, ticket) == opened.identity(ONE, ticket)


def test_next_ticket_takes_nothing(directory: Path, opened: Workspace) -> None:
    before = tree(directory)
    first = opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW)
    assert opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW) == first
    assert tree(directory) == before
    assert opened.last_ticket("pi1") is None


def test_mint_gives_what_was_peeked_and_remembers_it(opened: Workspace, directory: Path) -> None:
    peeked = opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW)
    minted = opened.mint(ONE, "pi1", rebuild=False, now=NOW, expected=peeked)
    assert minted == peeked
    again = Workspace.open(directory, cluster="home")
    assert again.last_ticket("pi1") == minted
    assert again.next_ticket(ONE, "pi1", rebuild=False, now=NOW).generation == 2


def test_refuses_to_mint_something_else_than_was_confirmed(opened: Workspace) -> None:
    peeked = opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW)
    opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    with pytest.raises(WorkspaceError, match="another flash took generation 1") as caught:
        opened.mint(ONE, "pi1", rebuild=False, now=NOW, expected=peeked)
    assert caught.value.hint == "flash pi1 again"
    last = opened.last_ticket("pi1")
    assert last is not None
    assert last.generation == 1


def test_warns_of_a_clock_that_was_wrong_until_the_state_is_edited(
    directory: Path, opened: Workspace
) -> None:
    assert opened.clock_warning(NOW) == ""
    opened.mint(ONE, "pi1", rebuild=False, now=NOW + 10**9)
    assert opened.mint(ONE, "pi9", rebuild=False, now=NOW).flashed_at == NOW + 10**9
    assert "the flash of pi1, generation 1," in opened.clock_warning(NOW)
    path = directory / "state.json"
    path.write_text(path.read_text().replace(str(NOW + 10**9), str(NOW)))
    assert opened.clock_warning(NOW) == ""
    assert opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW).flashed_at == NOW


def test_a_delivered_genesis_is_the_last(opened: Workspace) -> None:
    first = opened.mint(THREE, "pi1", rebuild=False, now=NOW)
    retry = opened.mint(THREE, "pi1", rebuild=False, now=NOW)
    assert (first.permit, retry.permit) == (PermitKind.GENESIS, PermitKind.GENESIS)
    opened.delivered(retry)
    opened.delivered(retry)
    with pytest.raises(WorkspaceError, match="generation 2 meanwhile"):
        opened.delivered(first)
    later = opened.mint(THREE, "pi1", rebuild=False, now=NOW)
    assert (later.permit, later.epoch) == (PermitKind.REJOIN, 1)


def test_the_identity_is_that_of_the_ticket_and_the_nodes_role(opened: Workspace) -> None:
    ticket = opened.mint(ONE, "pi9", rebuild=False, now=NOW)
    assert opened.identity(ONE, ticket) == issue(ticket, role=Role.WORKER)


def test_a_secret_stays_and_is_the_users_to_replace(directory: Path, opened: Workspace) -> None:
    made = opened.secret("minio-root")
    assert len(made.reveal()) == 32
    assert opened.secret("minio-root") == made
    assert (directory / "secrets" / "minio-root").read_text() == made.reveal() + "\n"
    (directory / "secrets" / "minio-root").write_text("correct horse\n")
    assert opened.secret("minio-root").reveal() == "correct horse"


@pytest.mark.parametrize("name", ["", "../state.json", "a/b", ".x", "A", "x" * 64, "a\n"])
def test_refuses_a_secret_name_that_is_not_one(opened: Workspace, name: str) -> None:
    with pytest.raises(WorkspaceError, match="not a name"):
        opened.secret(name)


def test_an_image_is_pinned_once(directory: Path, opened: Workspace) -> None:
    assert opened.image_pin("hypriotos-1.12.3") is None
    opened.pin_image("hypriotos-1.12.3", "a" * 64, url="http://example.org/x.zip")
    opened.pin_image("hypriotos-1.12.3", "a" * 64)
    with pytest.raises(WorkspaceError, match=r"recorded as a{64}, not b{64}") as caught:
        opened.pin_image("hypriotos-1.12.3", "b" * 64)
    assert "--repin" in caught.value.hint
    assert Workspace.open(directory, cluster="home").image_pin("hypriotos-1.12.3") == "a" * 64
    opened.unpin_image("hypriotos-1.12.3")
    opened.unpin_image("hypriotos-1.12.3")
    assert opened.image_pin("hypriotos-1.12.3") is None
    opened.pin_image("hypriotos-1.12.3", "b" * 64)
    assert opened.image_pin("hypriotos-1.12.3") == "b" * 64


def test_refuses_a_pin_that_is_no_hash(opened: Workspace) -> None:
    with pytest.raises(WorkspaceError, match=r"'A+' is not a SHA-256"):
        opened.pin_image("x", "A" * 64)


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o701, 0o720])
def test_refuses_a_workspace_that_others_can_reach(directory: Path, bits: int) -> None:
    directory.chmod(bits)
    with pytest.raises(WorkspaceError, match=f"can be read by others \\(mode {bits:04o}\\)") as e:
        Workspace.open(directory, cluster="home")
    assert e.value.hint == f"chmod 700 {directory}"


def test_refuses_the_workspace_of_another_cluster(directory: Path, opened: Workspace) -> None:
    before = tree(directory)
    with pytest.raises(WorkspaceError, match=r"that of cluster home, .* says house") as caught:
        Workspace.open(directory, cluster="house")
    assert "name it home again" in caught.value.hint
    assert tree(directory) == before


def test_refuses_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / ".piflash").write_text("")
    with pytest.raises(WorkspaceError, match="is not a directory"):
        Workspace.open(tmp_path / ".piflash", cluster="home")


def test_refuses_where_there_is_no_directory_to_be_in(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="No such file or directory"):
        Workspace.open(tmp_path / "absent" / ".piflash", cluster="home")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", "", r"state.json is damaged: it is not JSON"),
        ("state.json", "[]", r"state.json is damaged: an object is missing"),
        ("state.json", '{"version": 2}', r"it has version 2, this piflash knows 1"),
        ("state.json", '{"version": 1, "cluster": "home"}', r"flashes is not a list"),
        ("state.json", '{"version": 1, "cluster": "home", "flashes": [{}]}', r"node is not a text"),
        ("state.json", "\0" * 100, r"state.json is damaged"),
        ("state.json", b"\xff\xfe", r"state.json is damaged: it is not text"),
        ("authority.json", "{", r"authority.json is damaged: it is not JSON"),
        ("authority.json", '{"version": 1}', r"ca_certificate is not a text"),
    ],
)
def test_a_damaged_workspace_is_refused_and_left_alone(
    directory: Path, opened: Workspace, name: str, content: str | bytes, message: str
) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (directory / name).write_bytes(raw)
    with pytest.raises(WorkspaceError, match=message) as caught:
        Workspace.open(directory, cluster="home")
    assert f"mv {directory} {directory}.old" in caught.value.hint
    assert (directory / name).read_bytes() == raw


@pytest.mark.parametrize(("field", "value"), [("generation", -5), ("flashed_at", 10**20)])
def test_a_number_out_of_its_range_is_damage(
    directory: Path, opened: Workspace, field: str, value: int
) -> None:
    opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    data = json.loads((directory / "state.json").read_text())
    data["flashes"][0][field] = value
    (directory / "state.json").write_text(json.dumps(data))
    with pytest.raises(WorkspaceError, match=f"state.json is damaged: {field} is not in") as caught:
        Workspace.open(directory, cluster="home")
    assert "bring it back from a backup" in caught.value.hint


def test_damaged_keys_are_refused_without_showing_them(directory: Path, opened: Workspace) -> None:
    path = directory / "authority.json"
    text = path.read_text()
    path.write_text(text.replace(authority().master.reveal(), "5ecre7"))
    with pytest.raises(WorkspaceError, match="its keys cannot be read") as caught:
        Workspace.open(directory, cluster="home")
    assert "5ecre7" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damaged_image_lock_says_how_to_mend_it(directory: Path, opened: Workspace) -> None:
    (directory / "images.json").write_text('{"version": 1, "images": {"x": {"sha256": "no"}}}')
    with pytest.raises(WorkspaceError, match="a hash is not a SHA-256") as caught:
        opened.image_pin("x")
    assert caught.value.hint.startswith(f"rm {directory}/images.json")


def test_an_empty_secret_says_how_to_mend_it(directory: Path, opened: Workspace) -> None:
    (directory / "secrets" / "minio").write_text("\n")
    with pytest.raises(WorkspaceError, match="minio is damaged: it is empty"):
        opened.secret("minio")


def test_a_lost_authority_is_never_replaced_once_a_card_was_minted(
    directory: Path, opened: Workspace
) -> None:
    opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    (directory / "authority.json").unlink()
    with pytest.raises(WorkspaceError, match=r"authority.json is gone"):
        Workspace.open(directory, cluster="home")
    assert not (directory / "authority.json").exists()


def test_a_lost_state_is_never_begun_anew_beside_an_authority(
    directory: Path, opened: Workspace
) -> None:
    (directory / "state.json").unlink()
    with pytest.raises(WorkspaceError, match="which generations were used is not known"):
        Workspace.open(directory, cluster="home")
    with pytest.raises(WorkspaceError, match=r"state.json is gone"):
        opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    assert not (directory / "state.json").exists()


def test_names_who_holds_the_lock(directory: Path) -> None:
    opened = Workspace.open(directory, cluster="home", lock_seconds=0.01)
    (directory / "lock.holder").write_text("4711\n")
    with (
        filelock.FileLock(directory / "lock"),
        pytest.raises(WorkspaceError, match=r"in use by another piflash \(process 4711\)"),
    ):
        opened.mint(ONE, "pi1", rebuild=False, now=NOW)
    assert opened.next_ticket(ONE, "pi1", rebuild=False, now=NOW).generation == 1


def test_reading_needs_no_lock(directory: Path, opened: Workspace) -> None:
    with filelock.FileLock(directory / "lock"):
        assert opened.last_ticket("pi1") is None
        assert Workspace.open(directory, cluster="home").image_pin("x") is None


def test_commands_of_a_hint_can_be_pasted(tmp_path: Path) -> None:
    directory = make(tmp_path / "my pi's" / ".piflash")
    opened = Workspace.open(directory, cluster="home")
    (directory / "secrets" / "minio").write_text("\n")
    with pytest.raises(WorkspaceError) as empty:
        opened.secret("minio")
    (directory / "images.json").write_text("{}")
    with pytest.raises(WorkspaceError) as pins:
        opened.image_pin("x")
    (directory / "state.json").unlink()
    with pytest.raises(WorkspaceError) as lost:
        opened.last_ticket("pi1")
    directory.chmod(0o755)
    with pytest.raises(WorkspaceError) as open_to_all:
        Workspace.open(directory, cluster="home")
    assert shlex.split(empty.value.hint)[-2:] == ["rm", f"{directory}/secrets/minio"]
    assert shlex.split(pins.value.hint.partition(";")[0]) == ["rm", f"{directory}/images.json"]
    assert shlex.split(open_to_all.value.hint) == ["chmod", "700", str(directory)]
    away = shlex.split(lost.value.hint.partition(": ")[2].partition(", and")[0])
    assert away == ["mv", str(directory), f"{directory}.old"]
