"""A few stories of the simulator; 20,000 are told by tests/sim/test_seeds.py."""

from __future__ import annotations

import pytest

from firstboot.model import Init, Memory, Remember
from tests.sim import plans, run
from tests.sim.core import REAL, Core
from tests.sim.invariants import Violation
from tests.sim.plans import DAY, Fault
from tests.sim.run import Told
from tests.sim.world import World

SEEDS = 60


def test_the_first_seeds_hold() -> None:
    for seed in range(SEEDS):
        run.check(seed)


def test_a_seed_tells_the_same_story_each_time() -> None:
    def story(seed: int) -> tuple[Told, list[str]]:
        lines: list[str] = []
        told = run.tell(
            plans.plan(seed),
            trace=lambda t, shell, said: lines.append(f"{t} {shell.card} {said}"),
        )
        return told, lines

    assert story(7) == story(7)
    assert story(7) != story(8)


@pytest.mark.parametrize(("managers", "workers"), [(1, 0), (1, 3), (1, 19), (3, 2), (5, 0)])
def test_rosters_form_within_seconds_of_the_last_engine(managers: int, workers: int) -> None:
    told = run.tell(plans.plain(managers, workers))
    assert told.ready < 30.0
    assert told.remedies == ()


def test_a_reflashed_node_is_back_in_the_swarm_without_its_old_entry() -> None:
    for node in ("m1", "m2", "w1"):
        run.tell(plans.plain(3, 1, heal=100.0, faults=(Fault(60.0, "reflash", node),)))
    for node in ("m1", "w1"):
        run.tell(plans.plain(1, 2, heal=100.0, faults=(Fault(60.0, "reflash", node),)))


def test_a_swarm_of_cards_without_any_time_server_lives_on_100_days_later() -> None:
    names = ("m1", "w1", "w2")
    years = dict.fromkeys(names, -56 * 365 * DAY)
    plan = plans.plain(1, 2, ntp=dict.fromkeys(names), clocks=years, age=DAY, later=True)
    assert run.tell(plan).remedies == ()


def test_a_violation_names_the_command_that_shows_it() -> None:
    def founds_at_once(_config: object, _permit: str, seen: object, _now: float) -> object:
        decision = REAL.decide(_config, _permit, seen, _now)
        forgets = isinstance(decision.action, Remember) and decision.action.memory.founding
        if forgets and decision.action.memory == Memory(0, founding=1):
            return type(decision)("INIT", "", Init(1))
        return decision

    broken = Core(**{**REAL.__dict__, "decide": founds_at_once})
    with pytest.raises(Violation, match=r"I2: .*\n  python -m tests\.sim --seed 3 --trace"):
        run.check(3, core=broken)


def test_faults_do_happen() -> None:
    """A simulator in which nothing goes wrong would pass every test."""
    kinds = {fault.kind for seed in range(SEEDS) for fault in plans.plan(seed).faults}
    assert kinds >= {"cut", "divide", "loss", "restart", "reflash", "old", "copy", "forget"}
    cut = divided = 0
    for seed in range(30):
        plan = plans.plan(seed)
        world = World(plan)
        world.run(plan.heal)
        cut += sum(box.booted > 1 for box in world.boxes.values())
        divided += any(fault.kind == "divide" for fault in plan.faults)
    assert cut > 10
    assert divided > 3
