"""Each rule is needed: without it a story, a seed or the model check fails."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.sim import mutants, run
from tests.sim.invariants import Violation
from tests.sim.mutants import MUTANTS, Mutant

_NUMBERS = itertools.count(1)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.rule for one in MUTANTS])
def test_a_rule_that_is_taken_out_is_missed(mutant: Mutant, tmp_path: Path) -> None:
    if mutant.story:
        # With the rule the same story ends well.
        run.tell(mutant.story())
    rules = mutants.load(mutant, tmp_path, name=f"firstboot_mutant_{next(_NUMBERS)}")
    if mutant.model:
        assert mutants.search(rules, mutant.model)
        return
    if mutant.story:
        with pytest.raises(Violation):
            run.tell(mutant.story(), core=rules)
        return
    for seed in mutant.seeds:
        try:
            run.check(seed, core=rules)
        except Violation:
            return
    pytest.fail("no seed misses it")
