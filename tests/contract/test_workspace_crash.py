"""The workspace after a SIGKILL at every system call that changes something, and under a crowd.

A child announces each step to the parent only after the workspace has returned from it, as the
flash does to the world; whatever was announced must hold for ever.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from flasher import records
from flasher.errors import WorkspaceError
from flasher.model import PermitKind, Ticket
from flasher.records import State
from flasher.workspace import Workspace
from tests.support.crash import Announce, run_and_kill
from tests.support.identity import NOW, authority, spec
from tests.support.tools import need_root

THREE = spec(managers=("pi1", "pi2", "pi3"))
HARMLESS = {".gitignore", "lock", "lock.holder", "secrets", "state.json", "authority.json"}
HARMLESS |= {"images.json", ".state.json.new", ".authority.json.new", ".images.json.new"}
HARMLESS |= {"..gitignore.new"}


def founding(directory: Path, announce: Announce) -> None:
    opened = Workspace.open(directory, cluster="home")
    announce("ca " + opened.identity(THREE, Ticket("pi9", 1, 1, None, NOW)).permit_modulus)


def flashing(directory: Path, announce: Announce) -> None:
    """Two flashes of the seed, one of a worker, one that is given up, a secret, an image."""
    opened = Workspace.open(directory, cluster="home")
    for node, deliver in (("pi1", False), ("pi1", True), ("pi9", True), ("pi1", True)):
        ticket = opened.mint(THREE, node, rebuild=False, now=NOW)
        announce(f"minted {node} {ticket.generation} {ticket.permit}")
        if deliver:
            opened.delivered(ticket)
            announce(f"delivered {node} {ticket.generation} {ticket.permit}")
    announce("secret " + opened.secret("minio").reveal())
    opened.pin_image("hypriotos", "a" * 64)
    announce("pinned")


def check_files(directory: Path) -> None:
    for path in directory.rglob("*"):
        bits = stat.S_IMODE(path.stat().st_mode)
        assert bits == (0o700 if path.is_dir() else 0o600), path
    assert {path.name for path in directory.iterdir()} <= HARMLESS
    records.parse_state((directory / "state.json").read_text())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("template") / ".piflash"
    made.mkdir(mode=0o700)
    (made / "authority.json").write_text(records.dump_authority(authority()))
    (made / "state.json").write_text(records.dump_state(State("home", ())))
    (made / "authority.json").chmod(0o600)
    (made / "state.json").chmod(0o600)
    Workspace.open(made, cluster="home")
    return made


def test_a_crash_at_any_step_of_its_making_leaves_one_authority(tmp_path: Path) -> None:
    points = 0
    while True:
        directory = tmp_path / str(points) / ".piflash"
        directory.parent.mkdir()
        first = run_and_kill(partial(founding, directory), at=points)
        again: list[str] = []
        founding(directory, again.append)
        assert first.said in ((), tuple(again)), f"another authority after a crash at {points}"
        third: list[str] = []
        founding(directory, third.append)
        assert third == again
        check_files(directory)
        if not first.killed:
            break
        points += 1
    assert points >= 40, f"only {points} places to crash: the hook sees too little"


def test_a_crash_at_any_step_of_flashing_loses_nothing_and_mints_nothing_twice(
    tmp_path: Path, template: Path
) -> None:
    points = 0
    while True:
        directory = tmp_path / str(points) / ".piflash"
        shutil.copytree(template, directory)
        first = run_and_kill(partial(flashing, directory), at=points)
        second: list[str] = []
        flashing(directory, second.append)
        check_files(directory)
        check_history(directory, [*first.said, *second], where=f"crash at {points}")
        shutil.rmtree(directory)
        if not first.killed:
            break
        points += 1
    assert points >= 100, f"only {points} places to crash: the hook sees too little"


def check_history(directory: Path, said: list[str], *, where: str) -> None:
    """Everything that any run announced holds in what is on disk now."""
    minted = [line.split(maxsplit=3)[1:3] for line in said if line.startswith("minted")]
    assert len({tuple(item) for item in minted}) == len(minted), f"{where}: a number twice"
    for node in ("pi1", "pi9"):
        generations = [int(number) for name, number in minted if name == node]
        assert generations == sorted(generations), where
    genesis = [line for line in said if line.startswith("delivered") and "GENESIS" in line]
    assert len(genesis) <= 1, f"{where}: two cards may found epoch 1"
    state = records.parse_state((directory / "state.json").read_text())
    on_disk = {(f.ticket.node, str(f.ticket.generation)) for f in state.flashes}
    assert {tuple(item) for item in minted} <= on_disk, f"{where}: a flash was forgotten"
    out = [f for f in state.flashes if f.delivered and f.ticket.permit is PermitKind.GENESIS]
    assert len(out) == 1, where
    delivered = {(f.ticket.node, str(f.ticket.generation)) for f in state.flashes if f.delivered}
    for line in said:
        if line.startswith("delivered"):
            assert tuple(line.split(maxsplit=3)[1:3]) in delivered, f"{where}: {line} forgotten"
    assert len({line for line in said if line.startswith("secret")}) == 1, where
    assert Workspace.open(directory, cluster="home").image_pin("hypriotos") == "a" * 64


def test_what_is_renamed_was_synced_and_the_directory_after_it(
    tmp_path: Path, template: Path
) -> None:
    """A power cut is worse than a kill: data that was not synced is gone. So watch the order."""
    directory = tmp_path / ".piflash"
    shutil.copytree(template, directory)
    calls: list[str] = []

    def watch(_frame: object, event: str, called: object) -> None:
        name = getattr(called, "__name__", "")
        if event == "c_call" and name in ("write", "flush", "fsync", "replace", "rename"):
            calls.append(name)

    def announce(line: str) -> None:
        calls.append(line.split()[0])

    sys.setprofile(watch)
    try:
        flashing(directory, announce)
    finally:
        sys.setprofile(None)
    renames = [number for number, name in enumerate(calls) if name in ("replace", "rename")]
    assert len(renames) == 9  # 4 minted, 3 delivered, a secret, an image
    for number in renames:
        assert calls[number - 3 : number + 2] == ["write", "flush", "fsync", calls[number], "fsync"]


def test_a_crowd_mints_each_number_once(tmp_path: Path, template: Path) -> None:
    directory = tmp_path / ".piflash"
    shutil.copytree(template, directory)
    program = (
        "import sys; from pathlib import Path; from flasher.workspace import Workspace\n"
        "from tests.support.identity import NOW, spec\n"
        "made = Workspace.open(Path(sys.argv[1]), cluster='home')\n"
        "for _ in range(20):\n"
        "    print(made.mint(spec(), 'pi1', rebuild=False, now=NOW).generation)\n"
    )
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        for _ in range(4)
    ]
    printed = [person.communicate(timeout=60)[0].split() for person in crowd]
    assert [person.returncode for person in crowd] == [0, 0, 0, 0]
    generations = [int(number) for numbers in printed for number in numbers]
    assert sorted(generations) == list(range(1, 81))


def test_a_crowd_makes_one_authority(tmp_path: Path) -> None:
    directory = tmp_path / ".piflash"
    program = (
        "import sys; from pathlib import Path; from flasher.workspace import Workspace\n"
        "from tests.support.identity import ticket, spec\n"
        "made = Workspace.open(Path(sys.argv[1]), cluster='home')\n"
        "print(made.identity(spec(), ticket()).cert_pem)\n"
    )
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        for _ in range(3)
    ]
    printed = {person.communicate(timeout=60)[0] for person in crowd}
    assert [person.returncode for person in crowd] == [0, 0, 0]
    assert len(printed) == 1


def test_a_full_disk_is_an_error_that_changes_nothing(tmp_path: Path, template: Path) -> None:
    """A limit on file size stands for the full disk: the write fails, half done."""
    directory = tmp_path / ".piflash"
    shutil.copytree(template, directory)
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from flasher.errors import WorkspaceError; from flasher.workspace import Workspace\n"
        "from tests.support.identity import NOW, spec\n"
        "made = Workspace.open(Path(sys.argv[1]), cluster='home')\n"
        "made.mint(spec(), 'pi1', rebuild=False, now=NOW)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    made.mint(spec(), 'pi1', rebuild=False, now=NOW)\n"
        "except WorkspaceError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert "File too large" in done.stdout
    assert str(directory) in done.stdout
    last = Workspace.open(directory, cluster="home").last_ticket("pi1")
    assert last is not None
    assert last.generation == 1


@pytest.mark.root
def test_with_sudo_everything_stays_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    directory = tmp_path / ".piflash"
    made = Workspace.open(directory, cluster="home")
    made.mint(THREE, "pi1", rebuild=False, now=NOW)
    made.secret("minio")
    made.pin_image("x", "a" * 64)
    for path in (directory, *directory.rglob("*")):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234), path
    monkeypatch.setenv("SUDO_UID", "1235")
    os.chown(directory, 1234, 1234)
    with pytest.raises(WorkspaceError, match="belongs to user 1234, you are 1235") as caught:
        Workspace.open(directory, cluster="home")
    assert "chown -R 1235" in caught.value.hint
