"""20,000 stories, told by as many processes as there are cores."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.sim import plans, run, tally
from tests.sim.invariants import Violation

FIRST = int(os.environ.get("PIFLASH_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("PIFLASH_SIM_SEEDS", "20000"))
PROCESSES = 2
CHUNK = 250


def _tell(first: int) -> tuple[list[str], float, Counter[str]]:
    """Give what was violated in a chunk of seeds, the seconds of its nodes, and what happened."""
    wrong: list[str] = []
    lived, happened = 0.0, Counter[str]()
    for seed in range(first, min(first + CHUNK, FIRST + SEEDS)):
        try:
            told = run.check(seed)
        except Violation as violation:
            wrong.append(str(violation))
            plan = plans.plan(seed)
            lived += plan.heal * len(plan.spec.nodes)
        else:
            lived += told.seconds * told.nodes
            happened.update(told.happened)
    return wrong, lived, happened


def test_no_seed_violates_an_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with ProcessPoolExecutor(PROCESSES) as pool:
        done = list(pool.map(_tell, range(FIRST, FIRST + SEEDS, CHUNK)))
    spent = time.monotonic() - begun
    hours = sum(lived for _, lived, _ in done) / 3600
    stories = sum((happened for _, _, happened in done), Counter[str]())
    with capsys.disabled():
        print(f"\n{tally.table(stories)}")  # noqa: T201 - what make sim is asked for
        print(f"{SEEDS} seeds, {spent:.0f} s, {hours / spent:.1f} node-hours a second")  # noqa: T201
    wrong = [line for lines, _, _ in done for line in lines]
    assert not wrong, "\n".join(wrong[:10])
    assert tally.check(stories, told=SEEDS) == []
