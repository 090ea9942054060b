"""The small rosters of the model check; those that take minutes are in tests/sim."""

from __future__ import annotations

from tests.sim.modelcheck import Model


def test_no_state_of_three_nodes_without_a_reflash_violates_anything() -> None:
    for managers in (1, 3):
        found = Model(managers, flashes=0).search()
        assert (found.violation, found.stuck) == ("", 0)
        assert found.states > 50


def test_a_reflashed_worker_comes_back_in_every_order() -> None:
    found = Model(1, flashes=1, flashed=(1,)).search()
    assert (found.violation, found.stuck) == ("", 0)
    assert found.states > 300
