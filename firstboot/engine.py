"""dockerd over its unix socket, by the standard library: one call each, bounded. Shell.

No error and no log line that comes from here holds a token.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from firstboot.model import (
    CHARTER_LABEL,
    EPOCH_LABEL,
    GENERATION_LABEL,
    NAME_LABEL,
    ROLE_LABEL,
    Bind,
    Grant,
    Token,
)

API = "/v1.40"  # Docker 19.03; every later engine up to now still speaks it or says so (404, 400)
SWARM_PORT = 2377
MAX_BYTES = 8 << 20
PIECE = 1 << 16
CALL = 20.0  # seconds
JOIN = 50.0  # facts S2: dockerd itself gives up after 20 s, and goes on in the background
RESTART = 120.0
TEN_YEARS = 87600 * 3600 * 10**9  # ns

_TOKEN = re.compile(r"SWMTKN\S*")


class EngineError(Exception):
    """dockerd refused, or did not answer; the message is its own, without tokens."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Docker:
    """One engine. `socket_path`: where it listens; `restart`: the command that restarts it.

    `call`: seconds for a call that dockerd answers out of its own memory.
    """

    def __init__(
        self,
        socket_path: str = "/var/run/docker.sock",
        *,
        restart: Tuple[str, ...] = ("systemctl", "restart", "docker.service"),
        call: float = CALL,
    ) -> None:
        self._path = socket_path
        self._seconds = call
        self._restart = restart
        self._api = ""

    # --- looking --------------------------------------------------------------------------------

    def look(self) -> Optional[Dict[str, Any]]:
        """Give `info`, and of a manager with a quorum `swarm` and `nodes`; None if it is silent."""
        try:
            info = self._get("/info")
        except (EngineError, OSError):
            self._api = ""
            return None
        found: Dict[str, Any] = {"info": info, "swarm": None, "nodes": None}
        if (info.get("Swarm") or {}).get("ControlAvailable"):
            try:
                found["swarm"], found["nodes"] = self._get("/swarm"), self._list("/nodes")
            except (EngineError, OSError):
                found["swarm"] = found["nodes"] = None
        return found

    def worker_token(self) -> Token:
        """Give the token that lets workers in."""
        return Token(str(self._get("/swarm")["JoinTokens"]["Worker"]))

    # --- the swarm ------------------------------------------------------------------------------

    def init(self, address: str, *, epoch: int, charter: str) -> None:
        """Found a swarm with its epoch among its labels."""
        spec = {
            "Labels": {EPOCH_LABEL: str(epoch), CHARTER_LABEL: charter},
            "CAConfig": {"NodeCertExpiry": TEN_YEARS},
        }
        listen = "0.0.0.0:%d" % SWARM_PORT
        self._post(
            "/swarm/init",
            {
                "ListenAddr": listen,
                "AdvertiseAddr": address,
                "ForceNewCluster": False,
                "Spec": spec,
            },
            seconds=JOIN,
        )

    def rotate_ca(self) -> None:
        """Have the root CA made anew, for certificates of ten years (facts S5)."""
        swarm = self._get("/swarm")
        spec = dict(swarm["Spec"])
        ca = dict(spec.get("CAConfig") or {})
        ca["NodeCertExpiry"] = TEN_YEARS
        ca["ForceRotate"] = int(ca.get("ForceRotate") or 0) + 1
        spec["CAConfig"] = ca
        self._post("/swarm/update?version=%d" % _version(swarm), spec)

    def rotate_worker_token(self) -> None:
        """Make the worker token anew; the old one is worth nothing from then on."""
        swarm = self._get("/swarm")
        self._post(
            "/swarm/update?version=%d&rotateWorkerToken=true" % _version(swarm), swarm["Spec"]
        )

    def supersede(self, name: str, generation: int) -> None:
        """Write into the swarm that cards of this name below the generation are void."""
        swarm = self._get("/swarm")
        labels = dict(swarm["Spec"].get("Labels") or {})
        labels["%s.%s" % (GENERATION_LABEL, name)] = str(generation)
        self._post("/swarm/update?version=%d" % _version(swarm), dict(swarm["Spec"], Labels=labels))

    def join(self, address: str, grant: Grant) -> None:
        """Join as a worker. An error here does not mean that it did not succeed (facts S17)."""
        body = {
            "ListenAddr": "0.0.0.0:%d" % SWARM_PORT,
            "AdvertiseAddr": address,
            "RemoteAddrs": ["%s:%d" % (grant.address, SWARM_PORT)],
            "JoinToken": grant.token.reveal(),
        }
        self._post("/swarm/join", body, seconds=JOIN)

    def leave(self) -> None:
        """Leave the swarm, whatever state it is in here."""
        self._post("/swarm/leave?force=true", None, seconds=JOIN)

    # --- nodes, by id ---------------------------------------------------------------------------

    def bind(self, step: Bind) -> None:
        """Write who a node is, and its labels; other labels stay."""
        labels = {
            NAME_LABEL: step.name,
            GENERATION_LABEL: str(step.generation),
            ROLE_LABEL: step.role,
        }
        self._change(step.node_id, labels=dict(step.labels, **labels))

    def promote(self, node_id: str) -> None:
        """Make a worker a manager."""
        self._change(node_id, role="manager")

    def demote(self, node_id: str) -> None:
        """Make a manager a worker."""
        self._change(node_id, role="worker")

    def remove(self, node_id: str) -> None:
        """Take a node off the list. dockerd refuses one that is ready, or a manager."""
        self._call("DELETE", "/nodes/%s?force=false" % node_id, None)

    def _change(
        self, node_id: str, *, labels: Optional[Mapping[str, str]] = None, role: str = ""
    ) -> None:
        node = self._get("/nodes/%s" % node_id)
        spec = dict(node["Spec"])
        if labels is not None:
            spec["Labels"] = dict(spec.get("Labels") or {}, **labels)
        if role:
            spec["Role"] = role
        self._post("/nodes/%s/update?version=%d" % (node_id, _version(node)), spec)

    # --- the engine itself ----------------------------------------------------------------------

    def restart(self) -> None:
        """Restart dockerd by the system's own means."""
        try:
            done = subprocess.run(
                self._restart,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RESTART,
                env=dict(os.environ, LC_ALL="C"),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError("%s: %s" % (" ".join(self._restart), error)) from None
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()[-200:]
            raise EngineError("%s: %s" % (" ".join(self._restart), _clean(said)))

    # --- calls ----------------------------------------------------------------------------------

    def _get(self, path: str) -> Dict[str, Any]:
        data = _json(self._call("GET", path, None))
        if not isinstance(data, dict):
            raise EngineError("dockerd: %s is no object" % path)
        return data

    def _list(self, path: str) -> List[Dict[str, Any]]:
        data = _json(self._call("GET", path, None))
        if not isinstance(data, list):
            raise EngineError("dockerd: %s is no list" % path)
        return data

    def _post(self, path: str, body: object, *, seconds: float = 0.0) -> None:
        self._call("POST", path, body, seconds=seconds)

    def _call(self, method: str, path: str, body: object, *, seconds: float = 0.0) -> bytes:
        if not self._api:
            self._api = self._negotiated()
        status, content = self._ask(
            method, self._api + path, body, seconds=seconds or self._seconds
        )
        if status >= 400:
            raise EngineError(_message(content) or "dockerd answers %d" % status)
        return content

    def _negotiated(self) -> str:
        """Version 1.40, or the oldest that an engine of later days still speaks."""
        status, content = self._ask("GET", "/version", None, seconds=self._seconds)
        data = _json(content) if status == 200 else None
        least = data.get("MinAPIVersion", "") if isinstance(data, dict) else ""
        parts = [int(part) for part in str(least).split(".") if part.isdigit()]
        return "/v%d.%d" % (parts[0], parts[1]) if len(parts) == 2 and parts > [1, 40] else API

    def _ask(self, method: str, path: str, body: object, *, seconds: float) -> Tuple[int, bytes]:
        connection = _Connection(self._path, timeout=seconds)
        deadline = time.monotonic() + seconds
        try:
            text = None if body is None else json.dumps(body)
            headers = {} if text is None else {"Content-Type": "application/json"}
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            content = _content(response, deadline=deadline)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                "dockerd: %s" % (_clean(str(error)) or type(error).__name__)
            ) from None
        finally:
            connection.close()
        if len(content) > MAX_BYTES:
            raise EngineError("dockerd: an answer of more than %d bytes" % MAX_BYTES)
        return response.status, content


def _content(response: http.client.HTTPResponse, *, deadline: float) -> bytes:
    """Read an answer, at most a piece more than MAX_BYTES of it; OSError if it takes too long.

    In pieces: http.client makes a buffer of the size that it is asked for, however short the
    answer is, and the memory of one of MAX_BYTES stayed with the process for good.
    """
    content = b""
    while len(content) <= MAX_BYTES:
        if time.monotonic() > deadline:
            # The timeout of a socket is of each piece.
            raise OSError("timed out")
        piece = response.read1(PIECE)
        if not piece:
            break
        content += piece
    return content


def _version(thing: Mapping[str, Any]) -> int:
    return int(thing["Version"]["Index"])


def _json(content: bytes) -> object:
    try:
        return json.loads(content.decode("utf-8"))
    except ValueError:
        raise EngineError("dockerd: its answer is not JSON") from None


def _message(content: bytes) -> str:
    try:
        data = json.loads(content.decode("utf-8", "replace"))
    except ValueError:
        return ""
    return _clean(str(data.get("message", ""))) if isinstance(data, dict) else ""


def _clean(text: str) -> str:
    return _TOKEN.sub("SWMTKN-***", text)[:500]
