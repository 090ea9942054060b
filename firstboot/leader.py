"""What the leader does for the swarm, one thing at a time, the most urgent first. Pure.

It acts on node ids, never on names: a name may stand in the list twice (facts S18).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Dict, List, Optional, Tuple

from firstboot.model import (
    GENERATION_LABEL,
    ROLE_LABEL,
    Bind,
    Claim,
    Decision,
    Demote,
    Entry,
    Observation,
    Promote,
    Remember,
    Remove,
    RotateCa,
    RotateToken,
    Supersede,
    Swarm,
)
from firstboot.nodeconfig import NodeConfig

GONE = 30.0  # seconds: an entry that is down and silent for that long belongs to no node any more
LIVES = "a node of this name is in the swarm and lives"
NO_ROOM = "without its old entry the managers have no quorum"
OWN_LABELS = "piflash."  # no label of the cluster file begins so
DEMOTED = 30.0  # facts S14: between a demotion and the next promotion
# A token that nobody joined with in this time is void: see RotateToken.
GRANT_LIVES = 60.0
PATIENCE = 120.0  # seconds until what only a person can change is told as a trouble
CA_AHEAD = 60.0  # seconds; swarmkit dates a new root certificate back by 5 minutes


def duty(config: NodeConfig, seen: Observation, swarm: Swarm, mine: Entry, now: float) -> Decision:
    """Give the leader's next step; READY if there is nothing to do."""
    if swarm.rotating:
        # It waits for every node on the list, gone or not (swarmkit, ca/reconciler.go).
        step = _stale(seen, swarm, now) or _deserted(config, seen, swarm, now)
        return step or _rotating(swarm)
    if not founded(seen, swarm):
        return _make_ca(seen, swarm)
    if mine.bound != config.name or mine.generation != config.generation:
        me = Claim(config.cluster, config.role, config.name, config.generation)
        return Decision("ROSTER", "binds itself", bind(config, mine, me))
    step = (
        _promotion(seen, swarm, now)
        or _stale(seen, swarm, now)
        or _labels(config, swarm)
        or _token(seen, swarm, now)
        or _generations(seen, swarm)
    )
    if step:
        return step
    missing = _missing(config, swarm)
    if missing:
        return Decision("READY", "leads the swarm; waits for %s" % _waits(swarm, missing), wait=1.0)
    return Decision("READY", "leads the swarm", wait=10.0)


def _rotating(swarm: Swarm) -> Decision:
    why = "the swarm's CA is being made anew"
    off = [entry.bound or entry.name for entry in swarm.entries if entry.down_for > PATIENCE]
    if not off:
        return Decision("ROSTER", why, wait=0.2)
    return Decision(
        "ROSTER", "%s; it waits for %s" % (why, ", ".join(off)), wait=1.0, reason="stuck"
    )


def _make_ca(seen: Observation, swarm: Swarm) -> Decision:
    if not swarm.rotations:
        return Decision("INIT", "certificates of ten years", RotateCa())
    # dockerd may refuse, for its own certificate begins later too: then only time helps.
    begins = _begins(seen, swarm)
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begins))
    far = begins - seen.clock.time > PATIENCE
    why = "the clock was set back: the swarm's certificates begin %s" % at
    return Decision("INIT", why, RotateCa(), reason="clock" if far else "")


def _begins(seen: Observation, swarm: Swarm) -> float:
    """Since when the swarm's CA and this node's own certificate are valid, UTC seconds."""
    return max(swarm.ca_since, seen.engine.certified if seen.engine else 0.0)


def founded(seen: Observation, swarm: Swarm) -> bool:
    """Its CA was made anew once (facts S5), and by this clock it is valid already (S16).

    So is this node's own certificate: a rotation that was cut off may have been finished by the
    clock of the next boot.
    """
    return swarm.rotations > 0 and _begins(seen, swarm) <= seen.clock.time + CA_AHEAD


