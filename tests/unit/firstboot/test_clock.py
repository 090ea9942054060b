"""The floor of the clock, and the time that is kept; nothing here sets a clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from firstboot.clock import TICK, Timekeeper
from firstboot.model import Clock

DAY = 86400.0


def timekeeper(root: Path, *, flashed_at: float = 1.0) -> Timekeeper:
    return Timekeeper(root=str(root), tick=str(root / "tick"), flashed_at=flashed_at)


def synchronised(root: Path) -> None:
    mark = root / "run" / "systemd" / "timesync" / "synchronized"
    mark.parent.mkdir(parents=True)
    mark.touch()


@pytest.mark.parametrize(
    ("flashed", "tick", "certified", "floor"),
    [(5.0, "", 0.0, 5.0), (5.0, "7\n", 0.0, 7.0), (5.0, "7\n", 9.0, 9.0), (5.0, "torn", 0.0, 5.0)],
)
def test_the_floor_is_the_latest_of_what_is_known(
    tmp_path: Path, flashed: float, tick: str, certified: float, floor: float
) -> None:
    if tick:
        (tmp_path / "tick").write_text(tick)
    assert timekeeper(tmp_path, flashed_at=flashed).floor(certified=certified) == floor


def test_the_time_is_kept_now_and_then_if_it_can_be_trusted(tmp_path: Path) -> None:
    keeper, tick = timekeeper(tmp_path), tmp_path / "tick"
    keeper.keep(Clock(1e9, "floor", 0.0))
    assert not tick.exists()
    keeper.keep(Clock(1e9, "peer", 0.0))
    keeper.keep(Clock(1e9 + TICK - 1, "ntp", 0.0))
    assert tick.read_text() == "1000000000\n"
    keeper.keep(Clock(1e9 + TICK, "ntp", 0.0))
    assert timekeeper(tmp_path).floor(certified=0.0) == 1e9 + TICK


def test_a_wrong_time_that_was_kept_is_taken_back_by_ntp_and_by_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "tick").write_text("2000000000\n")
    keeper = timekeeper(tmp_path)
    keeper.keep(Clock(1e9, "peer", 0.0))
    assert keeper.floor(certified=0.0) == 2e9
    keeper.keep(Clock(1e9, "ntp", 0.0))
    assert keeper.floor(certified=0.0) == timekeeper(tmp_path).floor(certified=0.0) == 1e9


def test_what_ntp_set_is_not_raised_to_a_floor_that_is_wrong(tmp_path: Path) -> None:
    synchronised(tmp_path)
    keeper = timekeeper(tmp_path, flashed_at=time.time() + 3650 * DAY)
    assert keeper.read(certified=0.0).quality == "ntp"
    assert not keeper.raise_to_floor(certified=0.0)
