"""What nodes say to each other, as JSON: hello, join, joined and their answers; who is who. Pure.

A request has exactly the members it is meant to have. Of an answer, members that this version does
not know are ignored, so that cards of two versions can be in one cluster.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Pattern, Tuple

from firstboot.model import QUALITIES, Claim, Hello, Token
from firstboot.nodeconfig import ROLES

PORT = 2378  # beside swarm's own, 2377
MAX_BODY = 4096

# What can be asked for. NEWS is a hello of a manager that says: ask me back, something is new.
HELLO = "/v1/hello"
NEWS = "/v1/hello?news"
JOIN = "/v1/join"
JOINED = "/v1/joined"

STATUSES = ("granted", "bound", "later", "refused", "unknown", "elsewhere")

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME_OR_NONE = re.compile(r"(?:%s)?" % _NAME.pattern)
_ROLE = re.compile("|".join(ROLES))
_QUALITY = re.compile("|".join(QUALITIES))
_ENGINE = re.compile(r"(?:inactive|pending|active|error|locked)?")
_PHASE = re.compile(r"[A-Z]{1,16}")
# Never to be taken for an option of the program that it is passed on to.
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_ID_OR_NONE = re.compile(r"(?:%s)?" % _ID.pattern)
_CHARTER = re.compile(r"[\x20-\x7e\n]{0,2560}")
_STATUS = re.compile("|".join(STATUSES))
_TOKEN = re.compile(r"SWMTKN-1-[0-9a-z]{1,64}-[0-9a-z]{1,64}")
_URI = re.compile(
    r"piflash://(%s)/(%s)/(%s)/([1-9][0-9]{0,8})" % (_NAME.pattern, _ROLE.pattern, _NAME.pattern)
)
_MOST = 10**9  # of epochs and generations
_LAST_SECOND = 253402300799.0  # of the year 9999
_MAX_WHY = 300
_NO_TOKEN = re.compile(r"SWMTKN\S*")


class WireError(ValueError):
    """What came over the wire is not what it should be; the message holds no part of a token."""


@dataclass(frozen=True)
class Reply:
    """The answer to join or joined. Only a granted join has a token, and where to go with it."""

    status: str
    why: str
    leader: str = ""
    token: Optional[Token] = None
    address: str = ""
    swarm_id: str = ""
    epoch: int = 0


def claim(certificate: Mapping[str, Any], *, cluster: str) -> Claim:
    """Give who a certificate of the cluster's CA is for, from the dict of `getpeercert()`.

    WireError unless subject, DNS name and URI are all there, alone, and say the same.
    """
    names = certificate.get("subjectAltName", ())
    uris = [text for kind, text in names if kind == "URI"]
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if not found:
        raise WireError("certificate: not that of a node of piflash")
    made = Claim(found.group(1), found.group(2), found.group(3), int(found.group(4)))
    if made.cluster != cluster:
        raise WireError("certificate: of cluster %s, this is %s" % (made.cluster, cluster))
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    expected = [
        ("commonName", made.name),
        ("organizationName", made.cluster),
        ("organizationalUnitName", made.role),
    ]
    dns = ("DNS", host_name(made.name, cluster=made.cluster))
    if sorted(subject) != expected or sorted(names) != [dns, ("URI", uris[0])]:
        raise WireError("certificate: its subject and names do not agree")
    return made


def host_name(name: str, *, cluster: str) -> str:
    """Give the DNS name that a node's certificate carries; no name server knows it."""
    return "%s.%s.piflash" % (name, cluster)


# --- hello --------------------------------------------------------------------------------------


def dump_hello(hello: Hello) -> bytes:
    """Give the body of a hello; WireError if `parse_hello` would refuse it."""
    body = _dump(asdict(hello))
    parse_hello(body)
    return body


def parse_hello(body: bytes) -> Hello:
    """Read the body of a hello; WireError says which member is wrong."""
    members = _Members(_load(body))
    return Hello(
        name=members.text("name", _NAME),
        role=members.text("role", _ROLE),
        generation=members.number("generation", least=1),
        epoch=members.number("epoch"),
        charter=members.text("charter", _CHARTER),
        phase=members.text("phase", _PHASE),
        engine=members.text("engine", _ENGINE),
        node_id=members.text("node_id", _ID_OR_NONE),
        swarm_id=members.text("swarm_id", _ID_OR_NONE),
        swarm_epoch=members.number("swarm_epoch"),
        was_member=members.flag("was_member"),
        quorum=members.flag("quorum"),
        leader=members.text("leader", _NAME_OR_NONE),
        grants=members.flag("grants"),
        ca=members.text("ca", _ID_OR_NONE),
        time=members.time("time"),
        quality=members.text("quality", _QUALITY),
        you=members.text("you", _ID_OR_NONE),
        you_down=members.time("you_down"),
    )


