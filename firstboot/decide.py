"""(NodeConfig, Observation, now) -> Decision: what this node does next, and why. Pure; all policy.

One action a turn, then everything is observed anew; nothing here is remembered from turn to turn.
What the leader does for others is in leader.py, what it answers them in admission.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional, Tuple

from firstboot import admission, leader
from firstboot import permit as permits
from firstboot.model import (
    AskJoin,
    Decision,
    Engine,
    FallToFloor,
    Hello,
    Init,
    Join,
    Leave,
    Memory,
    Observation,
    RaiseAddress,
    Remember,
    ReportJoined,
    RestartDocker,
    StepClock,
)
from firstboot.nodeconfig import NodeConfig
from firstboot.permit import Permit, PermitError

FRESH = 15.0  # seconds for which a peer's word counts
DOCKER_PATIENCE = 120.0  # until dockerd's silence is told as a trouble
NTP_PATIENCE = 90.0  # the founder waits that long for a true time
REBUILD_PATIENCE = 120.0  # and a rebuilt one that long for an older swarm
JOIN_PATIENCE = 45.0  # facts S2: a good join takes 0.3 s, a hopeless one hangs for ever
PROBE_PATIENCE = 120.0  # until a missing leader is told as a trouble
QUORUM_PATIENCE = 60.0
RESTART_AGAIN = 300.0  # between two restarts of dockerd
# dockerd tries again by itself, after 30 s at most (daemon/cluster/noderunner.go). A restart that
# meets such a try can take the second manager off in the middle of its promotion, and with it the
# quorum (seen with 20.10 on a machine with too much to do).
BY_ITSELF = 35.0
CLOCK_SLACK = 2.0  # between clocks that are as good as equal
# Facts S1: swarmkit dates its root certificate back by about 5 minutes, no more.
CLOCK_BEHIND = 240.0
# What a founder's clock may be ahead of floor plus time since power-on. dockerd can do nothing
# with a root certificate from the future, it cannot even replace it (seen with 20.10); one
# from the past is good for years. So the swarm is rather founded too early. Less than facts S1's
# 5 minutes does no harm.
UNEXPLAINED = 240.0
HOPELESS = 150.0  # seconds without being bound after a join; a reason is told before
STUCK = 120.0  # seconds of the same failure until it is told as a trouble
STRANGER = 3  # answers of "not of this swarm" in a row that are believed


def decide(config: NodeConfig, permit: str, seen: Observation, now: float) -> Decision:
    """Give the next step; `permit` is the text that the node's card carries, or empty."""
    decision = _next(config, permit, seen, now)
    failing = seen.notes.failing
    if failing is None or decision.reason or now - failing.since < STUCK:
        return decision
    doing = "Join" if decision.phase == "JOIN" else type(decision.action).__name__
    if doing != _kind(failing.action):
        return decision
    # It is tried again all the same (invariant L4: whatever does not progress says why).
    return replace(decision, why=failing.why, reason="disk" if failing.disk else "stuck")


def _kind(action: str) -> str:
    """A join that fails is asked for anew each time: to a person that is one step."""
    return "Join" if action == "AskJoin" else action


def _next(config: NodeConfig, permit: str, seen: Observation, now: float) -> Decision:
    if seen.engine is None:
        reason = "docker" if now - seen.engine_since > DOCKER_PATIENCE else ""
        why = seen.trouble or "dockerd does not answer"
        return Decision("DOCKER", why, wait=1.0, reason=reason)
    if not seen.address_up:
        return Decision("DOCKER", "%s is not on this node" % config.address, RaiseAddress())
    newest = _newest_epoch(seen, now)
    if newest > seen.memory.epoch:
        why = "a swarm of epoch %d exists" % newest
        return Decision("OBSERVE", why, Remember(replace(seen.memory, epoch=newest)))
    flashed = _flashed_again(seen, now)
    if flashed:
        why = "a newer card of %s" % ", ".join(sorted(flashed))
        kept = replace(seen.memory, seen=dict(seen.memory.seen, **flashed))
        return Decision("OBSERVE", why, Remember(kept))
    answer = admission.answer(config, seen, now)
    if answer:
        return answer
    if seen.notes.refusal == "superseded":
        return Decision("BLOCKED", "a newer card was flashed", wait=30.0, reason="superseded")
    return _by_state(config, permit, seen, seen.engine, now)


