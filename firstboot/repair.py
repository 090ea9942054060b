"""Before every start of dockerd: state files that would end it are put aside. Shell.

Facts S9: a zero-length docker-state.json or state.json ends dockerd at its start. Without
state.json a manager goes on, and a worker finds no manager; without docker-state.json either of
them is in no swarm, although its certificate and its raft log are there. The list of image names
ends dockerd just so (seen with 20.10); without it images stay, and are named by the next pull.
"""

from __future__ import annotations

import glob
import json
import os
from typing import List

from firstboot import files

STATE = "swarm/docker-state.json"
REMOTES = "swarm/state.json"
IMAGES = "image/*/repositories.json"
CERTIFICATE = "swarm/certificates/swarm-node.crt"
MAX_BYTES = 1 << 20
_SWARM_PORT = 2377
_DATA_PORT = 4789  # what `swarm init` writes if it is not told another


def put_aside(docker: str, *, address: str = "") -> List[str]:
    """Move what dockerd cannot read to NAME.broken; give the names. OSError if a file resists."""
    return [name for name in suspects(docker) if mend(docker, name, address=address)]


def suspects(docker: str) -> List[str]:
    """Give the names of the files that end dockerd if they are torn. `docker`: its directory."""
    images = sorted(glob.glob(os.path.join(glob.escape(docker), IMAGES)))
    return [STATE, REMOTES, *(os.path.relpath(path, docker) for path in images)]


def mend(docker: str, name: str, *, address: str = "") -> bool:
    """Move one of them to NAME.broken if it is torn; say whether it was. OSError if it resists.

    `address`: of this node in the cluster. If it is given, a node that has a certificate gets a new
    docker-state.json in place of a torn one, and so keeps its swarm.
    """
    path = os.path.join(docker, name)
    content = files.read(path, limit=MAX_BYTES)
    if content is None or len(content) > MAX_BYTES or _readable(name, content):
        return False
    if name == STATE and address and files.read(os.path.join(docker, CERTIFICATE), limit=1):
        files.create(path + ".broken", content, mode=0o600)
        files.replace(path, _state(address), mode=0o600)
    else:
        os.replace(path, path + ".broken")
        files.sync_directory(os.path.dirname(path))
    return True


def _readable(name: str, content: bytes) -> bool:
    try:
        data = json.loads(content.decode("utf-8"))
    except ValueError:
        return False
    if name == REMOTES:
        return data is None or isinstance(data, list)
    if name != STATE:
        return isinstance(data, dict)
    # An object without it ends dockerd just so: "could not parse listen address".
    return isinstance(data, dict) and bool(data.get("ListenAddr"))


def _state(address: str) -> bytes:
    """What dockerd starts its swarm node with (moby, daemon/cluster/noderunner.go).

    With LocalAddr it asks the kernel for no route to the manager it once joined at.
    """
    data = {
        "LocalAddr": address,
        "ListenAddr": "0.0.0.0:%d" % _SWARM_PORT,
        "AdvertiseAddr": "%s:%d" % (address, _SWARM_PORT),
        "DataPathPort": _DATA_PORT,
    }
    return json.dumps(data).encode()
