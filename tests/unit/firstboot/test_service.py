from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firstboot.__main__ import main
from firstboot.service import Teller
from tests.unit.firstboot.card import insert


def test_a_turn_imports_tells_once_and_writes_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    teller = Teller(layout)
    for _ in range(3):
        teller.turn()
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "piflash: INIT: would run: docker swarm init --advertise-addr 198.18.0.11 "
        "(pi1 is the seed of home and holds a genesis permit for epoch 1)"
    ]
    assert "phase:      INIT\n" in Path(layout.status_txt).read_text()
    assert Path(layout.identity).is_dir()


def test_a_card_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    away = shutil.move(layout.boot, tmp_path / "away")
    teller = Teller(layout)
    teller.turn()
    teller.turn()
    shutil.move(away, layout.boot)
    teller.turn()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == [
        "BLOCKED",
        f"{layout.status_txt}",
        "INIT",
    ]
    assert "node.json: not there; flash this card again" in told[0]


def test_whatever_goes_wrong_the_service_goes_on_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    Path(layout.root, "var").write_text("a file where a directory belongs")
    teller = Teller(layout)
    teller.turn()
    teller.turn()
    told = capsys.readouterr().err
    assert told.count("piflash: BLOCKED: try again") == 1
    assert told.count("Traceback") == 1
    assert "journalctl" in Path(layout.status_txt).read_text()


def test_no_key_and_no_permit_is_ever_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = insert(tmp_path)
    identity = Path(layout.card_identity)
    key = (identity / "node.key").read_text().splitlines()[1]
    (identity / "permit.json").write_text('{"payload":"c2VjcmV0","signature":"00"}')
    Teller(layout).turn()
    told = capsys.readouterr().err + Path(layout.status_txt).read_text()
    assert "BLOCKED" in told
    assert key not in told
    assert "c2VjcmV0" not in told


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