def _by_state(
    config: NodeConfig, permit: str, seen: Observation, engine: Engine, now: float
) -> Decision:
    if engine.state == "inactive":
        return _inactive(config, permit, seen, now)
    if engine.state == "pending" and engine.certified and _member(seen.memory):
        return _starting(config, seen, engine, now)
    if engine.state == "pending":
        if now - engine.since < JOIN_PATIENCE:
            return Decision("JOIN", "dockerd is joining", wait=0.5)
        return Decision("LEAVE", "the join came to nothing in %d s" % JOIN_PATIENCE, Leave())
    if engine.state in ("error", "locked"):
        newer = _overtaken(seen, engine, now)
        if newer:
            return newer
    if engine.state == "error":
        return _error(config, seen, engine, now)
    if engine.state == "active":
        if engine.manager:
            return _manager(config, seen, engine, now)
        return _worker(config, seen, engine, now)
    return Decision("BLOCKED", "the swarm is %s" % engine.state, wait=10.0, reason="locked")


# --- outside of a swarm -------------------------------------------------------------------------


def _inactive(config: NodeConfig, permit: str, seen: Observation, now: float) -> Decision:
    if config.name != config.seed.name or _leaders(seen, now):
        return _join(seen, now)
    try:
        granted = _granted(config, permit)
    except PermitError as error:
        return Decision("BLOCKED", str(error), wait=10.0, reason="no-permit")
    if _may_found(config, seen):
        return _found(config, granted, seen, now)
    if seen.memory.founded == config.epoch and not _other_managers(config):
        why = "this card founded the swarm of epoch %d, whose database was here" % config.epoch
        return Decision("BLOCKED", why, wait=10.0, reason="swarm-lost")
    step = _join(seen, now)
    if step.reason == "no-leader":
        # To the seed itself nobody can say that it should be turned on.
        return replace(step, reason="managers-silent")
    return step


def _granted(config: NodeConfig, text: str) -> Permit:
    if not text:
        raise PermitError("permit: the seed's card carries none")
    granted = permits.verify(
        text, modulus=config.permit_key, cluster=config.cluster, node=config.name
    )
    if (granted.generation, granted.epoch) != (config.generation, config.epoch):
        raise PermitError(
            "permit: for generation %d, epoch %d; this card has generation %d, epoch %d"
            % (granted.generation, granted.epoch, config.generation, config.epoch)
        )
    return granted


def _may_found(config: NodeConfig, seen: Observation) -> bool:
    """The permit is not used up, and no swarm of its epoch or a later one was ever seen."""
    kept = seen.memory
    return not kept.swarm_epoch and kept.founded < config.epoch and kept.epoch < config.epoch


def _found(config: NodeConfig, granted: Permit, seen: Observation, now: float) -> Decision:
    hindrance = _hindrance(config, granted, seen, now)
    if hindrance:
        return hindrance
    waited = now - seen.begun
    if seen.clock.quality != "ntp" and waited < NTP_PATIENCE:
        return Decision("CLOCK", "waits for the time (NTP)", wait=min(2.0, NTP_PATIENCE - waited))
    if seen.clock.quality != "ntp" and seen.clock.time - seen.clock.floor - now > UNEXPLAINED:
        return Decision("CLOCK", "nobody vouches for its time: back to the floor", FallToFloor())
    why = "%s is the seed of %s and holds a %s permit for epoch %d" % (
        config.name,
        config.cluster,
        granted.kind,
        granted.epoch,
    )
    if seen.memory.founding != granted.epoch:
        # Kept before the call: whatever happens in it, this card is the one that may repeat it.
        return Decision("INIT", why, Remember(replace(seen.memory, founding=granted.epoch)))
    return Decision("INIT", why, Init(granted.epoch))


def _hindrance(
    config: NodeConfig, granted: Permit, seen: Observation, now: float
) -> Optional[Decision]:
    """What the permit's kind asks for before `swarm init`, if it is not given yet."""
    if granted.kind == "rebuild":
        left = REBUILD_PATIENCE - (now - max(seen.begun, _last_quorum(seen)))
        if left > 0:
            return Decision("PROBE", "looks for an older swarm that lives", wait=min(2.0, left))
    if granted.kind == "rejoin":
        silent, members = _others(config, seen, now)
        if members:
            why = "%s was in a swarm of this cluster, whose quorum does not answer"
            return _managers_silent(why % ", ".join(members), seen, now)
        if silent:
            return _managers_silent("%s does not answer" % ", ".join(silent), seen, now)
    return None


def _managers_silent(why: str, seen: Observation, now: float) -> Decision:
    blocked = now - seen.begun > PROBE_PATIENCE
    return Decision("PROBE", why, wait=2.0, reason="managers-silent" if blocked else "")


