"""Every state with reflashes; takes a minute or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim import mutants
from tests.sim.modelcheck import Model
from tests.sim.mutants import Mutant
from tests.sim.wrong_rules import WRONG


@pytest.mark.parametrize(
    ("managers", "honest", "least"),
    [(1, True, 9_000), (3, True, 25_000), (3, False, 25_000)],
    ids=["one manager", "three managers", "a rebuild beside a living quorum"],
)
def test_no_state_with_a_reflash_violates_anything(managers: int, honest: bool, least: int) -> None:
    """Where a rebuild is made wrongly there may be two swarms, of two epochs, and they end as one.

    A state that asks for a person is one in which a majority of the managers was replaced.
    """
    found = Model(managers, flashes=1, honest=honest).search()
    assert found.violation == ""
    assert found.states > least
    if managers == 1:
        assert found.stuck == 0


@pytest.mark.parametrize(("rule", "violated"), WRONG, ids=[rule.rule for rule, _ in WRONG])
def test_a_wrong_rule_is_found_out(rule: Mutant, violated: str, tmp_path: Path) -> None:
    rules = mutants.load(rule, tmp_path, name=f"firstboot_wrong_{violated}_{len(rule.rule)}")
    assert mutants.search(rules, rule.model).startswith(violated)