def generation(seen: Observation, swarm: Swarm, name: str) -> int:
    """The newest generation of a name that anybody here knows of; 0 if none."""
    label = swarm.labels.get("%s.%s" % (GENERATION_LABEL, name), "")
    known = [entry.generation for entry in swarm.entries if entry.bound == name]
    known += [granted.generation for granted in seen.notes.granted if granted.name == name]
    return max([int(label) if label.isdigit() else 0, seen.memory.seen.get(name, 0), *known])


def bind(config: NodeConfig, entry: Entry, claim: Claim) -> Bind:
    """What to write onto a swarm node that turned out to be the claim's."""
    return Bind(entry.id, claim.name, claim.generation, claim.role, wanted(config, claim.name))


def wanted(config: NodeConfig, name: str) -> Dict[str, str]:
    """The labels that the cluster file gives a node; none if this card does not know it."""
    return {
        key: text
        for peer in config.roster
        if peer.name == name
        for key, text in peer.labels.items()
        if not key.startswith(OWN_LABELS)
    }


def lives(seen: Observation, entry: Entry, now: float) -> bool:
    """The entry's node is up, or may be: for its name answers a node with this swarm id.

    Who has not got as far as to tell the swarm its host name is known by its id alone.
    """
    name = entry.bound or entry.name
    asked = [seen.peers.get(name)] if name else list(seen.peers.values())
    said = [contact.fresh(now, within=GONE) for contact in asked if contact]
    return entry.ready or any(hello is not None and hello.node_id == entry.id for hello in said)


def gone(seen: Observation, entry: Entry, now: float) -> bool:
    """Down and silent for so long that it may be taken off the list (invariant I6)."""
    return not lives(seen, entry, now) and entry.down_for >= GONE


def may_lose(swarm: Swarm, entry: Entry) -> bool:
    """Demoting this manager leaves a quorum (facts S6, invariant I7).

    Before, there is one: this list comes from it. Who was promoted and went before it was in the
    raft is a manager too, and counts in no quorum.
    """
    managers = [other for other in swarm.entries if other.role == "manager"]
    alive = [
        other for other in managers if other.reachable and other.ready and other.id != entry.id
    ]
    return len(alive) * 2 > len(managers) - 1 and not entry.leader


def _promotion(seen: Observation, swarm: Swarm, now: float) -> Optional[Decision]:
    waiting = [
        entry
        for entry in swarm.entries
        if entry.role == "worker"
        and entry.ready
        and entry.labels.get(ROLE_LABEL) == "manager"
        and entry.bound
        and entry.generation == generation(seen, swarm, entry.bound)
    ]
    if not waiting:
        return None
    # A dead manager counts in every quorum: no other joins them while it is on the list (I7).
    dead = [entry for entry in swarm.entries if entry.role == "manager" and not _alive(entry)]
    if dead or (seen.notes.demoted is not None and now - seen.notes.demoted < DEMOTED):
        return None
    return Decision("ROSTER", "%s is to be a manager" % waiting[0].name, Promote(waiting[0].id))


def _stale(seen: Observation, swarm: Swarm, now: float) -> Optional[Decision]:
    """Entries that nobody vouched for, of tries that came to nothing (facts S11, S16)."""
    for entry in swarm.entries:
        if not entry.bound and entry.role == "worker" and gone(seen, entry, now):
            why = "nobody vouched for %s (%s)" % (entry.id, entry.name or "no name")
            return Decision("ROSTER", why, Remove(entry.id))
    return None


def _deserted(
    config: NodeConfig, seen: Observation, swarm: Swarm, now: float
) -> Optional[Decision]:
    """Entries of nodes that say that they are in no swarm, and cannot ask to join yet."""
    for name, contact in seen.peers.items():
        hello = contact.fresh(now, within=GONE)
        if hello is None or hello.engine != "inactive":
            continue
        claim = Claim(config.cluster, hello.role, name, hello.generation)
        if claim.generation >= generation(seen, swarm, name):
            _, step = make_room(seen, swarm, claim, now)
            if step:
                return step
    return None