def _others(config: NodeConfig, seen: Observation, now: float) -> Tuple[List[str], List[str]]:
    """Of the other managers: which do not answer, and which ever were in a swarm."""
    silent, members = [], []
    for name in _other_managers(config):
        hello = _hello(seen, name, now)
        if hello is None:
            silent.append(name)
        elif hello.was_member or hello.engine != "inactive":
            members.append(name)
    return silent, members


def _join(seen: Observation, now: float) -> Decision:
    leaders = _leaders(seen, now)
    if not leaders:
        reason = "no-leader" if now - max(seen.begun, seen.engine_since) > PROBE_PATIENCE else ""
        why = "no manager with a quorum answers"
        return Decision("PROBE", why, wait=1.0, reason=reason)
    chosen = leaders[0]
    ahead = chosen.time + (now - seen.peers[chosen.name].heard) - seen.clock.time
    if ahead > CLOCK_SLACK and seen.clock.quality != "ntp":
        why = "%s is %d s ahead (its clock: %s)" % (chosen.name, ahead, chosen.quality)
        return Decision("CLOCK", why, StepClock(seen.clock.time + ahead))
    if ahead > CLOCK_BEHIND:
        why = "the clock of %s is %d s ahead of NTP" % (chosen.name, ahead)
        return Decision("CLOCK", why, wait=5.0, reason="clock")
    grant = seen.notes.grant
    if grant and grant.swarm_id == chosen.swarm_id and now - grant.at < JOIN_PATIENCE:
        return Decision("JOIN", "%s gave a token" % chosen.name, Join(grant))
    since, reason = seen.notes.refused_since, _refusal(seen, now)
    why = seen.notes.refusal if reason else "%s leads" % chosen.name
    if since is not None and now - since < 1.0:
        return Decision("JOIN", seen.notes.refusal, wait=1.0 - (now - since), reason=reason)
    return Decision("JOIN", why, AskJoin(chosen.name), reason=reason)


def _refusal(seen: Observation, now: float) -> str:
    """The reason that a person has to hear: the leader says no, or "later" for minutes."""
    first = seen.notes.refused_first
    if first is None or not seen.notes.refusal:
        return ""
    if seen.notes.refused:
        return "refused"
    if now - first < PROBE_PATIENCE:
        return ""
    return {leader.LIVES: "name-taken", leader.NO_ROOM: "no-quorum"}.get(
        seen.notes.refusal, "stuck"
    )


def _leaders(seen: Observation, now: float) -> List[Hello]:
    """Leaders that let nodes in, of no older epoch than was ever seen; the newest epoch first."""
    least = max(1, seen.memory.epoch)
    fit = [one for one in _hellos(seen, now) if one.grants and one.swarm_epoch >= least]
    return sorted(fit, key=lambda hello: (-hello.swarm_epoch, hello.name))


# --- in a swarm ---------------------------------------------------------------------------------


