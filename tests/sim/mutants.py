"""firstboot with one rule taken out: what the simulator and the model check have to notice.

A mutant is a copy of the pure modules under another name, with one text in place of another. The
data (model.py, nodeconfig.py) and the simulator stay what they are, and nothing is patched. Which
rules there are is in rules_of_node.py and rules_of_leader.py.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import firstboot
from tests.sim import core
from tests.sim.core import Core
from tests.sim.modelcheck import Model
from tests.sim.plans import Plan

SOURCE = Path(firstboot.__file__).parent
SHARED = ("model", "nodeconfig")
COPIED = (
    *("admission", "decide", "greeting", "hearing", "leader", "member", "notes", "permit"),
    *("rhythm", "wire"),
)
_IMPORT = re.compile(f"from firstboot(?!\\.(?:{'|'.join(SHARED)})\\b)")


@dataclass(frozen=True)
class Mutant:
    """A rule that is taken out: in `file` (without .py), `old` becomes `new`.

    `edits`: more of the same, where a rule stands in two places. It is killed by a story, by the
    model check of a roster, by one of `seeds`, or by a file of unit tests.
    """

    rule: str
    file: str
    old: str
    new: str
    edits: tuple[tuple[str, str, str], ...] = ()
    story: Callable[[], Plan] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    unit: str = ""


def load(mutant: Mutant, directory: Path, *, name: str) -> Core:
    """Import a mutated copy as package `name` from a directory; ValueError if a text is gone."""
    texts = _texts(mutant, COPIED)
    package = directory / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    for one, text in texts.items():
        (package / f"{one}.py").write_text(_IMPORT.sub(f"from {name}", text), encoding="utf-8")
    sys.path.insert(0, str(directory))
    try:
        importlib.invalidate_caches()
        modules = {one: importlib.import_module(f"{name}.{one}") for one in COPIED}
    finally:
        sys.path.remove(str(directory))
    return core.of(modules)


def unit_tests(mutant: Mutant, directory: Path) -> bool:
    """Say whether the mutant's file of unit tests passes with the mutant as firstboot."""
    package = directory / "firstboot"
    package.mkdir()
    for one, text in _texts(mutant, [path.stem for path in SOURCE.glob("*.py")]).items():
        (package / f"{one}.py").write_text(text, encoding="utf-8")
    file = f"tests/unit/firstboot/{mutant.unit}"
    # The package is imported first: pytest puts the project itself in front of every path.
    lines = (
        f"import sys; sys.path.insert(0, {str(directory)!r})",
        "import firstboot, pytest",
        f"sys.exit(pytest.main([{file!r}, '-x', '-q', '-p', 'no:cacheprovider']))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)], cwd=SOURCE.parent, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.rule}: {done.stdout}{done.stderr}")
    return done.returncode == 0


def _texts(mutant: Mutant, names: Iterable[str]) -> dict[str, str]:
    texts = {one: (SOURCE / f"{one}.py").read_text(encoding="utf-8") for one in names}
    for file, old, new in ((mutant.file, mutant.old, mutant.new), *mutant.edits):
        if texts[file].count(old) != 1:
            raise ValueError(f"{mutant.rule}: {file}.py has {texts[file].count(old)} of: {old}")
        texts[file] = texts[file].replace(old, new)
    return texts


def search(rules: Core, model: dict[str, Any]) -> str:
    """Give what the model check finds; empty if everything holds."""
    options = dict(model)
    return Model(options.pop("managers"), core=rules, **options).search().violation
