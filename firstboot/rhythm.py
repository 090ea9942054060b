"""When a node says hello to which peer. Pure; peers.py keeps to it, and so can a simulator.

A node that waits for something asks the managers about every second; one that is ready seldom. Who
leads tells the others when what they wait for has changed, so nobody has to ask more often.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Optional

from firstboot.model import Hello
from firstboot.nodeconfig import Peer

FORMING = "forming"  # not ready
FOLLOWING = "following"  # ready
LEADING = "leading"

SOON = 0.1  # seconds: no peer is asked again earlier
# hearing.FRESH is 15 s: the longest pause and a call that fails must be shorter together.
_MANAGERS = {FORMING: 1.0, FOLLOWING: 8.0, LEADING: 8.0}
# leader.GONE is 30 s: who leads has to know of each node whether it answers.
_WORKERS_OF_A_LEADER = 20.0
_SILENT = {FORMING: 5.0, FOLLOWING: 30.0, LEADING: 30.0}
_GROWTH = 1.5
_JITTER = 0.15


@dataclass(frozen=True)
class Calls:
    """The calls to one peer so far. `begun`: when the last one began, on the monotonic clock.

    `failures`: of the last ones in a row. `poked`: it gave a sign of life, or there is another
    reason to ask at once. `news`: there is something that it has not been told yet.
    """

    begun: float = 0.0
    number: int = 0
    failures: int = 0
    poked: bool = False
    news: bool = False


def mood(hello: Hello) -> str:
    """Give what drives a node's calls, by what it says of itself."""
    if leads(hello):
        return LEADING
    return FOLLOWING if hello.phase == "READY" else FORMING


def leads(hello: Hello) -> bool:
    """It says that it leads a swarm that has a quorum."""
    return hello.quorum and hello.leader == hello.name


def due(me: str, peer: Peer, *, mood: str, calls: Calls) -> Optional[float]:
    """Give when to call a peer next, on the clock of `calls.begun`; None if not at all."""
    if peer.name == me:
        return None
    if calls.poked or (calls.news and not calls.failures):
        return calls.begun + SOON
    if mood != LEADING and peer.role != "manager":
        return None
    if not calls.number:
        return calls.begun
    return calls.begun + _pause(peer, mood=mood, calls=calls) * _jitter(me, peer, calls)


def _pause(peer: Peer, *, mood: str, calls: Calls) -> float:
    pause = _MANAGERS[mood] if peer.role == "manager" else _WORKERS_OF_A_LEADER
    if not calls.failures:
        return pause
    # The exponent is bounded: a peer may be away for years.
    return float(min(_SILENT[mood], pause * _GROWTH ** min(calls.failures, 16)))


def _jitter(me: str, peer: Peer, calls: Calls) -> float:
    """From 0.85 to 1.15, another one for each pair of nodes and each call."""
    text = "%s %s %d" % (me, peer.name, calls.number)
    return 1 - _JITTER + 2 * _JITTER * zlib.crc32(text.encode("ascii")) / 0xFFFFFFFF


def news(before: Optional[Hello], after: Hello) -> bool:
    """Whether a hello says anything that its hearer could act on, besides the time."""
    return before is None or _gist(before) != _gist(after)


def _gist(hello: Hello) -> object:
    return (
        *(hello.generation, hello.epoch, hello.charter, hello.engine, hello.node_id),
        *(hello.swarm_id, hello.swarm_epoch, hello.was_member, hello.quorum),
        *(hello.leader, hello.grants, hello.ca, hello.quality, hello.you),
    )