def _starting(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    """A member's dockerd is "pending" too, from each start until its agent has found a leader.

    Without a quorum that may last for days, and to leave would destroy the swarm's database.
    """
    waited = now - max(seen.begun, engine.since)
    chosen = _leader_of(seen, now)
    why = "dockerd looks for the leader of its swarm"
    if chosen is not None and chosen.you != engine.node_id and waited > JOIN_PATIENCE:
        return Decision("LEAVE", "%s does not know this node any more" % chosen.name, Leave())
    if chosen is not None and _may_restart(config, seen, now) and waited > HOPELESS:
        # The leader knows it and its agent does not get through: a new one may.
        return Decision("RECOVER", why, RestartDocker())
    reason = "no-quorum" if config.role == "manager" else "no-leader"
    return Decision("MEMBER", why, wait=0.5, reason=reason if waited > PROBE_PATIENCE else "")


def _member(memory: Memory) -> bool:
    """It is in a swarm of this cluster, or was, or may have founded one."""
    return max(memory.swarm_epoch, memory.founding, memory.founded) > 0


def _error(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
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


def _worker(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    chosen = _leader_of(seen, now)
    if chosen is None:
        silent = now - max(seen.begun, _last_word(seen)) > PROBE_PATIENCE
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
        waited = now - max(seen.begun, engine.since) > PROBE_PATIENCE
        why = "waits for its promotion"
        return Decision("MEMBER", why, wait=1.0, reason="promotion" if waited else "")
    return Decision("READY", "worker of the swarm that %s leads" % chosen.name, wait=10.0)


def _down(config: NodeConfig, seen: Observation, seconds: float, now: float) -> Decision:
    """In the swarm, but the leader's engine has not heard this one's agent for so long."""
    why = "its engine does not reach the leader's"
    if seconds > HOPELESS and _may_restart(config, seen, now):
        return Decision("RECOVER", why, RestartDocker())
    return Decision("MEMBER", why, wait=1.0, reason="cut-off" if seconds > PROBE_PATIENCE else "")


def _may_restart(config: NodeConfig, seen: Observation, now: float) -> bool:
    """A manager's dockerd may be one that the quorum needs."""
    restarted = seen.notes.restarted
    again = restarted is None or now - restarted > RESTART_AGAIN
    return config.role == "worker" and again


def _report(chosen: Hello, seen: Observation, engine: Engine, now: float) -> Decision:
    since, reason = seen.notes.refused_since, _refusal(seen, now)
    if since is not None and now - since < 2.0:
        wait = 2.0 - (now - since)
        return Decision("MEMBER", seen.notes.refusal, wait=wait, reason=reason)
    why = seen.notes.refusal if reason else "tells %s which node it is" % chosen.name
    return Decision("MEMBER", why, ReportJoined(chosen.name, engine.node_id), reason=reason)


def _certified_in_the_future(seen: Observation, engine: Engine, chosen: Hello, now: float) -> bool:
    """Facts S16: the clock was put back. Only leaving helps, and only once the leader agrees."""
    apart = abs(chosen.time + (now - seen.peers[chosen.name].heard) - seen.clock.time)
    return engine.certified > seen.clock.time + CLOCK_BEHIND and apart < CLOCK_BEHIND


def _manager(config: NodeConfig, seen: Observation, engine: Engine, now: float) -> Decision:
    swarm, memory = seen.swarm, seen.memory
    if swarm is None:
        newer = _overtaken(seen, engine, now)
        if newer:
            return newer
        waited = now - max(seen.begun, engine.since) > QUORUM_PATIENCE
        why = "manager; the swarm has no quorum"
        # Alone, it is the quorum.
        reason = "no-quorum" if _other_managers(config) else "docker"
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
    later = [hello for hello in _leaders(seen, now) if hello.swarm_epoch > swarm.epoch]
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
    chosen = _leader_of(seen, now)
    if chosen is None:
        waited = now - max(seen.begun, _last_word(seen)) > PROBE_PATIENCE
        why = "manager; the leader does not answer"
        return Decision("MEMBER", why, wait=1.0, reason="no-leader" if waited else "")
    return _report(chosen, seen, engine, now)


def _overtaken(seen: Observation, engine: Engine, now: float) -> Optional[Decision]:
    """Another swarm of a later epoch lets nodes in, and this node's own cannot be asked."""
    newer = [one for one in _leaders(seen, now) if one.swarm_epoch > seen.memory.swarm_epoch]
    if not newer or engine.ca == newer[0].ca:
        return None
    why = "epoch %d has been founded; this node's swarm does not answer"
    return Decision("LEAVE", why % newer[0].swarm_epoch, Leave())


# --- what peers say -----------------------------------------------------------------------------


def _hello(seen: Observation, name: str, now: float) -> Optional[Hello]:
    for hello in _hellos(seen, now):
        if hello.name == name:
            return hello
    return None


def _hellos(seen: Observation, now: float) -> List[Hello]:
    """What was said lately, by cards that no newer one has made void."""
    fresh = [contact.fresh(now, within=FRESH) for contact in seen.peers.values()]
    known = seen.memory.seen
    return [one for one in fresh if one and one.generation >= known.get(one.name, 0)]


def _flashed_again(seen: Observation, now: float) -> Dict[str, int]:
    """Managers of a newer generation than is known; nothing is older than the first one."""
    known = seen.memory.seen
    return {
        one.name: one.generation
        for one in _hellos(seen, now)
        if one.role == "manager" and one.generation > max(1, known.get(one.name, 0))
    }


def _leader_of(seen: Observation, now: float) -> Optional[Hello]:
    """The leader of the newest epoch that answers, also while it lets nobody in."""
    fit = [
        hello
        for hello in _hellos(seen, now)
        if hello.quorum
        and hello.leader == hello.name
        and hello.swarm_epoch >= max(1, seen.memory.epoch)
    ]
    return max(fit, key=lambda hello: hello.swarm_epoch) if fit else None


def _newest_epoch(seen: Observation, now: float) -> int:
    """The highest epoch of a swarm that has a quorum; peers.py checked the charters."""
    led = [hello.swarm_epoch for hello in _hellos(seen, now) if hello.quorum]
    return max([seen.memory.epoch, *led])


def _last_quorum(seen: Observation) -> float:
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


def _last_word(seen: Observation) -> float:
    heard = [contact.heard for contact in seen.peers.values() if contact.hello]
    return max(heard) if heard else seen.begun


def _other_managers(config: NodeConfig) -> List[str]:
    return [
        peer.name for peer in config.roster if peer.role == "manager" and peer.name != config.name
    ]
