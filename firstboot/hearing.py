"""What other nodes said lately, and what of it counts. Pure."""

from __future__ import annotations

from typing import Dict, List, Optional

from firstboot import leader
from firstboot.model import Hello, Observation
from firstboot.nodeconfig import NodeConfig

FRESH = 15.0  # seconds for which a peer's word counts
PATIENCE = 120.0  # until a missing leader is told as a trouble


def leaders(seen: Observation, now: float) -> List[Hello]:
    """Leaders that let nodes in, of no older epoch than was ever seen; the newest epoch first."""
    least = max(1, seen.memory.epoch)
    fit = [one for one in hellos(seen, now) if one.grants and one.swarm_epoch >= least]
    return sorted(fit, key=lambda hello: (-hello.swarm_epoch, hello.name))


def hello_of(seen: Observation, name: str, now: float) -> Optional[Hello]:
    """What a node said lately; None if nothing."""
    for hello in hellos(seen, now):
        if hello.name == name:
            return hello
    return None


def hellos(seen: Observation, now: float) -> List[Hello]:
    """What was said lately, by cards that no newer one has made void."""
    fresh = [contact.fresh(now, within=FRESH) for contact in seen.peers.values()]
    known = seen.memory.seen
    return [one for one in fresh if one and one.generation >= known.get(one.name, 0)]


def flashed_again(seen: Observation, now: float) -> Dict[str, int]:
    """Managers of a newer generation than is known; nothing is older than the first one."""
    known = seen.memory.seen
    return {
        one.name: one.generation
        for one in hellos(seen, now)
        if one.role == "manager" and one.generation > max(1, known.get(one.name, 0))
    }


def leader_of(seen: Observation, now: float) -> Optional[Hello]:
    """The leader of the newest epoch that answers, also while it lets nobody in."""
    fit = [
        hello
        for hello in hellos(seen, now)
        if hello.quorum
        and hello.leader == hello.name
        and hello.swarm_epoch >= max(1, seen.memory.epoch)
    ]
    return max(fit, key=lambda hello: hello.swarm_epoch) if fit else None


def newest_epoch(seen: Observation, now: float) -> int:
    """The highest epoch of a swarm that has a quorum; peers.py checked the charters."""
    led = [hello.swarm_epoch for hello in hellos(seen, now) if hello.quorum]
    return max([seen.memory.epoch, *led])


def last_quorum(seen: Observation) -> float:
    """When a manager was last heard that saw a quorum, also one that lets nobody in just then."""
    known = seen.memory.seen
    heard = [
        contact.heard
        for contact in seen.peers.values()
        if contact.hello
        and contact.hello.quorum
        and contact.hello.generation >= known.get(contact.hello.name, 0)
    ]
    return max(heard) if heard else seen.begun


def last_word(seen: Observation) -> float:
    """When any node was last heard."""
    heard = [contact.heard for contact in seen.peers.values() if contact.hello]
    return max(heard) if heard else seen.begun


def other_managers(config: NodeConfig) -> List[str]:
    """The managers of the roster but this node."""
    return [
        peer.name for peer in config.roster if peer.role == "manager" and peer.name != config.name
    ]


def refusal(seen: Observation, now: float) -> str:
    """The reason that a person has to hear: the leader says no, or "later" for minutes."""
    first = seen.notes.refused_first
    if first is None or not seen.notes.refusal:
        return ""
    if seen.notes.refused:
        return "refused"
    if now - first < PATIENCE:
        return ""
    return {leader.LIVES: "name-taken", leader.NO_ROOM: "no-quorum"}.get(
        seen.notes.refusal, "stuck"
    )
