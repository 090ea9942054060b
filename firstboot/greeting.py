"""What a node says of itself to the others, of what it observed and decided. Pure.

The service and the simulator share it, so that both say the same things.
"""

from __future__ import annotations

from typing import Dict, Optional

from firstboot.leader import founded
from firstboot.model import CHARTER_LABEL, Decision, Hello, Observation, Swarm
from firstboot.nodeconfig import NodeConfig


def hello(config: NodeConfig, seen: Observation, decision: Decision) -> Hello:
    """Give the hello; `you` is left empty, for it differs from caller to caller."""
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


def bound(swarm: Optional[Swarm]) -> Dict[str, str]:
    """Give the swarm node id that each name is bound to."""
    return {entry.bound: entry.id for entry in swarm.entries if entry.bound} if swarm else {}
