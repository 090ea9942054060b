"""The small rosters of the model check; those that take minutes are in tests/sim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim import mutants
from tests.sim.modelcheck import Model
from tests.sim.wrong_rules import WHOEVER_SEES_NO_LEADER


@pytest.mark.parametrize("managers", [1, 3])
def test_no_state_of_three_nodes_without_a_reflash_violates_anything(managers: int) -> None:
    found = Model(managers, flashes=0).search()
    assert (found.violation, found.stuck) == ("", 0)
    assert found.states > 50


def test_a_reflashed_worker_comes_back_in_every_order() -> None:
    found = Model(1, flashes=1, flashed=(1,)).search()
    assert (found.violation, found.stuck) == ("", 0)
    assert found.states > 250


def test_two_swarms_are_found_if_whoever_sees_no_leader_may_found_one(tmp_path: Path) -> None:
    rules = mutants.load(WHOEVER_SEES_NO_LEADER, tmp_path, name="firstboot_whoever")
    found = Model(3, flashes=0, core=rules).search()
    assert found.violation.startswith("I1: two swarms of one epoch")
