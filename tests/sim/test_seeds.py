"""20,000 stories, told by as many processes as there are cores."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor

from tests.sim import faults, run
from tests.sim.invariants import Violation

FIRST = int(os.environ.get("PIFLASH_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("PIFLASH_SIM_SEEDS", "20000"))
PROCESSES = 2
CHUNK = 250


def _tell(first: int) -> tuple[list[str], float]:
    """Give what was violated in a chunk of seeds, and the seconds that its nodes lived."""
    wrong, lived = [], 0.0
    for seed in range(first, min(first + CHUNK, FIRST + SEEDS)):
        try:
            told = run.check(seed)
        except Violation as violation:
            wrong.append(str(violation))
            plan = faults.plan(seed)
            lived += plan.heal * len(plan.spec.nodes)
        else:
            lived += told.seconds * told.nodes
    return wrong, lived


def test_no_seed_violates_an_invariant(record_property: object) -> None:
    begun = time.monotonic()
    with ProcessPoolExecutor(PROCESSES) as pool:
        done = list(pool.map(_tell, range(FIRST, FIRST + SEEDS, CHUNK)))
    spent = time.monotonic() - begun
    hours = sum(lived for _, lived in done) / 3600
    print(f"{SEEDS} seeds, {spent:.0f} s, {hours / spent:.1f} node-hours a second")  # noqa: T201
    wrong = [line for lines, _ in done for line in lines]
    assert not wrong, "\n".join(wrong[:10])
