"""The node's memory on disk: checksummed, old or new after a power cut. Shell.

The version before is kept too: a card that rots takes a file with it now and then.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import Dict, Optional

from firstboot import files
from firstboot.model import Memory

MAX_BYTES = 1 << 20
NUMBERS = ("epoch", "founding", "founded", "swarm_epoch")


def load(path: str) -> Optional[Memory]:
    """Give what was kept last, or before that if the last cannot be read; None if nothing was.

    ValueError if there are files and none of them can be read.
    """
    found = [files.read(name, limit=MAX_BYTES) for name in (path, path + ".old")]
    for content in found:
        memory = parse(content) if content is not None else None
        if memory is not None:
            return memory
    if any(content is not None for content in found):
        raise ValueError("%s: neither it nor the one before can be read" % path)
    return None


def keep(path: str, memory: Memory) -> None:
    """Have it on disk when this returns; what was kept before stays beside it."""
    content = files.read(path, limit=MAX_BYTES)
    if content is not None and parse(content) is not None:
        files.replace(path + ".old", content, mode=0o600)
    files.replace(path, dump(memory), mode=0o600)


def dump(memory: Memory) -> bytes:
    """Give the file's bytes: a line of JSON, and a line with its SHA-256."""
    line = json.dumps(asdict(memory), sort_keys=True).encode("ascii")
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode("ascii") + b"\n"


def parse(content: bytes) -> Optional[Memory]:
    """Read such a file; None if it is not whole."""
    line, _, rest = content.partition(b"\n")
    if rest.strip().decode("ascii", "replace") != hashlib.sha256(line).hexdigest():
        return None
    data: Dict[str, object] = json.loads(line.decode("ascii"))
    seen = data.get("seen")
    if not isinstance(seen, dict):
        return None
    numbers = {key: int(str(data.get(key, 0))) for key in NUMBERS}
    return Memory(seen={str(name): int(number) for name, number in seen.items()}, **numbers)


def lost(path: str, *, epoch: int) -> Memory:
    """What to believe when the memory cannot be read: that this card's permit is used up.

    The files are kept aside for a person to look at.
    """
    for name in (path, path + ".old"):
        if os.path.exists(name):
            os.replace(name, name + ".broken")
    return Memory(epoch=0, founded=epoch)
