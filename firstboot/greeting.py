"""What a node says of itself to the others, of what it observed and decided. Pure.

The service and the simulator share it, so that both say the same things.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping, Optional, Tuple

from firstboot.leader import founded
from firstboot.model import CHARTER_LABEL, Decision, Hello, Observation, Swarm
from firstboot.nodeconfig import NodeConfig

You = Tuple[str, float]  # swarm node id, seconds


def hello(config: NodeConfig, seen: Observation, decision: Decision) -> Hello:
    """Give the hello, without what differs from caller to caller (`addressed`)."""
    kept, swarm, engine = seen.memory, seen.swarm, seen.engine
    leaders = [entry for entry in swarm.entries if entry.leader] if swarm else []
    mine = bool(leaders and engine and leaders[0].id == engine.node_id)
    settled = swarm is not None and kept.swarm_epoch == swarm.epoch
    inside = engine is not None and engine.state == "active"
    return Hello(
        name=config.name,
        role=config.role,
        generation=config.generation,
        epoch=kept.epoch,
        charter=swarm.labels.get(CHARTER_LABEL, "") if swarm and settled else "",
        phase="BLOCKED" if decision.reason else decision.phase,
        engine=engine.state if engine else "",
        node_id=engine.node_id if engine else "",
        swarm_id=swarm.id if swarm else "",
        swarm_epoch=kept.swarm_epoch if inside else 0,
        was_member=max(kept.swarm_epoch, kept.founding, kept.founded) > 0,
        quorum=bool(leaders) and settled,
        leader=config.name if mine else (leaders[0].bound if leaders else ""),
        grants=bool(swarm and mine and settled and not swarm.rotating and founded(seen, swarm)),
        ca=engine.ca if engine else "",
        time=seen.clock.time,
        quality=seen.clock.quality,
    )


def bound(swarm: Optional[Swarm]) -> Dict[str, You]:
    """Give the swarm node id that each name is bound to, and for how long it has not been ready."""
    if swarm is None:
        return {}
    return {one.bound: (one.id, one.down_for) for one in swarm.entries if one.bound}


def addressed(hello: Hello, you: Mapping[str, You], name: str) -> Hello:
    """Give the hello as it is said to one node."""
    node_id, down = you.get(name, ("", 0.0))
    return replace(hello, you=node_id, you_down=down)
