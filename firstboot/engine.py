"""dockerd over its unix socket, by the standard library: one action each, bounded. Shell.

No error and no log line that comes from here holds a token.
"""

from __future__ import annotations

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
MAX_HEAD = 1 << 14
MAX_BYTES = 8 << 20
PIECE = 1 << 16
CALL = 20.0  # seconds
JOIN = 50.0  # facts S2: dockerd itself gives up after 20 s, and goes on in the background
RESTART = 120.0
TEN_YEARS = 87600 * 3600 * 10**9  # ns

_TOKEN = re.compile(r"SWMTKN\S*")
_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class EngineError(Exception):
    """dockerd refused, or did not answer; the message is its own, in one line, without tokens."""


class SlowError(EngineError):
    """dockerd did not answer in the time that it had here; nothing is known of the swarm."""


class Docker:
    """One engine. `socket_path`: where it listens; `restart`: the command that restarts it.

    `call`: seconds for all calls of an action that dockerd answers out of its own memory;
    `patience`: for a restart. After them a method gives up with EngineError, whatever has come.
    """

    def __init__(
        self,
        socket_path: str = "/var/run/docker.sock",
        *,
        restart: Tuple[str, ...] = ("systemctl", "restart", "docker.service"),
        call: float = CALL,
        patience: float = RESTART,
    ) -> None:
        self._path = socket_path
        self._seconds = call
        self._patience = patience
        self._restart = restart
        self._api = ""
        self._trouble = ""

    # --- looking --------------------------------------------------------------------------------

    def look(self) -> Optional[Dict[str, Any]]:
        """Give `info`, and of a manager with a quorum `swarm` and `nodes`; None if it is silent.

        `slow`: those two are missing because dockerd did not answer in time, not because it refused
        them. Why anything is missing is in `trouble` until the next look.
        """
        self._trouble = ""
        try:
            calls = self._calls()
            info = calls.get("/info")
        except EngineError as error:
            self._api = ""
            self._trouble = str(error)
            return None
        found: Dict[str, Any] = {"info": info, "swarm": None, "nodes": None, "slow": False}
        swarm = info.get("Swarm")
        if isinstance(swarm, dict) and swarm.get("ControlAvailable"):
            try:
                found["swarm"], found["nodes"] = calls.get("/swarm"), calls.list("/nodes")
            except EngineError as error:
                self._trouble = str(error)
                found["swarm"] = found["nodes"] = None
                found["slow"] = isinstance(error, SlowError)
        return found

    @property
    def trouble(self) -> str:
        """Why the last look found nothing, or not all: one line, empty if it found everything."""
        return self._trouble

    def worker_token(self) -> Token:
        """Give the token that lets workers in."""
        return Token(_text(self._calls().get("/swarm"), "JoinTokens", "Worker"))

    # --- the swarm ------------------------------------------------------------------------------

    def init(self, address: str, *, epoch: int, charter: str) -> None:
        """Found a swarm with its epoch among its labels."""
        body = {
            "ListenAddr": "0.0.0.0:%d" % SWARM_PORT,
            "AdvertiseAddr": address,
            "ForceNewCluster": False,
            "Spec": {
                "Labels": {EPOCH_LABEL: str(epoch), CHARTER_LABEL: charter},
                "CAConfig": {"NodeCertExpiry": TEN_YEARS},
            },
        }
        self._calls(JOIN).post("/swarm/init", body)

    def rotate_ca(self) -> None:
        """Have the root CA made anew, for certificates of ten years (facts S5)."""
        calls = self._calls()
        swarm = calls.get("/swarm")
        spec = _object(swarm, "Spec")
        ca = _optional(spec, "CAConfig")
        # dockerd would go on with a CA that somebody once gave it, and that has dates of its own.
        for given in ("SigningCACert", "SigningCAKey"):
            ca.pop(given, None)
        ca["NodeCertExpiry"] = TEN_YEARS
        ca["ForceRotate"] = _count(ca, "ForceRotate") + 1
        calls.post("/swarm/update?version=%d" % _version(swarm), dict(spec, CAConfig=ca))

    def rotate_worker_token(self) -> None:
        """Make the worker token anew; the old one is worth nothing from then on."""
        calls = self._calls()
        swarm = calls.get("/swarm")
        where = "/swarm/update?version=%d&rotateWorkerToken=true" % _version(swarm)
        calls.post(where, _object(swarm, "Spec"))

    def supersede(self, name: str, generation: int) -> None:
        """Write into the swarm that cards of this name below the generation are void."""
        calls = self._calls()
        swarm = calls.get("/swarm")
        spec = _object(swarm, "Spec")
        labels = _optional(spec, "Labels")
        labels["%s.%s" % (GENERATION_LABEL, name)] = str(generation)
        calls.post("/swarm/update?version=%d" % _version(swarm), dict(spec, Labels=labels))

    def join(self, address: str, grant: Grant) -> None:
        """Join as a worker. An error here does not mean that it did not succeed (facts S17)."""
        body = {
            "ListenAddr": "0.0.0.0:%d" % SWARM_PORT,
            "AdvertiseAddr": address,
            "RemoteAddrs": ["%s:%d" % (grant.address, SWARM_PORT)],
            "JoinToken": grant.token.reveal(),
        }
        self._calls(JOIN).post("/swarm/join", body)

    def leave(self) -> None:
        """Leave the swarm, whatever state it is in here."""
        self._calls(JOIN).post("/swarm/leave?force=true", None)

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
        self._calls().delete("/nodes/%s?force=false" % _id(node_id))

    def _change(
        self, node_id: str, *, labels: Optional[Mapping[str, str]] = None, role: str = ""
    ) -> None:
        calls = self._calls()
        node = calls.get("/nodes/%s" % _id(node_id))
        spec = dict(_object(node, "Spec"))
        if labels is not None:
            spec["Labels"] = dict(_optional(spec, "Labels"), **labels)
        if role:
            spec["Role"] = role
        calls.post("/nodes/%s/update?version=%d" % (node_id, _version(node)), spec)

    def _calls(self, seconds: float = 0.0) -> _Calls:
        """Begin an action: its calls have so many seconds together."""
        until = time.monotonic() + (seconds or self._seconds)
        if not self._api:
            self._api = _Calls(self._path, "", until=until).spoken()
        return _Calls(self._path, self._api, until=until)

    # --- the engine itself ----------------------------------------------------------------------

    def restart(self) -> None:
        """Restart dockerd by the system's own means."""
        command = " ".join(self._restart)
        try:
            with subprocess.Popen(
                self._restart,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, LC_ALL="C"),
            ) as process:
                try:
                    said = process.communicate(timeout=self._patience)[0]
                except subprocess.TimeoutExpired:
                    # subprocess.run() would wait on for whoever else has its output open.
                    process.kill()
                    raise
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError("%s: %s" % (command, error)) from None
        if process.returncode:
            words = said.decode("utf-8", "replace").strip()[-200:]
            raise EngineError("%s: %s" % (command, _clean(words)))


