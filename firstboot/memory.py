"""The node's memory on disk: checksummed, old or new after a power cut. Shell.

The version before is kept too: a card that rots takes a file with it now and then.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from typing import Dict, Optional, Tuple

from firstboot import files
from firstboot.model import Memory

MAX_BYTES = 1 << 20
NUMBERS = ("epoch", "founding", "founded", "swarm_epoch")


def load(path: str, *, lost: Memory) -> Tuple[Memory, str]:
    """Give what was kept last, and what is wrong with it: empty if nothing is.

    `lost`: what to believe if there is nothing to read. It is then kept, so that it is believed at
    the next start too; what could not be read stays beside it for a person to look at.
    """
    for name in (path, path + ".old"):
        content = files.read(name, limit=MAX_BYTES)
        memory = parse(content) if content is not None else None
        if memory is None:
            continue
        if name == path:
            return memory, ""
        # It lacks the last thing that was kept: at worst, that the permit is used up.
        kept = replace(memory, founded=max(memory.founded, memory.founding, lost.founded))
        return _instead(path, kept), "%s cannot be read; the one before is believed" % path
    return _instead(path, lost), "%s cannot be read: this card founds no swarm any more" % path


def _instead(path: str, memory: Memory) -> Memory:
    content = files.read(path, limit=MAX_BYTES)
    if content is not None:
        files.create(path + ".broken", content, mode=0o600)
    files.replace(path, dump(memory), mode=0o600)
    return memory


def begin(path: str) -> None:
    """Keep that nothing has happened yet; from then on a missing memory is a lost one."""
    if not os.path.exists(path):
        files.replace(path, dump(Memory(epoch=0)), mode=0o600)


def lost(*, epoch: int, seed: bool) -> Memory:
    """What a node of an epoch believes without a memory: it was in a swarm, its permit is used."""
    return Memory(epoch=0, founded=epoch if seed else 0, swarm_epoch=epoch)


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
