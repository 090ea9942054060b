"""The rules under test, as one value: the project's own, or a mutated copy of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from firstboot import admission, decide, greeting, leader, notes, rhythm, wire


@dataclass(frozen=True)
class Core:
    """The pure functions that a node runs."""

    decide: Callable[..., Any]
    after: Callable[..., Any]
    outcome: Callable[..., Any]
    hello: Callable[..., Any]
    bound: Callable[..., Any]
    addressed: Callable[..., Any]
    due: Callable[..., Any]
    mood: Callable[..., Any]
    news: Callable[..., Any]
    vouch: Callable[..., Any]
    leader: ModuleType = leader
    admission: ModuleType = admission


def of(modules: dict[str, Any]) -> Core:
    """Give the rules of a package, from its modules by name."""
    return Core(
        decide=modules["decide"].decide,
        after=modules["notes"].after,
        outcome=modules["notes"].Outcome,
        hello=modules["greeting"].hello,
        bound=modules["greeting"].bound,
        addressed=modules["greeting"].addressed,
        due=modules["rhythm"].due,
        mood=modules["rhythm"].mood,
        news=modules["rhythm"].news,
        vouch=modules["wire"].vouch,
        leader=modules["leader"],
        admission=modules["admission"],
    )


REAL = of(
    {
        "decide": decide,
        "notes": notes,
        "greeting": greeting,
        "rhythm": rhythm,
        "wire": wire,
        "leader": leader,
        "admission": admission,
    }
)
