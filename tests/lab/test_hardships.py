"""Power cuts while the swarm forms, clocks that are years off, new cards: it forms, and it stays.

They are told while other tests run (conftest.py). To replay one that failed, run it alone.
"""

from __future__ import annotations

import pytest

from tests.lab import figures
from tests.lab.program import CLOCKS, CUTS_EACH, FLASHED_AGAIN, POWER_CUTS, Telling


@pytest.mark.parametrize("seed", POWER_CUTS)
def test_converges_after_power_cuts_at_random_moments_and_leaves_no_stale_entry(
    told: Telling, seed: str
) -> None:
    what = f"{CUTS_EACH} power cuts while forming: from the last to all ready"
    figures.took(what, told.result(seed).seconds)


@pytest.mark.parametrize("seed", FLASHED_AGAIN)
def test_a_node_that_is_flashed_again_takes_its_place_and_its_old_card_is_refused(
    told: Telling, seed: str
) -> None:
    figures.took(f"{seed}: worker, manager, seed, one by one", told.result(seed).seconds)


@pytest.mark.parametrize("seed", CLOCKS)
def test_forms_with_clocks_years_off_and_survives_the_true_time_and_a_hundred_days(
    told: Telling, seed: str
) -> None:
    figures.took("clocks years off, no NTP: to all ready", told.result(seed).seconds)
