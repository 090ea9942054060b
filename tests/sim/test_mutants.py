"""Each rule is needed: without it a story, a seed, the model check or a unit test fails."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.sim import mutants, rules_of_leader, rules_of_node, run
from tests.sim.invariants import Violation
from tests.sim.mutants import Mutant

MUTANTS = (*rules_of_node.MUTANTS, *rules_of_leader.MUTANTS)
_NUMBERS = itertools.count(1)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.rule for one in MUTANTS])
def test_a_rule_that_is_taken_out_is_missed(mutant: Mutant, tmp_path: Path) -> None:
    if mutant.unit:
        assert not mutants.unit_tests(mutant, tmp_path)
        return
    # With the rule the same story ends well.
    asked = run.tell(mutant.story()).remedies if mutant.story else ()
    rules = mutants.load(mutant, tmp_path, name=f"firstboot_mutant_{next(_NUMBERS)}")
    if mutant.model:
        assert mutants.search(rules, mutant.model)
        return
    if mutant.story:
        try:
            told = run.tell(mutant.story(), core=rules)
        except Violation:
            return
        # That a person has to help who had not to before is a failure too.
        assert len(told.remedies) > len(asked)
        return
    for seed in mutant.seeds:
        try:
            run.check(seed, core=rules)
        except Violation:
            return
    pytest.fail("no seed misses it")
