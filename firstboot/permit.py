"""The permit to found a swarm and the charter of its epoch, by the standard library. Pure.

A permit is the seed's alone; its charter only says that the operator allowed that epoch, and goes
to every node, so that nobody follows an epoch that was made up.

RSASSA-PKCS1-v1_5 with SHA-256, checked by building the one right block and comparing it whole
(RFC 8017, 8.2.2); nothing of the signature is ever parsed, so there is no padding to forge.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import Dict

KINDS = ("genesis", "rejoin", "rebuild")
MAX_BYTES = 8192

_EXPONENT = 65537
_MIN_BITS = 2048
_MAX_BITS = 8192
# RFC 8017, 9.2, note 1: the DER of DigestInfo for SHA-256, up to the hash itself.
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_HEX = re.compile(r"[0-9a-f]+")


class PermitError(ValueError):
    """The permit does not allow this node to found this cluster's swarm."""


@dataclass(frozen=True)
class Permit:
    """Leave for one flash of one seed to found the swarm of one epoch."""

    cluster: str
    seed: str
    generation: int
    epoch: int
    kind: str


def verify(text: str, *, modulus: str, cluster: str, node: str) -> Permit:
    """Give the permit, if it was signed by the key of `modulus` (hex) for this cluster and node.

    PermitError says what is wrong. The caller compares generation and epoch with its own.
    """
    permit = _read(_signed(text, modulus=modulus))
    if permit.cluster != cluster:
        raise PermitError("permit: for cluster %s, this is %s" % (permit.cluster, cluster))
    if permit.seed != node:
        raise PermitError("permit: for node %s, this is %s" % (permit.seed, node))
    return permit


def verify_charter(text: str, *, modulus: str, cluster: str) -> int:
    """Give the epoch, if the key of `modulus` (hex) chartered it for this cluster."""
    payload = _signed(text, modulus=modulus)
    data = _fields(payload, {"charter": str, "epoch": int})
    if data["charter"] != cluster:
        raise PermitError("charter: for cluster %s, this is %s" % (data["charter"], cluster))
    epoch = data["epoch"]
    if not isinstance(epoch, int) or epoch < 1:
        raise PermitError("charter: epoch %s: they start at 1" % epoch)
    return epoch


def _signed(text: str, *, modulus: str) -> bytes:
    """Give the payload of a signed text."""
    if len(text) > MAX_BYTES:
        raise PermitError("permit: larger than %d bytes" % MAX_BYTES)
    outer = _object(text, "permit", {"payload": str, "signature": str})
    payload = _decode(str(outer["payload"]))
    _check_signature(payload, signature=str(outer["signature"]), modulus=modulus)
    return payload


def _fields(payload: bytes, fields: Dict[str, type]) -> Dict[str, object]:
    try:
        return _object(payload.decode("ascii"), "permit: payload", fields)
    except UnicodeDecodeError:
        raise PermitError("permit: payload is not ASCII") from None


def _read(payload: bytes) -> Permit:
    fields = {"cluster": str, "seed": str, "generation": int, "epoch": int, "kind": str}
    permit = Permit(**_fields(payload, fields))  # type: ignore[arg-type]
    if permit.kind not in KINDS:
        raise PermitError("permit: kind %s is not one of %s" % (permit.kind, ", ".join(KINDS)))
    if permit.generation < 1 or permit.epoch < 1:
        raise PermitError(
            "permit: generation %d, epoch %d: both start at 1" % (permit.generation, permit.epoch)
        )
    return permit


def _object(text: str, what: str, fields: Dict[str, type]) -> Dict[str, object]:
    """Read a JSON object with exactly these members, written canonically: one text per meaning."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise PermitError("%s: not JSON" % what) from None
    if not isinstance(data, dict) or set(data) != set(fields):
        raise PermitError("%s: not an object of %s" % (what, ", ".join(sorted(fields))))
    for key, kind in fields.items():
        if type(data[key]) is not kind:
            raise PermitError("%s: %s is not of type %s" % (what, key, kind.__name__))
    if json.dumps(data, sort_keys=True, separators=(",", ":")) != text.rstrip("\n"):
        raise PermitError("%s: not in canonical form" % what)
    return data


def _decode(text: str) -> bytes:
    try:
        payload = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PermitError("permit: payload is not base64") from None
    if base64.b64encode(payload).decode("ascii") != text:
        raise PermitError("permit: payload is not in canonical base64")
    return payload


def _check_signature(payload: bytes, *, signature: str, modulus: str) -> None:
    if not _HEX.fullmatch(modulus) or len(modulus) * 4 > _MAX_BITS:
        raise PermitError("permit: the permit key of node.json is not an RSA modulus in hex")
    n = int(modulus, 16)
    if n.bit_length() < _MIN_BITS or n % 2 == 0:
        raise PermitError("permit: the permit key of node.json is too weak to trust")
    size = (n.bit_length() + 7) // 8
    if len(signature) != 2 * size or not _HEX.fullmatch(signature):
        raise PermitError("permit: the signature is not %d bytes in hex" % size)
    s = int(signature, 16)
    if s >= n:
        raise PermitError("permit: the signature is out of range")
    block = _opened(s, n).to_bytes(size, "big")
    if not hmac.compare_digest(block, _expected(payload, size=size)):
        raise PermitError("permit: the signature is not that of this cluster's permit key")


@functools.lru_cache(maxsize=8)
def _opened(s: int, n: int) -> int:
    """RSAVP1 (RFC 8017, 5.2.2); kept, for a seed that waits looks at its permit every second."""
    return pow(s, _EXPONENT, n)


def _expected(payload: bytes, *, size: int) -> bytes:
    """EMSA-PKCS1-v1_5 (RFC 8017, 9.2): 00 01 FF..FF 00 DigestInfo hash."""
    end = b"\x00" + _DIGEST_INFO + hashlib.sha256(payload).digest()
    return b"\x00\x01" + b"\xff" * (size - 2 - len(end)) + end
