from __future__ import annotations

import os
from pathlib import Path

from firstboot import status
from firstboot.decide import Decision
from firstboot.status import Status
from tests.unit.firstboot.card import config

DECISION = Decision("BLOCKED", "nothing", "no permit", remedy="flash pi1 again")


def test_says_who_it_is_and_what_comes_next() -> None:
    assert status.render(Status(config(), DECISION, since=1_790_000_000)) == (
        "node:       pi1\n"
        "cluster:    home\n"
        "role:       manager\n"
        "generation: 1\n"
        "epoch:      1\n"
        "phase:      BLOCKED\n"
        "since:      2026-09-21 14:13:20 UTC\n"
        "next:       nothing\n"
        "why:        no permit\n"
        "remedy:     flash pi1 again\n"
    )


def test_says_what_it_can_of_a_card_that_it_cannot_read() -> None:
    text = status.render(Status(None, Decision("JOIN", "join", "so"), since=0))
    assert text.startswith("phase:      JOIN\n")
    assert "remedy" not in text


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
