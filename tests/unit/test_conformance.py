"""The simulator's engines do what real ones do, in scenarios that tests/lab plays with both."""

from __future__ import annotations

import pytest

from tests.lab.conformance import fake
from tests.lab.conformance.scenarios import SCENARIOS
from tests.lab.conformance.steps import Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_fake_engines_give_what_real_ones_give(scenario: Scenario) -> None:
    outcomes = fake.play(scenario)
    assert [str(one) for one in outcomes if not one.as_wanted] == []
    assert len(outcomes) == len(scenario.steps)


def test_the_list_is_long_enough_and_no_name_stands_there_twice() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names) >= 15
