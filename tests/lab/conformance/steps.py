"""What scenarios are made of: steps in words, and beginnings that many of them share.

`do` is a command with its outcome: "ok", "joined", or what the refusal is about. `see` is a
question that is asked until the answer is the wanted one; `still` is asked once. stage.py has the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = 365 * DAY


@dataclass(frozen=True)
class Step:
    """`kind`: do, see or still."""

    kind: str
    text: str
    gives: str


@dataclass(frozen=True)
class Scenario:
    """`facts`: numbers of the project's measurements of Swarm that it is about."""

    name: str
    facts: str
    steps: tuple[Step, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Machines that it needs: a first, then b, c."""
        words = {word for step in self.steps for word in step.text.split()}
        return tuple(name for name in ("a", "b", "c") if name in words)


def do(text: str, gives: str = "ok") -> Step:
    return Step("do", text, gives)


def see(text: str, gives: str) -> Step:
    return Step("see", text, gives)


def still(text: str, gives: str) -> Step:
    return Step("still", text, gives)


def join(text: str, gives: str = "joined") -> Step:
    return do("join " + text, gives)


A, B = "a manager leader ready", "b worker ready"
UNKNOWN = "? worker unknown"
FOUNDED = (do("init a"), see("list a", A))
PAIR = (*FOUNDED, join("b to a"), see("list a", f"{A}, {B}"))
TWO = (*PAIR, do("promote b on a"), see("list a", f"{A}, b manager reachable ready"))
THREE = (
    *TWO,
    see("state b", "active manager"),
    join("c to a"),
    see("list a", f"{A}, b manager reachable ready, c worker ready"),
    do("promote c on a"),
    see("list a", f"{A}, b manager reachable ready, c manager reachable ready"),
    see("state c", "active manager"),
)
