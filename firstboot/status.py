"""status.txt on the boot partition: how far the node is, for who puts the card into a computer.

Holds no secret. Written only when it says something else: each write wears the card.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional

from firstboot import files
from firstboot.model import Decision
from firstboot.nodeconfig import NodeConfig
from firstboot.reasons import REASONS

MAX_BYTES = 65536


@dataclass(frozen=True)
class Status:
    """What status.txt says. `since`: UTC seconds by the Pi's clock, which may be behind.

    `epoch`: of the newest swarm that the node has seen, 0 if it has seen none.
    """

    config: Optional[NodeConfig]
    decision: Decision
    since: int
    epoch: int = 0


def render(status: Status) -> str:
    """Give the text of status.txt."""
    lines = []
    config = status.config
    if config is not None:
        lines += [
            ("node", config.name),
            ("cluster", config.cluster),
            ("role", config.role),
            ("generation", str(config.generation)),
            ("epoch", str(status.epoch or config.epoch)),
        ]
    blocked = status.decision.reason
    lines += [
        ("phase", "BLOCKED" if blocked else status.decision.phase),
        ("since", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(status.since))),
        ("why", status.decision.why),
    ]
    if blocked:
        lines += [("reason", blocked), ("remedy", remedy(blocked, config=config))]
    return "".join("%-11s %s\n" % (key + ":", value) for key, value in lines)


def remedy(reason: str, *, config: Optional[NodeConfig]) -> str:
    """What a person can do about a reason of the closed list."""
    text = REASONS[reason]
    if config is None:
        return text.replace("{name}", "NAME").replace("{seed}", "the first manager")
    return text.replace("{name}", config.name).replace("{seed}", config.seed.name)


def write(path: str, text: str) -> bool:
    """Put the text into status.txt, if it says something else; say whether it was written."""
    content = text.encode("utf-8")
    if files.read(path, limit=MAX_BYTES) == content:
        return False
    files.replace(path, content, mode=0o644)
    return True
