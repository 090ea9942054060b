"""firstboot with one rule taken out: what the simulator and the model check have to notice.

A mutant is a copy of the pure modules under another name, with one text in place of another. The
data (model.py, nodeconfig.py) and the simulator stay what they are, and nothing is patched.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import firstboot
from tests.sim import core, plans
from tests.sim.core import Core
from tests.sim.modelcheck import Model
from tests.sim.plans import DAY, YEAR, Fault, Plan

SHARED = ("model", "nodeconfig")
COPIED = ("admission", "decide", "greeting", "leader", "notes", "permit", "rhythm", "wire")
_IMPORT = re.compile(f"from firstboot(?!\\.(?:{'|'.join(SHARED)})\\b)")


@dataclass(frozen=True)
class Mutant:
    """A rule that is taken out: in `file` (without .py), `old` becomes `new`.

    `edits`: more of the same, where a rule stands in two places. It is killed by a story, by the
    model check of a roster, or by one of `seeds`.
    """

    rule: str
    file: str
    old: str
    new: str
    edits: tuple[tuple[str, str, str], ...] = ()
    story: Callable[[], Plan] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def load(mutant: Mutant, directory: Path, *, name: str) -> Core:
    """Import a mutated copy as package `name` from a directory; ValueError if a text is gone."""
    source = Path(firstboot.__file__).parent
    package = directory / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    texts = {one: (source / f"{one}.py").read_text(encoding="utf-8") for one in COPIED}
    for file, old, new in ((mutant.file, mutant.old, mutant.new), *mutant.edits):
        if texts[file].count(old) != 1:
            raise ValueError(f"{mutant.rule}: {file}.py has {texts[file].count(old)} of: {old}")
        texts[file] = texts[file].replace(old, new)
    for one, text in texts.items():
        (package / f"{one}.py").write_text(_IMPORT.sub(f"from {name}", text), encoding="utf-8")
    sys.path.insert(0, str(directory))
    try:
        importlib.invalidate_caches()
        modules = {one: importlib.import_module(f"{name}.{one}") for one in COPIED}
    finally:
        sys.path.remove(str(directory))
    return core.of(modules)


def search(rules: Core, model: dict[str, Any]) -> str:
    """Give what the model check finds; empty if everything holds."""
    options = dict(model)
    return Model(options.pop("managers"), core=rules, **options).search().violation


# --- stories that need a rule ---------------------------------------------------------------------


def _calm() -> Plan:
    return plans.plain(1, 2, heal=60.0)


def _three() -> Plan:
    return plans.plain(3, 1, heal=60.0)


def _swapped(node: str, *, managers: int = 1, at: float = 40.0) -> Plan:
    """A card is replaced in a swarm that is ready."""
    return plans.plain(managers, 2, heal=120.0, faults=(Fault(at, "reflash", node),))


def _rebuilt() -> Plan:
    """The seed gets a --rebuild card, although its swarm lives."""
    return plans.plain(3, 1, heal=60.0, faults=(Fault(50.0, "again", "m1"),))


def _two_epochs() -> Plan:
    """A rebuild apart from a quorum that lives; a worker hears of it, and comes to the others."""
    return plans.plain(
        3,
        1,
        heal=300.0,
        honest=False,
        faults=(
            Fault(40.0, "apart", "m1", 260.0),
            Fault(41.0, "rebuild", "m1"),
            Fault(150.0, "reflash", "w1"),
            Fault(155.0, "apart", "w1", 17.0),
        ),
    )


def _old_cards() -> Plan:
    """Cards of ten months ago; only the founder knows the time."""
    plan = plans.plain(1, 2)
    return plans.plain(
        1,
        2,
        heal=10.0,
        age=300 * DAY,
        clocks={"w1": -300 * DAY, "w2": -400 * DAY},
        ntp={**dict.fromkeys(plan.boots), "m1": 1.0},
    )


def _cut_off() -> Plan:
    """The power goes while the final CA is made, and the clock starts wrongly then."""
    return plans.plain(
        1,
        2,
        heal=60.0,
        clocks={"m1": 20 * DAY},
        ntp={"m1": 30.0, "w1": 39.0, "w2": 1.0},
        docker=dict.fromkeys(("m1", "w1", "w2"), 0.2),
        faults=(Fault(32.5, "cut", "m1", 1.0),),
    )


def _ahead() -> Plan:
    """The seed founds by a clock that is three years ahead, and then learns the true time."""
    plan = plans.plain(1, 2, heal=150.0)
    return plans.plain(
        1, 2, heal=150.0, clocks={"m1": 3 * YEAR}, ntp={**plan.ntp, "m1": 140.0, "w2": 150.0}
    )


def _months() -> Plan:
    return plans.plain(1, 2, heal=30.0, later=True)


MANY = tuple(range(1500))

MUTANTS = (
    Mutant(
        "only the seed founds, and by a permit",
        "decide",
        "if config.name != config.seed.name or _leaders(seen, now):",
        "if _leaders(seen, now):",
        edits=(
            (
                "decide",
                "granted = _granted(config, permit)",
                'granted = Permit(config.cluster, config.name, 1, config.epoch, "genesis")',
            ),
        ),
        model={"managers": 3, "flashes": 0},
    ),
    Mutant(
        "a seed founds only what its permit is for, not whenever it is empty",
        "decide",
        "    if memory.epoch > config.epoch or memory.founded >= config.epoch:\n",
        "    return True\n    if not seen:\n",
        edits=(
            ("decide", 'if granted.kind == "rebuild":', 'if granted.kind == "":'),
            ("decide", 'if granted.kind == "rejoin":', 'if granted.kind == "":'),
        ),
        model={"managers": 3, "flashes": 1},
    ),
    Mutant(
        "a seed that meets its swarm joins it",
        "decide",
        "if config.name != config.seed.name or _leaders(seen, now):",
        "if config.name != config.seed.name:",
        story=_rebuilt,
    ),
    Mutant(
        "rejoin: every other manager says that it never was in a swarm",
        "decide",
        'if granted.kind == "rejoin":',
        'if granted.kind == "":',
        model={"managers": 3, "flashes": 1},
    ),
    Mutant(
        "rejoin: a manager that does not answer counts",
        "decide",
        "        if silent:\n",
        "        if not seen:\n",
        model={"managers": 3, "flashes": 1},
    ),
    Mutant(
        "rejoin: a manager that was a member counts",
        "decide",
        "        if members:\n",
        "        if not seen:\n",
        model={"managers": 3, "flashes": 1},
    ),
    Mutant(
        "rejoin: who was a member says so",
        "greeting",
        "was_member=kept.swarm_epoch > 0 or kept.founding > 0,",
        "was_member=False,",
        edits=(("decide", 'hello.was_member or hello.engine != "inactive"', "hello.was_member"),),
        model={"managers": 3, "flashes": 1},
    ),
    Mutant(
        "rebuild: looks for a living swarm first",
        "decide",
        "REBUILD_PATIENCE = 120.0",
        "REBUILD_PATIENCE = 0.0",
        story=_rebuilt,
    ),
    Mutant(
        "a permit is used up by its own swarm",
        "decide",
        " or memory.founded >= config.epoch:",
        ":",
        seeds=MANY,
    ),
    Mutant(
        "the founding is on disk before it begins",
        "decide",
        "if seen.memory.founding != granted.epoch:",
        "if not granted:",
        story=_calm,
    ),
    Mutant(
        "the epoch of a swarm with a quorum is remembered",
        "decide",
        "if newest > seen.memory.epoch:",
        "if newest < 0:",
        story=_two_epochs,
    ),
    Mutant(
        "nobody joins an older epoch",
        "decide",
        "one.grants and one.swarm_epoch >= least]",
        "one.grants]",
        story=_two_epochs,
    ),
    Mutant(
        "a manager without a quorum follows a newer epoch",
        "decide",
        "if newer and engine.ca != newer[0].ca:",
        "if not seen:",
        seeds=MANY,
    ),
    Mutant(
        "a manager with a quorum follows a newer epoch",
        "decide",
        "newer = [hello for hello in _leaders(seen, now) if hello.swarm_epoch > swarm.epoch]",
        "newer: List[Hello] = []",
        story=_two_epochs,
    ),
    Mutant(
        "a joiner takes the leader's time first",
        "decide",
        'if ahead > CLOCK_SLACK and seen.clock.quality != "ntp":',
        "if not seen:",
        story=_old_cards,
    ),
    Mutant(
        "a try to join that failed is left before the next",
        "decide",
        '    if not seen.memory.swarm_epoch:\n        return Decision("LEAVE", why, Leave())\n',
        '    if not seen.memory.swarm_epoch:\n        return Decision("LEAVE", why, wait=1.0)\n',
        seeds=MANY,
    ),
    Mutant(
        "a worker that its leader does not know leaves",
        "decide",
        "if seen.notes.strangers >= STRANGER:",
        "if not seen:",
        seeds=MANY,
    ),
    Mutant(
        "an engine in error is restarted",
        "decide",
        "    if engine.stale_clock or restarted is None or now - restarted > RESTART_AGAIN:\n"
        '        return Decision("RECOVER", why, RestartDocker())\n',
        '    if restarted is None:\n        return Decision("RECOVER", why, wait=2.0)\n',
        seeds=MANY,
    ),
    Mutant(
        "an older card of a manager is not listened to",
        "decide",
        "if one and one.generation >= known.get(one.name, 0)]",
        "if one]",
        seeds=tuple(range(20000)),
    ),
    Mutant(
        "certificates of ten years",
        "leader",
        "if not founded(seen, swarm):",
        "if not swarm:",
        edits=(
            (
                "leader",
                "    return swarm.rotations > 0 and since <= seen.clock.time + CA_AHEAD\n",
                "    return True\n",
            ),
        ),
        story=_months,
    ),
    Mutant(
        "a founder whose time nobody vouches for founds on the floor",
        "decide",
        "seen.clock.time - seen.clock.floor - now > UNEXPLAINED:",
        "not seen:",
        story=_ahead,
    ),
    Mutant(
        "a certificate from the future is made anew",
        "leader",
        "    return swarm.rotations > 0 and since <= seen.clock.time + CA_AHEAD\n",
        "    return swarm.rotations > 0\n",
        story=_cut_off,
    ),
    Mutant(
        "a rotation does not wait for ghosts",
        "leader",
        "        step = _stale(seen, swarm, now) or _deserted(config, seen, swarm, now)\n",
        "        step = None\n",
        story=_cut_off,
    ),
    Mutant(
        "nobody is promoted beside a dead manager",
        "leader",
        "    if dead or (",
        "    if (",
        seeds=MANY,
    ),
    Mutant(
        "only a manager's certificate is promoted",
        "leader",
        '        and entry.labels.get(ROLE_LABEL) == "manager"\n',
        "",
        story=_three,
    ),
    Mutant(
        "the role comes from the certificate",
        "leader",
        "claim.generation, claim.role, wanted",
        'claim.generation, "manager", wanted',
        story=_calm,
    ),
    Mutant(
        "managers to be are promoted",
        "leader",
        "        _promotion(seen, swarm, now)\n        or _stale",
        "        _stale",
        story=_three,
    ),
    Mutant(
        "entries of failed tries are removed",
        "leader",
        "        or _stale(seen, swarm, now)\n",
        "",
        seeds=MANY,
    ),
    Mutant(
        "an entry goes only when it is down and silent",
        "leader",
        "    return not lives(seen, entry, now) and entry.down_for >= GONE\n",
        "    return True\n",
        seeds=MANY,
    ),
    Mutant(
        "who was promoted and never came can be demoted",
        "leader",
        "> len(managers) - 1 and not entry.leader",
        "> len(managers) and not entry.leader",
        seeds=MANY,
    ),
    Mutant(
        "a dead manager is demoted before it is removed",
        "leader",
        '        if entry.role == "manager":\n            if not may_lose',
        '        if entry.role == "":\n            if not may_lose',
        story=lambda: _swapped("m2", managers=3),
    ),
    Mutant(
        "remove before add",
        "leader",
        "        if entry.bound != claim.name:\n            continue\n",
        "        if entry:\n            continue\n",
        story=lambda: _swapped("w1"),
    ),
    Mutant(
        "a token that was given away is changed",
        "leader",
        "        or _token(seen, swarm, now)\n",
        "",
        story=_calm,
    ),
    Mutant(
        "labels of the cluster file",
        "leader",
        "        if peer.name == name\n",
        "        if not peer.name\n",
        story=_calm,
    ),
    Mutant(
        "a superseded card is refused",
        "admission",
        "if claim.generation < known:",
        "if claim.generation < 0:",
        seeds=MANY,
    ),
    Mutant(
        "nobody joins while the CA is being made anew",
        "admission",
        " or swarm.rotating or not leader.founded(seen, swarm):",
        ":",
        edits=(("greeting", "settled and not swarm.rotating and founded(seen, swarm)", "settled"),),
        story=_calm,
    ),
    Mutant(
        "nobody takes another node's id: by its name and address",
        "admission",
        "    if entry.name != claim.name:\n",
        "    if not claim.name:\n",
        edits=(("admission", "if addresses and entry.address", "if not claim and entry.address"),),
        seeds=MANY,
    ),
    Mutant(
        "nobody takes another node's id: by its label",
        "admission",
        '    if entry.bound not in ("", claim.name):\n',
        "    if not claim.name:\n",
        edits=(
            ("admission", "    if entry.name != claim.name:\n", "    if not claim.name:\n"),
            ("admission", "if addresses and entry.address", "if not claim and entry.address"),
        ),
        seeds=MANY,
    ),
    Mutant(
        "a worker does not speak as a manager",
        "wire",
        'if proved.role != "manager" and (hello.quorum or hello.grants):',
        "if not proved:",
        seeds=MANY,
    ),
    Mutant(
        "a hello is that of its certificate",
        "wire",
        "if (hello.name, hello.role, hello.generation) != (proved.name, proved.role, "
        "proved.generation):",
        "if not proved:",
        seeds=MANY,
    ),
    Mutant(
        "a node tells its leader which it is",
        "decide",
        "if chosen.you != engine.node_id:",
        "if not chosen:",
        story=_calm,
    ),
    Mutant(
        "what a leader founded is remembered",
        "decide",
        "if kept != memory:",
        "if not kept:",
        story=_calm,
    ),
)
