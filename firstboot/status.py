"""status.txt on the boot partition: how far the node is, for who puts the card into a computer.

Holds no secret. Written only when it changes: each write wears the card.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional

from firstboot import files
from firstboot.decide import Decision
from firstboot.nodeconfig import NodeConfig

MAX_BYTES = 65536


@dataclass(frozen=True)
class Status:
    """What status.txt says. `since`: UTC seconds by the Pi's clock, which may be behind."""

    config: Optional[NodeConfig]
    decision: Decision
    since: int


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
            ("epoch", str(config.epoch)),
        ]
    lines += [
        ("phase", status.decision.phase),
        ("since", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(status.since))),
        ("next", status.decision.next),
        ("why", status.decision.why),
    ]
    if status.decision.remedy:
        lines.append(("remedy", status.decision.remedy))
    return "".join("%-11s %s\n" % (key + ":", value) for key, value in lines)


def write(path: str, text: str) -> bool:
    """Put the text into status.txt, if it says something else; say whether it was written."""
    content = text.encode("utf-8")
    if files.read(path, limit=MAX_BYTES) == content:
        return False
    files.replace(path, content, mode=0o644)
    return True
