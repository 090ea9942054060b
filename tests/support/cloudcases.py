"""The data cases of cloud-config: a user's file, and the problems that its last lines tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flasher.model import Problem

ROOT = Path(__file__).parents[1] / "unit" / "cases" / "cloudconfig"
_EXPECTED = re.compile(r"(?m)^#= (\d+):(\d+) ([^:]*): (.+)$")


@dataclass(frozen=True)
class Case:
    """One file; `expected`: line, column, path and a part of the message of each problem."""

    name: str
    text: str
    expected: tuple[tuple[int, int, str, str], ...]

    def compare(self, problems: Sequence[Problem]) -> None:
        """Fail unless the problems are those that are expected, and no other."""
        shown = "\n".join(map(str, problems))
        places = [(p.location.line, p.location.column, p.path) for p in problems]
        assert places == [expected[:3] for expected in self.expected], shown
        for problem, (*_, words) in zip(problems, self.expected, strict=True):
            assert words in problem.message, shown


def cases(pattern: str) -> list[Case]:
    """Give the cases whose file name fits the pattern."""
    found = [_case(path) for path in sorted(ROOT.glob(pattern))]
    assert found
    return found


def _case(path: Path) -> Case:
    text = path.read_text(encoding="utf-8")
    expected = tuple(
        (int(line), int(column), where, words)
        for line, column, where, words in _EXPECTED.findall(text)
    )
    return Case(path.stem, text, expected)
