"""Before every start of dockerd: state files that would end it are put aside. Shell.

Facts S9: a zero-length docker-state.json or state.json ends dockerd at its start.
"""

from __future__ import annotations

import json
import os
from typing import List

from firstboot import files

STATE_FILES = ("swarm/docker-state.json", "swarm/state.json")
MAX_BYTES = 1 << 20


def put_aside(docker: str) -> List[str]:
    """Move what is no JSON to NAME.broken; give the names. `docker`: the engine's directory."""
    moved = []
    for name in STATE_FILES:
        path = os.path.join(docker, name)
        content = files.read(path, limit=MAX_BYTES)
        if content is None or _whole(content):
            continue
        os.replace(path, path + ".broken")
        files.sync_directory(os.path.dirname(path))
        moved.append(name)
    return moved


def _whole(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content.decode("utf-8")), (dict, list))
    except ValueError:
        return False
