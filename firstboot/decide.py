"""(NodeConfig, Observation, now) -> Decision: what this node does next, and why. Pure; all policy.

One action a turn, then everything is observed anew; nothing here is remembered from turn to turn.
What a member does is in member.py, what the leader does for others in leader.py, what it answers
them in admission.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

from firstboot import admission, hearing, member
from firstboot import permit as permits
from firstboot.model import (
    AskJoin,
    Decision,
    Engine,
    FallToFloor,
    Init,
    Join,
    Leave,
    Observation,
    RaiseAddress,
    Remember,
    StepClock,
)
from firstboot.nodeconfig import NodeConfig
from firstboot.permit import Permit, PermitError

DOCKER_PATIENCE = 120.0  # until dockerd's silence is told as a trouble
REBUILD_PATIENCE = 120.0  # and a rebuilt one that long for an older swarm
CLOCK_SLACK = 2.0  # between clocks that are as good as equal
# What a founder's clock may be ahead of floor plus time since power-on. dockerd can do nothing
# with a root certificate from the future, it cannot even replace it (seen with 20.10); one
# from the past is good for years. So the swarm is rather founded too early. Less than facts S1's
# 5 minutes does no harm.
UNEXPLAINED = 240.0
STUCK = 120.0  # seconds of the same failure until it is told as a trouble


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
    newest = hearing.newest_epoch(seen, now)
    if newest > seen.memory.epoch:
        why = "a swarm of epoch %d exists" % newest
        return Decision("OBSERVE", why, Remember(replace(seen.memory, epoch=newest)))
    flashed = hearing.flashed_again(seen, now)
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
    if engine.state == "pending" and engine.certified and member.is_member(seen.memory):
        return member.starting(config, seen, engine, now)
    if engine.state == "pending":
        if now - engine.since < member.JOIN_PATIENCE:
            return Decision("JOIN", "dockerd is joining", wait=0.5)
        return Decision("LEAVE", "the join came to nothing in %d s" % member.JOIN_PATIENCE, Leave())
    if engine.state in ("error", "locked"):
        newer = member.overtaken(seen, engine, now)
        if newer:
            return newer
    if engine.state == "error":
        return member.in_error(config, seen, engine, now)
    if engine.state == "active":
        if engine.manager:
            return member.manager(config, seen, engine, now)
        return member.worker(config, seen, engine, now)
    return Decision("BLOCKED", "the swarm is %s" % engine.state, wait=10.0, reason="locked")


# --- outside of a swarm -------------------------------------------------------------------------


def _inactive(config: NodeConfig, permit: str, seen: Observation, now: float) -> Decision:
    if config.name != config.seed.name or hearing.leaders(seen, now):
        return _join(seen, now)
    try:
        granted = _granted(config, permit)
    except PermitError as error:
        return Decision("BLOCKED", str(error), wait=10.0, reason="no-permit")
    if _may_found(config, seen):
        return _found(config, granted, seen, now)
    if seen.memory.founded == config.epoch and not hearing.other_managers(config):
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
    if seen.clock.quality != "ntp" and waited < member.NTP_PATIENCE:
        return Decision(
            "CLOCK", "waits for the time (NTP)", wait=min(2.0, member.NTP_PATIENCE - waited)
        )
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
        left = REBUILD_PATIENCE - (now - max(seen.begun, hearing.last_quorum(seen)))
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
    blocked = now - seen.begun > hearing.PATIENCE
    return Decision("PROBE", why, wait=2.0, reason="managers-silent" if blocked else "")


def _others(config: NodeConfig, seen: Observation, now: float) -> Tuple[List[str], List[str]]:
    """Of the other managers: which do not answer, and which ever were in a swarm."""
    silent, members = [], []
    for name in hearing.other_managers(config):
        hello = hearing.hello_of(seen, name, now)
        if hello is None:
            silent.append(name)
        elif hello.was_member or hello.engine != "inactive":
            members.append(name)
    return silent, members


def _join(seen: Observation, now: float) -> Decision:
    leaders = hearing.leaders(seen, now)
    if not leaders:
        reason = "no-leader" if now - max(seen.begun, seen.engine_since) > hearing.PATIENCE else ""
        why = "no manager with a quorum answers"
        return Decision("PROBE", why, wait=1.0, reason=reason)
    chosen = leaders[0]
    ahead = chosen.time + (now - seen.peers[chosen.name].heard) - seen.clock.time
    if ahead > CLOCK_SLACK and seen.clock.quality != "ntp":
        why = "%s is %d s ahead (its clock: %s)" % (chosen.name, ahead, chosen.quality)
        return Decision("CLOCK", why, StepClock(seen.clock.time + ahead))
    if ahead > member.CLOCK_BEHIND:
        why = "the clock of %s is %d s ahead of NTP" % (chosen.name, ahead)
        return Decision("CLOCK", why, wait=5.0, reason="clock")
    grant = seen.notes.grant
    if grant and grant.swarm_id == chosen.swarm_id and now - grant.at < member.JOIN_PATIENCE:
        return Decision("JOIN", "%s gave a token" % chosen.name, Join(grant))
    since, reason = seen.notes.refused_since, hearing.refusal(seen, now)
    why = seen.notes.refusal if reason else "%s leads" % chosen.name
    if since is not None and now - since < 1.0:
        return Decision("JOIN", seen.notes.refusal, wait=1.0 - (now - since), reason=reason)
    return Decision("JOIN", why, AskJoin(chosen.name), reason=reason)
