from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from firstboot.__main__ import main
from firstboot.layout import Layout
from firstboot.service import Service
from tests.unit.firstboot.card import insert


def service(layout: Layout) -> Service:
    return Service(layout, wake=lambda: None, interrupt=0)


def broken(tmp_path: Path) -> Layout:
    """A card whose identity is no key, so that no turn gets as far as the network."""
    layout = insert(tmp_path)
    (Path(layout.card_identity) / "node.key").write_text("no key\n")
    return layout


def test_a_card_that_cannot_be_used_is_told_once_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = service(broken(tmp_path))
    assert [made.turn() for _ in range(3)] == [10.0] * 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("piflash: BLOCKED (card): the identity cannot be used")
    assert "flash pi1 again" in line
    assert "reason:     card\n" in Path(tmp_path / "boot/piflash/status.txt").read_text()


def test_a_card_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = broken(tmp_path)
    away = shutil.move(layout.boot, tmp_path / "away")
    made = service(layout)
    made.turn()
    made.turn()
    shutil.move(away, layout.boot)
    made.turn()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == [
        "BLOCKED (card)",
        layout.status_txt,
        "BLOCKED (card)",
    ]
    assert "node.json: not there" in told[0]
    assert "cannot be used" in told[2]


def test_whatever_goes_wrong_the_service_goes_on_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    Path(layout.root, "var").write_text("a file where a directory belongs")
    made = service(layout)
    made.turn()
    made.turn()
    told = capsys.readouterr().err
    assert told.count("piflash: BLOCKED (fault)") == 1
    assert told.count("Traceback") == 1
    assert "journalctl" in Path(layout.status_txt).read_text()


def test_import_alone_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = insert(tmp_path)
    assert main(["import", "--boot", layout.boot, "--root", layout.root]) == 0
    assert capsys.readouterr().err == "piflash: import: pi1, generation 1\n"
    assert Path(layout.identity).is_dir()


def test_import_alone_fails_on_a_card_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root").mkdir()
    arguments = ["import", "--boot", str(tmp_path), "--root", str(tmp_path / "root")]
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("not there; flash this card again\n")


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"LocalAddr": "1'])
def test_torn_state_files_are_put_aside_before_dockerd_starts(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    swarm = Path(layout.docker, "swarm")
    swarm.mkdir(parents=True)
    (swarm / "docker-state.json").write_bytes(content)
    (swarm / "state.json").write_text("[]")
    assert main(["early", "--boot", layout.boot, "--root", layout.root]) == 0
    assert sorted(os.listdir(swarm)) == ["docker-state.json.broken", "state.json"]
    assert "docker-state.json was torn" in capsys.readouterr().err


def test_a_node_of_a_swarm_gets_a_state_file_that_keeps_it_there(tmp_path: Path) -> None:
    """That dockerd then goes on as the same node is played in tests/lab (facts S9)."""
    layout = insert(tmp_path)
    assert main(["import", "--boot", layout.boot, "--root", layout.root]) == 0
    swarm = Path(layout.docker, "swarm")
    (swarm / "certificates").mkdir(parents=True)
    (swarm / "certificates/swarm-node.crt").write_text("a certificate")
    (swarm / "docker-state.json").write_bytes(b"")
    assert main(["early", "--boot", layout.boot, "--root", layout.root]) == 0
    state = json.loads((swarm / "docker-state.json").read_text())
    address = json.loads(Path(layout.node_json).read_text())["address"]
    assert (state["AdvertiseAddr"], state["ListenAddr"]) == (f"{address}:2377", "0.0.0.0:2377")
    assert (swarm / "docker-state.json.broken").read_bytes() == b""


def test_an_unreadable_description_of_the_node_does_not_keep_dockerd_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    assert main(["import", "--boot", layout.boot, "--root", layout.root]) == 0
    Path(layout.node_json).write_text("{")
    swarm = Path(layout.docker, "swarm")
    swarm.mkdir(parents=True)
    (swarm / "docker-state.json").write_bytes(b"")
    assert main(["early", "--boot", layout.boot, "--root", layout.root]) == 0
    assert os.listdir(swarm) == ["docker-state.json.broken"]
    assert "node.json" in capsys.readouterr().err


def test_before_anything_was_imported_there_is_nothing_to_do_early(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    assert main(["early", "--boot", layout.boot, "--root", layout.root]) == 0
