from __future__ import annotations

import os
from pathlib import Path

from firstboot import status
from firstboot.model import Decision
from firstboot.status import Status
from tests.unit.firstboot.card import config

DECISION = Decision("BLOCKED", "no manager answers", reason="no-leader")


def test_says_who_it_is_and_what_to_do() -> None:
    assert status.render(Status(config("pi9"), DECISION, since=1_790_000_000)) == (
        "node:       pi9\n"
        "cluster:    home\n"
        "role:       worker\n"
        "generation: 1\n"
        "epoch:      1\n"
        "phase:      BLOCKED\n"
        "since:      2026-09-21 14:13:20 UTC\n"
        "why:        no manager answers\n"
        "reason:     no-leader\n"
        "remedy:     turn on pi1 and see that it is on the same network\n"
    )


def test_a_reason_makes_any_phase_blocked() -> None:
    made = Status(config(), Decision("PROBE", "so", reason="managers-silent"), since=0)
    assert "phase:      BLOCKED\n" in status.render(made)
    assert "piflash --node pi1 --rebuild TARGET" in status.render(made)


def test_says_what_it_can_of_a_card_that_it_cannot_read() -> None:
    text = status.render(Status(None, Decision("JOIN", "so"), since=0))
    assert text.startswith("phase:      JOIN\n")
    assert "remedy" not in text
    card = status.render(Status(None, Decision("BLOCKED", "so", reason="card"), since=0))
    assert "flash this card again" in card


def test_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path = str(tmp_path / "status.txt")
    assert status.write(path, "one\n")
    first = os.stat(path)
    assert not status.write(path, "one\n")
    assert os.stat(path).st_ino == first.st_ino
    assert status.write(path, "two\n")
    assert Path(path).read_text() == "two\n"
    assert os.listdir(tmp_path) == ["status.txt"]


def test_a_torn_write_of_before_does_not_hurt(tmp_path: Path) -> None:
    (tmp_path / "status.txt.new").write_bytes(b"\0" * 5000)
    assert status.write(str(tmp_path / "status.txt"), "one\n")
    assert os.listdir(tmp_path) == ["status.txt"]
