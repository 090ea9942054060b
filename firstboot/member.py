"""What a node does that is in a swarm, or was: by the state of its engine. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from firstboot import hearing, leader
from firstboot.model import (
    Decision,
    Engine,
    Hello,
    Leave,
    Memory,
    Observation,
    Remember,
    ReportJoined,
    RestartDocker,
)
from firstboot.nodeconfig import NodeConfig

JOIN_PATIENCE = 45.0  # facts S2: a good join takes 0.3 s, a hopeless one hangs for ever
QUORUM_PATIENCE = 60.0
NTP_PATIENCE = 90.0  # the founder waits that long for a true time
RESTART_AGAIN = 300.0  # between two restarts of dockerd
# dockerd tries again by itself, after 30 s at most (daemon/cluster/noderunner.go). A restart that
# meets such a try can take the second manager off in the middle of its promotion, and with it the
# quorum (seen with 20.10 on a machine with too much to do).
BY_ITSELF = 35.0
# Facts S1: swarmkit dates its root certificate back by about 5 minutes, no more.
CLOCK_BEHIND = 240.0
HOPELESS = 150.0  # seconds without being bound after a join; a reason is told before
STRANGER = 3  # answers of "not of this swarm" in a row that are believed


def starting(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    """A member's dockerd is "pending" too, from each start until its agent has found a leader.

    Without a quorum that may last for days, and to leave would destroy the swarm's database.
    """
    waited = now - max(seen.begun, engine.since)
    chosen = hearing.leader_of(seen, now)
    why = "dockerd looks for the leader of its swarm"
    if chosen is not None and chosen.you != engine.node_id and waited > JOIN_PATIENCE:
        return Decision("LEAVE", "%s does not know this node any more" % chosen.name, Leave())
    if chosen is not None and _may_restart(config, seen, now) and waited > HOPELESS:
        # The leader knows it and its agent does not get through: a new one may.
        return Decision("RECOVER", why, RestartDocker())
    reason = "no-quorum" if config.role == "manager" else "no-leader"
    return Decision("MEMBER", why, wait=0.5, reason=reason if waited > hearing.PATIENCE else "")


def is_member(memory: Memory) -> bool:
    """It is in a swarm of this cluster, or was.

    A founding that was cut off is none: nobody can have joined, and it may have no raft on disk.
    """
    return max(memory.swarm_epoch, memory.founded) > 0


def in_error(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    """Its engine has given its swarm up: wait, restart it, in the end leave and join again."""
    why = "dockerd cannot take part in its swarm: %s" % (engine.error or "it does not say why")
    restarted = seen.notes.restarted
    if not seen.memory.swarm_epoch and not seen.memory.founded:
        return Decision("LEAVE", why, Leave())
    if not engine.stale_clock and now - engine.since < BY_ITSELF:
        return Decision("RECOVER", why, wait=2.0)
    if engine.stale_clock or restarted is None or now - restarted > RESTART_AGAIN:
        return Decision("RECOVER", why, RestartDocker())
    if now - max(restarted, engine.since) < QUORUM_PATIENCE:
        return Decision("RECOVER", why, wait=2.0)
    if config.role == "manager":
        return Decision("BLOCKED", why, wait=10.0, reason="swarm-error")
    return Decision("LEAVE", why, Leave())


def worker(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    """It is a worker by its engine, whatever it is to be."""
    chosen = hearing.leader_of(seen, now)
    if chosen is None:
        silent = now - max(seen.begun, hearing.last_word(seen)) > hearing.PATIENCE
        why = "in the swarm; its leader does not answer"
        return Decision("MEMBER", why, wait=1.0, reason="no-leader" if silent else "")
    # The memory follows a join only once the leader has bound this node; the CA tells at once whose
    # swarm it is (facts S15).
    newer = 0 < seen.memory.swarm_epoch < chosen.swarm_epoch
    if newer and engine.ca != chosen.ca:
        why = "epoch %d has been founded; this node is in %d"
        return Decision("LEAVE", why % (chosen.swarm_epoch, seen.memory.swarm_epoch), Leave())
    if seen.notes.strangers >= STRANGER:
        return Decision("LEAVE", "%s does not know this node's swarm" % chosen.name, Leave())
    if chosen.grants and _certified_in_the_future(seen, engine, chosen, now):
        return Decision("LEAVE", "its certificate begins in the future", Leave())
    if chosen.you != engine.node_id:
        first = seen.notes.refused_first
        if first is not None and now - first > HOPELESS:
            # Its agent cannot reach the swarm, and its entry stays while this node answers.
            return Decision("LEAVE", "its join came to nothing: %s" % seen.notes.refusal, Leave())
        return _report(chosen, seen, engine, now)
    if seen.memory.swarm_epoch != chosen.swarm_epoch:
        memory = replace(seen.memory, swarm_epoch=chosen.swarm_epoch)
        return Decision("MEMBER", "in the swarm of epoch %d" % chosen.swarm_epoch, Remember(memory))
    if chosen.you_down:
        return _down(config, seen, chosen.you_down, now)
    if config.role == "manager":
        waited = now - max(seen.begun, engine.since) > hearing.PATIENCE
        why = "waits for its promotion"
        return Decision("MEMBER", why, wait=1.0, reason="promotion" if waited else "")
    return Decision("READY", "worker of the swarm that %s leads" % chosen.name, wait=10.0)


def _down(config: NodeConfig, seen: Observation, seconds: float, now: float) -> Decision:
    """In the swarm, but the leader's engine has not heard this one's agent for so long."""
    why = "its engine does not reach the leader's"
    if seconds > HOPELESS and _may_restart(config, seen, now):
        return Decision("RECOVER", why, RestartDocker())
    return Decision("MEMBER", why, wait=1.0, reason="cut-off" if seconds > hearing.PATIENCE else "")


def _may_restart(config: NodeConfig, seen: Observation, now: float) -> bool:
    """A manager's dockerd may be one that the quorum needs."""
    restarted = seen.notes.restarted
    again = restarted is None or now - restarted > RESTART_AGAIN
    return config.role == "worker" and again