def vouch(hello: Hello, proved: Claim, *, newest: int = 0) -> None:
    """Raise WireError unless a hello is what the certificate of its sender may say.

    `newest`: the generation of that name that was heard before; with an older card in another Pi
    both answer by turns, and who is busy for a moment would else miss that there is a newer one.
    """
    if hello.generation < newest:
        raise WireError(
            "hello: of generation %d, but there is one of generation %d"
            % (hello.generation, newest)
        )
    if (hello.name, hello.role, hello.generation) != (proved.name, proved.role, proved.generation):
        raise WireError(
            "hello: of %s, a %s, generation %d, but the certificate is of %s, a %s, generation %d"
            % (
                *(hello.name, hello.role, hello.generation),
                *(proved.name, proved.role, proved.generation),
            )
        )
    if proved.role != "manager" and (hello.quorum or hello.grants):
        raise WireError("hello: %s is a worker and speaks as a manager" % hello.name)
    if hello.grants and not (hello.quorum and hello.leader == hello.name):
        raise WireError("hello: %s lets nodes in and does not lead" % hello.name)


# --- join and joined ----------------------------------------------------------------------------


def dump_join() -> bytes:
    """Give the body of a join: who asks and as what is in the certificate alone."""
    return _dump({})


def parse_join(body: bytes) -> None:
    """Raise WireError unless the body asks for nothing but a worker token."""
    _only(_load(body))


def dump_joined(node_id: str) -> bytes:
    """Give the body of a joined: the swarm node id that the caller says it has."""
    return _dump({"node_id": node_id})


def parse_joined(body: bytes) -> str:
    """Give the swarm node id of a joined."""
    data = _load(body)
    _only(data, "node_id")
    return _Members(data).text("node_id", _ID)


def dump_reply(reply: Reply) -> bytes:
    """Give the body of a reply. `why` is cut and cleaned; a token stands in its place only."""
    body = _dump(
        {
            **reply.__dict__,
            "why": line(reply.why),
            "token": reply.token.reveal() if reply.token else "",
        }
    )
    parse_reply(body)
    return body


def parse_reply(body: bytes) -> Reply:
    """Read the body of a reply; WireError says which member is wrong."""
    members = _Members(_load(body))
    status = members.text("status", _STATUS)
    why = members.line("why")
    leader = members.text("leader", _NAME_OR_NONE)
    if not members.has("token"):
        return Reply(status, why, leader)
    if status != "granted":
        raise WireError("token: with the status %s" % status)
    return Reply(
        *(status, why, leader),
        token=Token(members.text("token", _TOKEN)),
        address=members.address("address"),
        swarm_id=members.text("swarm_id", _ID),
        epoch=members.number("epoch", least=1),
    )


def line(text: str) -> str:
    """Give a text as one bounded, printable line without a token in it."""
    clean = "".join(sign if sign.isprintable() else " " for sign in text)
    return _NO_TOKEN.sub("***", clean)[:_MAX_WHY]


# --- JSON ---------------------------------------------------------------------------------------


def _dump(data: Mapping[str, object]) -> bytes:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return text.encode("ascii")


def _load(body: bytes) -> Dict[str, object]:
    if len(body) > MAX_BODY:
        raise WireError("body: larger than %d bytes" % MAX_BODY)
    try:
        data = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except WireError:
        raise
    except (ValueError, RecursionError):
        raise WireError("body: not JSON") from None
    if not isinstance(data, dict):
        raise WireError("body: not a JSON object")
    return data


def _unique(pairs: List[Tuple[str, object]]) -> Dict[str, object]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise WireError("body: a member stands there twice")
    return data


def _no_constant(_name: str) -> NoReturn:
    raise WireError("body: a number that is none")


def _only(data: Mapping[str, object], *known: str) -> None:
    others = sorted(set(data) - set(known))
    if others:
        raise WireError("body: asks for more than it may: %s" % line(", ".join(others))[:80])


class _Members:
    """The members of a JSON object, each with what it must be. No error repeats a value."""

    def __init__(self, data: Mapping[str, object]) -> None:
        self._data = data

    def has(self, key: str) -> bool:
        return self._data.get(key) not in (None, "")

    def text(self, key: str, pattern: Pattern[str]) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise WireError("%s: missing or not what it must be" % key)
        return value

    def line(self, key: str) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or value != line(value):
            raise WireError("%s: missing or not one printable line" % key)
        return value

    def number(self, key: str, *, least: int = 0) -> int:
        value = self._data.get(key)
        # A bool is an int to Python, but not in JSON.
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _MOST:
            raise WireError("%s: missing or not a whole number in its range" % key)
        return value

    def time(self, key: str) -> float:
        value = self._data.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise WireError("%s: missing or not a number" % key)
        if not 0 <= value <= _LAST_SECOND:
            raise WireError("%s: not a time" % key)
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._data.get(key)
        if not isinstance(value, bool):
            raise WireError("%s: missing or not true or false" % key)
        return value

    def address(self, key: str) -> str:
        """An IPv4 address, with a port or without."""
        value = self._data.get(key)
        if isinstance(value, str):
            host, colon, port = value.partition(":")
            try:
                fits = str(ipaddress.IPv4Address(host)) == host
            except ValueError:
                fits = False
            if fits and (not colon or re.fullmatch(r"[1-9][0-9]{0,4}", port)):
                return value
        raise WireError("%s: missing or not an IPv4 address" % key)
