"""What the leader answers to who asks to join, or says that it joined. Pure.

Role, name and generation come from the caller's certificate alone. An ask that needs something done
first (an old entry removed, labels written) gets that as the decision, and its answer a turn later.
"""

from __future__ import annotations

from typing import Optional

from firstboot import leader
from firstboot.model import Answer, Ask, Bind, Claim, Decision, Entry, Observation, Swarm
from firstboot.nodeconfig import NodeConfig


def answer(config: NodeConfig, seen: Observation, now: float) -> Optional[Decision]:
    """Give the step that the oldest open ask needs; None if none is open."""
    for ask in seen.asks:
        return _one(config, seen, ask, now)
    return None


def _one(config: NodeConfig, seen: Observation, ask: Ask, now: float) -> Decision:
    swarm = seen.swarm
    engine = seen.engine
    if swarm is None or engine is None or engine.state != "active" or not engine.manager:
        return _say(ask, "elsewhere", "this node is no manager with a quorum")
    leaders = [entry for entry in swarm.entries if entry.leader]
    if not leaders or leaders[0].id != engine.node_id:
        name = leaders[0].bound if leaders else ""
        return _say(ask, "elsewhere", "this node does not lead", leader_name=name)
    if seen.memory.swarm_epoch != swarm.epoch or swarm.rotating or not leader.founded(seen, swarm):
        return _say(ask, "later", "the swarm is being founded")
    claim = ask.claim
    if claim.name == config.name:
        return _say(ask, "refused", "%s leads this swarm" % claim.name)
    known = leader.generation(seen, swarm, claim.name)
    if claim.generation < known:
        why = "superseded: generation %d of %s, the swarm has seen %d"
        return _say(ask, "refused", why % (claim.generation, claim.name, known))
    if ask.kind == "joined":
        return _joined(config, seen, swarm, ask, now)
    return _join(seen, swarm, ask, now)


def _join(seen: Observation, swarm: Swarm, ask: Ask, now: float) -> Decision:
    reason, step = leader.make_room(seen, swarm, ask.claim, now)
    if step:
        return step
    if reason:
        return _say(ask, "later", reason)
    step = leader.void_older(swarm, ask.claim)
    return step or _say(ask, "granted", "%s may join" % ask.claim.name)


def _joined(config: NodeConfig, seen: Observation, swarm: Swarm, ask: Ask, now: float) -> Decision:
    found = [entry for entry in swarm.entries if entry.id == ask.node_id]
    if not found:
        return _say(ask, "unknown", "the swarm has no node of this id")
    entry, claim = found[0], ask.claim
    trouble = _mismatch(config, entry, claim)
    if trouble:
        return _say(ask, "refused", trouble)
    if not entry.ready:
        return _say(ask, "later", "its entry is not ready yet")
    if (entry.bound, entry.generation) == (claim.name, claim.generation):
        return _say(ask, "bound", "%s is node %s" % (claim.name, entry.id))
    if not entry.bound:
        reason, step = leader.make_room(seen, swarm, claim, now)
        if step:
            return step
        if reason:
            return _say(ask, "later", reason)
    step_: Bind = leader.bind(config, entry, claim)
    return Decision("ROSTER", "%s is node %s" % (claim.name, entry.id), step_)


def _mismatch(config: NodeConfig, entry: Entry, claim: Claim) -> str:
    """Why this entry cannot be the caller's (invariants I5 and I11); empty if it can."""
    if entry.bound not in ("", claim.name):
        return "this node id belongs to %s" % entry.bound
    if entry.name != claim.name:
        return "this node id has the host name %s" % entry.name
    addresses = [peer.address for peer in config.roster if peer.name == claim.name]
    if addresses and entry.address != addresses[0]:
        return "this node id has the address %s, not %s" % (entry.address, addresses[0])
    return ""


def _say(ask: Ask, status: str, why: str, *, leader_name: str = "") -> Decision:
    return Decision("ROSTER", why, Answer(ask.number, status, why, leader_name))
