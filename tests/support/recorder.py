"""A Progress that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from flasher.model import Phase


@dataclass
class Recorder:
    """`done` and `totals` by name, `lines` of talk, `open` what was started and not finished."""

    done: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int | None] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        assert what not in self.open, "started twice"
        self.open.add(what)
        self.done[what], self.totals[what] = 0, total

    def advance(self, what: str, phase: Phase, count: int) -> None:
        assert what in self.open, "advanced before its start"
        self.done[what] += count

    def finish(self, what: str, phase: Phase) -> None:
        self.open.remove(what)

    def say(self, line: str) -> None:
        self.lines.append(line)