def _report(chosen: Hello, seen: Observation, engine: Engine, now: float) -> Decision:
    since, reason = seen.notes.refused_since, hearing.refusal(seen, now)
    if since is not None and now - since < 2.0:
        wait = 2.0 - (now - since)
        return Decision("MEMBER", seen.notes.refusal, wait=wait, reason=reason)
    why = seen.notes.refusal if reason else "tells %s which node it is" % chosen.name
    return Decision("MEMBER", why, ReportJoined(chosen.name, engine.node_id), reason=reason)


def _certified_in_the_future(seen: Observation, engine: Engine, chosen: Hello, now: float) -> bool:
    """Facts S16: the clock was put back. Only leaving helps, and only once the leader agrees."""
    apart = abs(chosen.time + (now - seen.peers[chosen.name].heard) - seen.clock.time)
    return engine.certified > seen.clock.time + CLOCK_BEHIND and apart < CLOCK_BEHIND


def manager(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    """It is a manager by its engine; who leads has more to do (leader.py)."""
    swarm, memory = seen.swarm, seen.memory
    if swarm is None:
        newer = overtaken(seen, engine, now)
        if newer:
            return newer
        waited = now - max(seen.begun, engine.since) > QUORUM_PATIENCE
        why = "manager; the swarm has no quorum"
        # Alone, it is the quorum.
        reason = "no-quorum" if hearing.other_managers(config) else "docker"
        if reason == "docker" or seen.trouble:
            why = "manager; %s" % (seen.trouble or "dockerd does not show its swarm")
        return Decision("MEMBER", why, wait=1.0, reason=reason if waited else "")
    if not swarm.epoch:
        if memory.founded < memory.founding and len(swarm.entries) == 1:
            # dockerd makes the swarm first and writes its labels a moment later (daemon/cluster/
            # swarm.go, Init): the power was cut between the two, and nobody can have joined yet.
            return Decision("LEAVE", "its founding was cut off; it begins again", Leave())
        why = "this swarm has no %s" % "epoch of piflash"
        return Decision("BLOCKED", why, wait=10.0, reason="foreign-swarm")
    later = [hello for hello in hearing.leaders(seen, now) if hello.swarm_epoch > swarm.epoch]
    if later:
        why = "epoch %d has been founded; this swarm is of %d"
        return Decision("LEAVE", why % (later[0].swarm_epoch, swarm.epoch), Leave())
    founded = swarm.epoch if memory.founding == swarm.epoch else memory.founded
    kept = replace(
        memory, epoch=max(memory.epoch, swarm.epoch), swarm_epoch=swarm.epoch, founded=founded
    )
    if kept != memory:
        return Decision("MEMBER", "in the swarm of epoch %d" % swarm.epoch, Remember(kept))
    mine = [entry for entry in swarm.entries if entry.id == engine.node_id]
    if mine and mine[0].leader:
        if not swarm.rotations and seen.clock.quality != "ntp" and now - seen.begun < NTP_PATIENCE:
            # The power was cut after the founding: the final CA is dated by this boot's clock.
            return Decision("CLOCK", "waits for the time (NTP)", wait=1.0)
        return leader.duty(config, seen, swarm, mine[0], now)
    if mine and mine[0].bound == config.name:
        if mine[0].down_for:
            return _down(config, seen, mine[0].down_for, now)
        return Decision("READY", "manager of the swarm", wait=10.0)
    chosen = hearing.leader_of(seen, now)
    if chosen is None:
        waited = now - max(seen.begun, hearing.last_word(seen)) > hearing.PATIENCE
        why = "manager; the leader does not answer"
        return Decision("MEMBER", why, wait=1.0, reason="no-leader" if waited else "")
    return _report(chosen, seen, engine, now)


def overtaken(seen: Observation, engine: Engine, now: float) -> Optional[Decision]:
    """Another swarm of a later epoch lets nodes in, and this node's own cannot be asked."""
    newer = [one for one in hearing.leaders(seen, now) if one.swarm_epoch > seen.memory.swarm_epoch]
    if not newer or engine.ca == newer[0].ca:
        return None
    why = "epoch %d has been founded; this node's swarm does not answer"
    return Decision("LEAVE", why % newer[0].swarm_epoch, Leave())