def make_room(
    seen: Observation, swarm: Swarm, claim: Claim, now: float
) -> Tuple[str, Optional[Decision]]:
    """What stands between a name and a new node id: why it has to wait, or the next step.

    ("", None) if nothing does.
    """
    for entry in swarm.entries:
        if entry.bound != claim.name:
            continue
        if lives(seen, entry, now):
            return LIVES, None
        if not gone(seen, entry, now):
            left = GONE - entry.down_for
            return "its old entry may go in %d s" % max(1, left), None
        if entry.role == "manager":
            if not may_lose(swarm, entry):
                return NO_ROOM, None
            why = "a new card of %s asks, its old one is gone" % claim.name
            return "", Decision("ROSTER", why, Demote(entry.id))
        label = swarm.labels.get("%s.%s" % (GENERATION_LABEL, claim.name), "0")
        if not label.isdigit() or claim.generation > int(label):
            why = "cards of %s before generation %d are void" % (claim.name, claim.generation)
            return "", Decision("ROSTER", why, Supersede(claim.name, claim.generation))
        return "", Decision("ROSTER", "the old entry of %s" % claim.name, Remove(entry.id))
    return "", None


def void_older(swarm: Swarm, claim: Claim) -> Optional[Decision]:
    """Have the swarm keep that a newer card was let in, before it is; the first is older than none.

    The leader may lose its power before the new card is bound, and would then let the old one in.
    """
    label = swarm.labels.get("%s.%s" % (GENERATION_LABEL, claim.name), "")
    if claim.generation <= max(1, int(label) if label.isdigit() else 0):
        return None
    why = "cards of %s before generation %d are void" % (claim.name, claim.generation)
    return Decision("ROSTER", why, Supersede(claim.name, claim.generation))


def _labels(config: NodeConfig, swarm: Swarm) -> Optional[Decision]:
    for entry in swarm.entries:
        labels = wanted(config, entry.bound) if entry.bound else {}
        if any(entry.labels.get(key) != text for key, text in labels.items()):
            role = entry.labels.get(ROLE_LABEL, "worker")
            step = Bind(entry.id, entry.bound, entry.generation, role, labels)
            return Decision("ROSTER", "labels of %s" % entry.bound, step)
    return None


def _token(seen: Observation, swarm: Swarm, now: float) -> Optional[Decision]:
    """A token that was given away is changed as soon as nobody is on the way with it."""
    if not seen.notes.token_is_out or pending(seen, swarm, now):
        return None
    return Decision("ROSTER", "the worker token was given away", RotateToken())


def pending(seen: Observation, swarm: Swarm, now: float) -> List[str]:
    """Names that were given a token lately and have not come back with a node id."""
    bound = {(entry.bound, entry.generation) for entry in swarm.entries if entry.ready}
    return [
        granted.name
        for granted in seen.notes.granted
        if now - granted.at < GRANT_LIVES and (granted.name, granted.generation) not in bound
    ]


def _generations(seen: Observation, swarm: Swarm) -> Optional[Decision]:
    known = dict(seen.memory.seen)
    for entry in swarm.entries:
        if entry.bound:
            known[entry.bound] = max(known.get(entry.bound, 0), entry.generation)
    if known == seen.memory.seen:
        return None
    return Decision("ROSTER", "generations", Remember(replace(seen.memory, seen=known)))


def _waits(swarm: Swarm, missing: List[str]) -> str:
    """Who is missing; of who waits for a promotion, whose absence forbids it (I7)."""
    dead = [e.bound or e.name for e in swarm.entries if e.role == "manager" and not _alive(e)]
    waiting = [
        entry.bound
        for entry in swarm.entries
        if entry.ready and entry.role == "worker" and entry.labels.get(ROLE_LABEL) == "manager"
    ]
    text = ", ".join(missing)
    if dead and waiting:
        text += "; %s is promoted when %s is back" % (", ".join(waiting), ", ".join(dead))
    return text


def _alive(manager: Entry) -> bool:
    return manager.reachable and manager.ready


def _missing(config: NodeConfig, swarm: Swarm) -> List[str]:
    ready = {
        entry.bound
        for entry in swarm.entries
        if entry.ready and entry.role == entry.labels.get(ROLE_LABEL)
    }
    return [peer.name for peer in config.roster if peer.name not in ready]