class _Calls:
    """The calls of one action, which all have to be over at `until` (monotonic)."""

    def __init__(self, path: str, api: str, *, until: float) -> None:
        self._path = path
        self._api = api
        self._until = until

    def get(self, target: str) -> Dict[str, Any]:
        data = _json(self._call("GET", target))
        if not isinstance(data, dict):
            raise EngineError("dockerd: %s is no object" % target)
        return data

    def list(self, target: str) -> List[Dict[str, Any]]:
        data = _json(self._call("GET", target))
        if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
            raise EngineError("dockerd: %s is no list of objects" % target)
        return data

    def post(self, target: str, body: object) -> None:
        self._call("POST", target, None if body is None else json.dumps(body).encode("ascii"))

    def delete(self, target: str) -> None:
        self._call("DELETE", target)

    def spoken(self) -> str:
        """Give version 1.40, or the oldest that an engine of later days still speaks."""
        status, content = self._ask("GET", "/version", None)
        data = _json(content) if status == 200 else None
        least = data.get("MinAPIVersion", "") if isinstance(data, dict) else ""
        parts = [int(part) for part in str(least)[:16].split(".") if part.isdigit()]
        return "/v%d.%d" % (parts[0], parts[1]) if len(parts) == 2 and parts > [1, 40] else API

    def _call(self, method: str, target: str, body: Optional[bytes] = None) -> bytes:
        status, content = self._ask(method, self._api + target, body)
        if status >= 400:
            raise EngineError(_message(content) or "dockerd answers %d" % status)
        return content

    def _ask(self, method: str, target: str, body: Optional[bytes]) -> Tuple[int, bytes]:
        # To a request of HTTP/1.0 the answer comes in one piece, and its end is that of the
        # connection (RFC 7230, 3.3.1 and 3.3.3).
        head = "%s %s HTTP/1.0\r\nHost: docker\r\n" % (method, target)
        if body is not None:
            head += "Content-Type: application/json\r\n"
        head += "Content-Length: %d\r\n\r\n" % len(body or b"")
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(self._left())
                channel.connect(self._path)
                channel.sendall(head.encode("ascii") + (body or b""))
                return self._answer(channel)
        except (socket.timeout, BlockingIOError):
            # The second: too many wait already to be taken up by it (unix(7), EAGAIN).
            raise SlowError("dockerd: no answer in time") from None
        except OSError as error:
            raise EngineError("dockerd: %s" % (error.strerror or error)) from None

    def _answer(self, channel: socket.socket) -> Tuple[int, bytes]:
        data, status, begin, length = bytearray(), 0, 0, -1
        while length < 0 or len(data) < begin + length:
            channel.settimeout(self._left())
            piece = channel.recv(PIECE)
            if not piece:
                break
            data += piece
            if not begin:
                status, begin, length = _head(data)
            if max(len(data) - begin, length) > MAX_BYTES:
                raise EngineError("dockerd: an answer of more than %d bytes" % MAX_BYTES)
        if not begin or len(data) < begin + length:
            raise EngineError("dockerd: it hung up in the middle of an answer")
        return status, bytes(data[begin:])

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise socket.timeout
        return left


