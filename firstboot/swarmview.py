"""dockerd's own JSON -> Engine, Swarm, Entry, and since when each of them is as it is. Pure."""

from __future__ import annotations

import base64
import calendar
import hashlib
import time
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from firstboot.model import Engine, Entry, Swarm

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGEST = 50  # characters of the CA's digest in a join token (facts S15)


@dataclass(frozen=True)
class View:
    """What was seen of the engine in one look. `since`: when it last began or ceased to answer."""

    engine: Optional[Engine]
    swarm: Optional[Swarm]
    since: float


class Tracker:
    """Remembers from look to look since when things are as they are."""

    def __init__(self, *, begun: float) -> None:
        self._answers: Tuple[bool, float] = (False, begun)
        self._state: Tuple[str, float] = ("", 0.0)
        self._down: Dict[str, float] = {}

    def follow(self, raw: Optional[Mapping[str, Any]], now: float) -> View:
        """Take in one look of `engine.Docker`; None if dockerd did not answer."""
        if self._answers[0] != (raw is not None):
            self._answers = (raw is not None, now)
        if raw is None:
            return View(None, None, self._answers[1])
        engine = read_engine(raw["info"])
        if self._state[0] != engine.state:
            self._state = (engine.state, now)
        engine = replace(engine, since=self._state[1])
        swarm = read_swarm(raw["swarm"], raw["nodes"]) if raw.get("swarm") else None
        if swarm is None:
            # What was not watched cannot be said to have been down all the time (invariant I6).
            self._down = {}
        else:
            down = {entry.id for entry in swarm.entries if not entry.ready}
            self._down = {id_: self._down.get(id_, now) for id_ in down}
            entries = tuple(
                replace(entry, down_for=now - self._down[entry.id]) if entry.id in down else entry
                for entry in swarm.entries
            )
            swarm = replace(swarm, entries=entries)
        return View(engine, swarm, self._answers[1])


def read_engine(info: Mapping[str, Any]) -> Engine:
    """Read `GET /info`; its own certificate and CA are not in there.

    Here and below, what is of another type than dockerd has it counts as missing.
    """
    swarm = _object(info, "Swarm")
    return Engine(
        state=str(swarm.get("LocalNodeState") or "inactive"),
        since=0.0,
        node_id=str(swarm.get("NodeID") or ""),
        manager=bool(swarm.get("ControlAvailable")),
        error=str(swarm.get("Error") or ""),
    )


def read_swarm(swarm: Mapping[str, Any], nodes: Optional[List[Dict[str, Any]]]) -> Swarm:
    """Read `GET /swarm` and `GET /nodes`."""
    spec = _object(swarm, "Spec")
    root = str(_object(swarm, "TLSInfo").get("TrustRoot") or "").encode()
    rotations = _object(spec, "CAConfig").get("ForceRotate")
    return Swarm(
        id=str(swarm.get("ID") or ""),
        labels=_labels(spec),
        rotations=rotations if isinstance(rotations, int) else 0,
        rotating=bool(swarm.get("RootRotationInProgress")),
        ca_since=not_before(root),
        entries=tuple(read_entry(node) for node in nodes or ()),
    )


def read_entry(node: Mapping[str, Any]) -> Entry:
    """Read one of `GET /nodes`."""
    spec, status = _object(node, "Spec"), _object(node, "Status")
    manager = _object(node, "ManagerStatus")
    address = str(status.get("Addr") or "")
    if address in ("", "0.0.0.0", "127.0.0.1"):  # noqa: S104 - read, not bound
        # Of a manager itself the list has no address of its own but the one it advertises.
        address = str(manager.get("Addr") or "").rpartition(":")[0]
    return Entry(
        id=str(node.get("ID") or ""),
        name=str(_object(node, "Description").get("Hostname") or ""),
        address=address,
        role=str(spec.get("Role") or "worker"),
        ready=status.get("State") == "ready",
        leader=bool(manager.get("Leader")),
        reachable=manager.get("Reachability") == "reachable",
        labels=_labels(spec),
    )


def _object(thing: Mapping[str, Any], name: str) -> Dict[str, Any]:
    found = thing.get(name)
    return found if isinstance(found, dict) else {}


def _labels(spec: Mapping[str, Any]) -> Dict[str, str]:
    return {key: str(text) for key, text in _object(spec, "Labels").items()}


def ca_digest(pem: bytes) -> str:
    """Give the digest of a root CA's PEM file as join tokens carry it; empty for an empty file."""
    if not pem.strip():
        return ""
    number = int.from_bytes(hashlib.sha256(pem).digest(), "big")
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = _DIGITS[rest] + text
    return text.rjust(_DIGEST, "0")


def not_before(pem: bytes) -> float:
    """Give notBefore of the first certificate, UTC seconds; 0 if there is none to be read."""
    _, _, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
    body = rest.partition(b"-----END CERTIFICATE-----")[0]
    try:
        return _validity(base64.b64decode(body)) if body else 0.0
    except (ValueError, IndexError):
        return 0.0


def _validity(der: bytes) -> float:
    """RFC 5280, 4.1: Certificate{ tbsCertificate{ [0], serial, algorithm, issuer, validity."""
    inside, _ = _open(der, 0)
    at, _ = _open(der, inside)
    if der[at] == 0xA0:
        at = _end(der, at)
    for _ in range(3):
        at = _end(der, at)
    first, _ = _open(der, at)
    begin, end = _open(der, first)
    text = der[begin:end].decode("ascii")
    if der[first] == 0x17:  # UTCTime: two digits of the year, 50 to 49
        text = ("19" if text[:2] >= "50" else "20") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _open(der: bytes, at: int) -> Tuple[int, int]:
    """Give where the content of the element at `at` begins and ends (X.690, 8.1.3)."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + size], "big"), begin + size
    return begin, begin + length


def _end(der: bytes, at: int) -> int:
    return _open(der, at)[1]
