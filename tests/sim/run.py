"""Tells the story of a seed to its end: `python -m tests.sim --seed N [--trace]`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from firstboot.model import Decision
from tests.sim import plans
from tests.sim.core import REAL, Core
from tests.sim.invariants import Violation
from tests.sim.plans import DAY, Plan
from tests.sim.shell import Shell
from tests.sim.world import Trace, World

PATIENCE = 900.0  # seconds after the last fault
OPERATOR = 240.0  # until a person does what a blocked node asks for
SPIN = 12.0  # turns a node and second
# What a blocked node asks of a person, and whether it is a card of the seed with --rebuild.
REMEDIES = {
    "managers-silent": True,
    "no-quorum": True,
    "swarm-error": True,
    "swarm-lost": False,
    "no-permit": False,
}


@dataclass(frozen=True)
class Told:
    """How a story went. `ready`: seconds from the last fault until everybody was."""

    seed: int
    ready: float
    seconds: float
    nodes: int
    turns: int
    remedies: tuple[str, ...]
    happened: frozenset[str]


def tell(plan: Plan, *, core: Core = REAL, trace: Trace | None = None) -> Told:
    """Let a story happen; Violation if an invariant does not hold in it."""
    # A world is full of cycles and lives for milliseconds: the collector only gets in the way.
    gc.disable()
    try:
        world = World(plan, core=core, trace=trace)
        world.run(plan.heal)
        ready = _until_ready(world)
        if plan.later:
            _months_later(world)
    finally:
        gc.enable()
    return Told(
        plan.seed,
        ready,
        world.t,
        len(plan.spec.nodes),
        world.turns,
        tuple(world.faults.remedies),
        frozenset(world.happened),
    )


def _until_ready(world: World) -> float:
    begun = asked = world.t
    turns = world.turns
    while True:
        world.run(world.t + 2.0)
        missing = world.judge.missing()
        if not missing:
            return world.t - begun
        blocked = world.judge.blocked()
        if world.t - asked > OPERATOR:
            asked = world.t
            _help(world, blocked)
        if world.t - begun > PATIENCE * (1 + len(world.faults.remedies)):
            raise Violation("L4" if not blocked else "L1", f"{missing}; blocked: {blocked}")
        most = SPIN * (world.t - begun + 60.0) * len(world.boxes)
        if world.turns - turns > most:
            raise Violation(
                "L4", f"spins: {world.turns - turns} turns in {world.t:.0f} s; {missing}"
            )


def _help(world: World, blocked: dict[str, str]) -> None:
    """Do what a blocked node asks of a person, where that is a new card."""
    if "clock" in blocked.values() and len(world.faults.remedies) < 3:
        world.faults.remedies.append("clock")
        world.happened.add("a person mends the time")
        for box in world.boxes.values():
            box.synchronise(world.t, box.booted)
        return
    for name, reason in sorted(blocked.items()):
        if reason in REMEDIES and len(world.faults.remedies) < 3:
            # Who alone is in trouble gets a new card; that of the seed is for a swarm that is lost.
            rebuild = REMEDIES[reason] and not any(world.fabric.quorate())
            node = world.plan.spec.managers[0].name if rebuild else name
            world.faults.remedies.append(f"{node}: {reason}")
            how = "with --rebuild" if rebuild else "again"
            world.happened.add(f"a person flashes {how}")
            world.faults.reflash(world.t, node, rebuild=rebuild)
            return


def _months_later(world: World) -> None:
    """100 days pass, and then the power comes back after a cut."""
    world.happened.add("100 days later")
    world.origin += 100 * DAY
    world.fabric.origin += 100 * DAY
    t = world.t
    for box in world.boxes.values():
        if box.on:
            box.power_off(t)
            world.at(t + world.random.uniform(1.0, 20.0), lambda at, box=box: box.power_on(at))
    world.run(t + 21.0)
    _until_ready(world)


def replay(seed: int) -> str:
    """Give the command that tells a story again."""
    return f"python -m tests.sim --seed {seed} --trace"


def check(seed: int, *, core: Core = REAL) -> Told:
    """Tell the story of a seed; a violation says how to see it again."""
    try:
        return tell(plans.plan(seed), core=core)
    except Violation as violation:
        raise Violation(violation.name, f"{violation}\n  {replay(seed)}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the first, or the only one")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, from that one on")
    parser.add_argument("--trace", action="store_true", help="tell every change of every node")
    arguments = parser.parse_args(argv)
    failed, seconds, begun = 0, 0.0, time.perf_counter()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        plan = plans.plan(seed)
        if arguments.trace:
            _say(str(plan))
        try:
            told = tell(plan, trace=_printer() if arguments.trace else None)
        except Violation as violation:
            failed += 1
            _say(f"seed {seed}: {violation}\n  {replay(seed)}")
            continue
        seconds += told.seconds * told.nodes
        if arguments.count == 1:
            _say(str(told))
    spent = time.perf_counter() - begun
    speed = seconds / 3600 / spent
    _say(
        f"{arguments.count} seeds, {failed} failed, {spent:.1f} s; {speed:.1f} node-hours a second"
    )
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _printer() -> Trace:
    last: dict[str, tuple[object, ...]] = {}

    def tell_change(t: float, shell: Shell, decision: Decision) -> None:
        what = (decision.phase, decision.why, repr(decision.action), decision.reason)
        key = f"{shell.card}@{shell.box.name}"
        if last.get(key) != what or decision.action:
            last[key] = what
            action = decision.action or ""
            said = f"{decision.phase:7} {decision.why}  {action} {decision.reason}"
            _say(f"{t:8.2f} {key:10} {said}")

    return tell_change