def _head(data: bytearray) -> Tuple[int, int, int]:
    """Give the status, where the content begins (0: not yet there), its length (-1: to the end)."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            raise EngineError("dockerd: headers of more than %d bytes" % MAX_HEAD)
        return 0, 0, -1
    head = bytes(data[: end + 2])
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if not status or _CHUNKED.search(head):
        raise EngineError("dockerd: its answer is not HTTP/1.0")
    return int(status.group(1)), end + 4, int(length.group(1)) if length else -1


def _id(text: str) -> str:
    """Check what becomes a part of a URL; a peer may have said it."""
    if not _ID.fullmatch(text):
        raise EngineError("not the id of a node")
    return text


def _version(thing: Mapping[str, Any]) -> int:
    index = _count(_object(thing, "Version"), "Index")
    if not index:
        raise EngineError("dockerd: its answer has no version")
    return index


def _object(thing: Mapping[str, Any], name: str) -> Dict[str, Any]:
    found = thing.get(name)
    if not isinstance(found, dict):
        raise EngineError("dockerd: its answer has no %s" % name)
    return found


def _optional(thing: Mapping[str, Any], name: str) -> Dict[str, Any]:
    found = thing.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _count(thing: Mapping[str, Any], name: str) -> int:
    found = thing.get(name)
    return found if isinstance(found, int) else 0


def _text(thing: Mapping[str, Any], *names: str) -> str:
    for name in names[:-1]:
        thing = _object(thing, name)
    found = thing.get(names[-1])
    if not found or not isinstance(found, str):
        raise EngineError("dockerd: its answer has no %s" % ".".join(names))
    return found


def _json(content: bytes) -> object:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise EngineError("dockerd: its answer is not JSON") from None


def _message(content: bytes) -> str:
    try:
        data = _json(content)
    except EngineError:
        return ""
    said = data.get("message") if isinstance(data, dict) else None
    return _clean(said) if isinstance(said, str) else ""


def _clean(text: str) -> str:
    """Make one line of it, of at most 500 characters."""
    return _TOKEN.sub("SWMTKN-***", " ".join(text[:4000].split()))[:500]
