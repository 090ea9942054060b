"""How much callers of the join service may use, who has to go, and what is told of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Hashable, List, Optional, Sequence, Set, Tuple, TypeVar

from firstboot.model import Claim
from firstboot.wire import line


@dataclass(frozen=True)
class Limits:
    """What callers may use; times in seconds.

    A stranger has not proved a certificate yet. A source is an address, a name a certificate's.
    """

    handshake: float = 5.0  # from the first byte of TCP to the last of TLS
    request: float = 5.0  # from the first byte of a request to the last
    send: float = 5.0
    idle: float = 60.0  # until the next request
    answer: float = 8.0  # for the main loop
    snapshot: float = 30.0  # a hello that was published earlier is not the truth any more
    strangers: int = 64
    per_source: int = 8
    known: int = 128
    per_name: int = 4
    asks: int = 32
    # Of one card: `ask` seconds for each ask in the long run, `asks_in_a_row` without a pause. The
    # main loop answers asks before it does anything else, so this is what a card can take of it.
    # An honest node waits a second or more after an answer that did not help it (decide.py), and
    # goes on at once only from its token to its report: it never has to wait here.
    ask: float = 1.0
    asks_in_a_row: int = 4


LIMITS = Limits()


class Caller:
    """A connection as the bounds see it. `since`: when it last did something that counts.

    `claim` is who it is, once that is proved; `ask` the number of what it waits for.
    """

    def __init__(self, source: str, *, since: float) -> None:
        self.source = source
        self.since = since
        self.claim: Optional[Claim] = None
        self.ask: Optional[int] = None

    @property
    def name(self) -> str:
        """The name that it proved; empty for a stranger."""
        return self.claim.name if self.claim else ""


class Allowance:
    """How often each may do something: `burst` times in a row, then once in `every` seconds."""

    def __init__(self, *, every: float, burst: int) -> None:
        self._every = every
        self._slack = every * (burst - 1)
        self._spent: Dict[Hashable, float] = {}  # until when what each did counts

    def take(self, who: Hashable, *, now: float) -> bool:
        """Say whether it may do it now; only then it counts."""
        self._spent = {one: until for one, until in self._spent.items() if until > now}
        spent = max(now, self._spent.get(who, now))
        if spent > now + self._slack:
            return False
        self._spent[who] = spent + self._every
        return True


C = TypeVar("C", bound=Caller)


def surplus(callers: Sequence[C], limits: Limits) -> List[C]:
    """Give the callers that have to go, if there are too many.

    Of strangers, the older ones of the sources that have the most: a flood pushes out itself. Of
    the known, the older ones of a name that has too many, and who was quiet for longest.
    """
    strangers = _ranked([one for one in callers if not one.claim], lambda one: one.source)
    known = _ranked([one for one in callers if one.claim], lambda one: one.name)
    stay = [one for rank, one in strangers if rank < limits.per_source][: limits.strangers]
    named = [one for rank, one in known if rank < limits.per_name]
    # Whoever waits for an answer has asked lately; the others come back by themselves.
    named.sort(key=lambda one: (one.ask is None, -one.since))
    kept = {id(one) for one in (*stay, *named[: limits.known])}
    return [one for one in callers if id(one) not in kept]


def _ranked(callers: Sequence[C], group: Callable[[C], str]) -> List[Tuple[int, C]]:
    """Give callers with their place in their group: the newest of each group first, and so on."""
    places: Dict[str, int] = {}
    ranked = []
    for one in sorted(callers, key=lambda one: -one.since):
        place = places.get(group(one), 0)
        places[group(one)] = place + 1
        ranked.append((place, one))
    return sorted(ranked, key=lambda pair: pair[0])


class Complaints:
    """Who was sent away and why: one line a source and minute, and `lines` a minute."""

    def __init__(self, *, lines: int = 30) -> None:
        self._lines = lines
        self._minute = float("-inf")
        self._told: Set[str] = set()

    def about(self, source: str, why: str, *, now: float) -> str:
        """Give the line for the log; empty if there is to be none."""
        if now - self._minute >= 60.0:
            self._minute = now
            self._told.clear()
        if source in self._told or len(self._told) >= self._lines:
            return ""
        self._told.add(source)
        return "%s: %s" % (source, line(why))
