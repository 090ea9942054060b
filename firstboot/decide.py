"""(NodeConfig, permit) -> what this node would do next, and why. Pure; all policy."""

from __future__ import annotations

from dataclasses import dataclass

from firstboot import permit as permits
from firstboot.nodeconfig import NodeConfig
from firstboot.permit import Permit, PermitError


@dataclass(frozen=True)
class Decision:
    """One step. `phase` is a state of the machine; `remedy` is for what only a person can do."""

    phase: str
    next: str
    why: str
    remedy: str = ""


def decide(config: NodeConfig, *, permit: str) -> Decision:
    """Give the node's next step; `permit` is the text that its card carries, or empty."""
    seed = config.seed
    if config.name != seed.name:
        return Decision(
            "JOIN",
            "would join the swarm of %s at %s" % (seed.name, seed.address),
            "%s is a %s and %s is the seed" % (config.name, config.role, seed.name),
        )
    try:
        granted = _granted(config, permit)
    except PermitError as error:
        return Decision(
            "BLOCKED",
            "nothing",
            str(error),
            remedy="write the card of %s again, from the directory of its cluster file"
            % config.name,
        )
    command = "docker swarm init --advertise-addr %s" % config.address
    return Decision("INIT", _first(granted) + command, _why(config, granted))


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


def _first(granted: Permit) -> str:
    if granted.kind == "rejoin":
        return "would ask every other manager for a swarm to join; if there never was one, run: "
    if granted.kind == "rebuild":
        return "would look 120 s for a swarm with a quorum to join; if there is none, run: "
    return "would run: "


def _why(config: NodeConfig, granted: Permit) -> str:
    return "%s is the seed of %s and holds a %s permit for epoch %d" % (
        config.name,
        config.cluster,
        granted.kind,
        granted.epoch,
    )
