"""Four rules for founding a swarm and replacing a card that others use, and that do not hold.

The model check has to find what is wrong with each.
"""

from __future__ import annotations

from tests.sim.mutants import Mutant

NO_PERMIT = (
    "decide",
    "granted = _granted(config, permit)",
    'granted = Permit(config.cluster, config.name, 1, config.epoch, "genesis")',
)

WHOEVER_SEES_NO_LEADER = Mutant(
    "whoever sees no leader founds",
    "decide",
    "if config.name != config.seed.name or hearing.leaders(seen, now):",
    "if hearing.leaders(seen, now):",
    edits=(NO_PERMIT,),
    model={"managers": 3, "flashes": 0},
)
SEED_WHENEVER_EMPTY = Mutant(
    "the seed founds whenever it is in no swarm",
    "decide",
    "return not kept.swarm_epoch and kept.founded < config.epoch and kept.epoch < config.epoch",
    "return True",
    edits=(NO_PERMIT,),
    model={"managers": 3, "flashes": 1, "flashed": (0,)},
)
REJOIN_WITHOUT_ASKING = Mutant(
    "a seed that is flashed again founds without asking the other managers",
    "decide",
    'if granted.kind == "rejoin":',
    'if granted.kind == "":',
    model={"managers": 3, "flashes": 1, "flashed": (0,)},
)
JOIN_BEFORE_REMOVE = Mutant(
    "a replaced manager joins before its old entry is removed",
    "leader",
    "        if entry.bound != claim.name:\n            continue\n",
    "        if entry:\n            continue\n",
    edits=(("leader", "    if dead or (", "    if ("),),
    model={"managers": 3, "flashes": 1, "flashed": (1,)},
)
# With what the model check says is violated.
WRONG = (
    (WHOEVER_SEES_NO_LEADER, "I1"),
    (SEED_WHENEVER_EMPTY, "I1"),
    (REJOIN_WITHOUT_ASKING, "I1"),
    (JOIN_BEFORE_REMOVE, "I7"),
)
