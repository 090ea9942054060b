"""What a run measured, and the table of it that is told at the end."""

from __future__ import annotations

from statistics import median

_seconds: dict[str, list[float]] = {}
_notes: list[tuple[str, str]] = []


def took(what: str, seconds: float) -> None:
    """Keep a time among all others of its kind."""
    _seconds.setdefault(what, []).append(seconds)


def note(what: str, figures: str = "") -> None:
    """Keep a figure that is no time, or the only one of its kind."""
    _notes.append((what, figures))


def ratio(what: str, beside: str, *, goal: float) -> None:
    """Keep how many times as long a kind takes as another, by their medians, and the goal."""
    times = median(_seconds[what]) / median(_seconds[beside])
    note(f"{what} against {beside}", f"{times:.2f} times (goal: below {goal})")


def table() -> list[str]:
    """Give lines: times by kind with their number, median and worst; then the notes."""
    if not (_seconds or _notes):
        return []
    wide = [*_seconds, *(what for what, told in _notes if told)]
    width = max(map(len, wide), default=0)
    lines = [f"{'':{width}}  {'runs':>4}  {'median':>8}  {'worst':>8}"] if _seconds else []
    for what, times in _seconds.items():
        figures = f"{len(times):>4}  {median(times):>6.1f} s  {max(times):>6.1f} s"
        lines.append(f"{what:{width}}  {figures}")
    return [*lines, *(f"{what:{width}}  {figures}" for what, figures in _notes)]
