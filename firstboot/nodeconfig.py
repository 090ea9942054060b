"""node.json, the contract between the card's writer and the Pi: parse, dump, and what is valid.

Pure. It holds no secret; a reader of a newer piflash adds keys, never changes the meaning of one.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Pattern, Tuple

VERSION = 1
MAX_BYTES = 1 << 20
ROLES = ("manager", "worker")
INTERFACES = ("eth0", "wlan0")

# Where the card's writer puts things on the boot partition, and the service finds them.
CARD_DIR = "piflash"
NODE_JSON = CARD_DIR + "/node.json"
STATUS_TXT = CARD_DIR + "/status.txt"
IDENTITY_DIR = CARD_DIR + "/identity"
CA_PEM = "ca.pem"
NODE_PEM = "node.pem"
NODE_KEY = "node.key"
PERMIT_JSON = "permit.json"
CHARTER_JSON = "charter.json"
# What is left of the user-data after the first boot: what every boot needs, and no secret.
USER_DATA = "user-data"
USER_DATA_KEPT = CARD_DIR + "/user-data.kept"

# One label of a host name (RFC 1123), in lower case: names become host names and DNS SANs.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODULUS = re.compile(r"[89a-f][0-9a-f]{511,2047}")


class ConfigError(ValueError):
    """node.json is not one that this version can act on; the message names the key and value."""


@dataclass(frozen=True)
class Peer:
    """One node of the roster. `address` is its cluster address, without prefix."""

    name: str
    role: str
    address: str
    seed: bool
    labels: Mapping[str, str]


@dataclass(frozen=True)
class StackRef:
    """A stack that the leader deploys; `sha256` is of its files as they lie on the card."""

    name: str
    sha256: str


@dataclass(frozen=True)
class NodeConfig:
    """What one card knows of its node and its cluster.

    `address` has no prefix, `subnet` has one. `flashed_at`: UTC seconds, the clock's floor.
    `permit_key`: modulus of the permits' RSA key in hex (the exponent is 65537). `roster` has
    every node of the cluster, this one too; exactly one is the seed. `interface` carries
    `address`.
    """

    cluster: str
    name: str
    role: str
    generation: int
    epoch: int
    address: str
    subnet: str
    domain: str
    flashed_at: int
    permit_key: str
    roster: Tuple[Peer, ...]
    interface: str
    stacks: Tuple[StackRef, ...]
    version: int = VERSION

    @property
    def me(self) -> Peer:
        """This node's own entry of the roster."""
        return next(peer for peer in self.roster if peer.name == self.name)

    @property
    def seed(self) -> Peer:
        """The roster's seed."""
        return next(peer for peer in self.roster if peer.seed)


def parse(text: str) -> NodeConfig:
    """Read node.json; keys that it does not know are ignored. ConfigError says what is wrong."""
    if len(text) > MAX_BYTES:
        raise ConfigError("node.json: larger than %d bytes" % MAX_BYTES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("node.json: not JSON: %s" % error) from None
    top = _Object(data, "")
    version = top.integer("version", least=1)
    if version != VERSION:
        raise ConfigError(
            "version: %d, but this firstboot reads version %d: flash the card again with a piflash "
            "that matches" % (version, VERSION)
        )
    config = NodeConfig(
        cluster=top.matching("cluster", _NAME, "a host name of one label"),
        name=top.matching("name", _NAME, "a host name of one label"),
        role=top.one_of("role", ROLES),
        generation=top.integer("generation", least=1),
        epoch=top.integer("epoch", least=1),
        address=top.address("address"),
        subnet=top.subnet("subnet"),
        domain=top.domain("domain"),
        flashed_at=top.integer("flashed_at", least=0),
        permit_key=top.matching("permit_key", _MODULUS, "an RSA modulus in hex"),
        roster=tuple(_peer(item) for item in top.objects("roster")),
        interface=top.one_of("interface", INTERFACES),
        stacks=tuple(_stack(item) for item in top.objects("stacks")),
    )
    _check(config)
    return config


def dump(config: NodeConfig) -> str:
    """Give node.json: sorted, indented, with a newline. ConfigError if `parse` would refuse it."""
    data = {
        "version": config.version,
        "cluster": config.cluster,
        "name": config.name,
        "role": config.role,
        "generation": config.generation,
        "epoch": config.epoch,
        "address": config.address,
        "subnet": config.subnet,
        "domain": config.domain,
        "flashed_at": config.flashed_at,
        "permit_key": config.permit_key,
        "roster": [
            {
                "name": peer.name,
                "role": peer.role,
                "address": peer.address,
                "seed": peer.seed,
                "labels": dict(peer.labels),
            }
            for peer in config.roster
        ],
        "interface": config.interface,
        "stacks": [{"name": stack.name, "sha256": stack.sha256} for stack in config.stacks],
    }
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    parse(text)
    return text


def _peer(item: _Object) -> Peer:
    return Peer(
        name=item.matching("name", _NAME, "a host name of one label"),
        role=item.one_of("role", ROLES),
        address=item.address("address"),
        seed=item.boolean("seed"),
        labels=item.texts("labels"),
    )


def _stack(item: _Object) -> StackRef:
    return StackRef(
        name=item.matching("name", _NAME, "a name of one label"),
        sha256=item.matching("sha256", _SHA256, "a SHA-256 in lower-case hex"),
    )


def _check(config: NodeConfig) -> None:
    """Refuse a configuration whose parts contradict each other."""
    _unique("roster: name", [peer.name for peer in config.roster])
    _unique("roster: address", [peer.address for peer in config.roster])
    _unique("stacks: name", [stack.name for stack in config.stacks])
    seeds = [peer for peer in config.roster if peer.seed]
    if len(seeds) != 1:
        raise ConfigError("roster: %d seeds, there must be exactly one" % len(seeds))
    if seeds[0].role != "manager":
        raise ConfigError("roster: the seed %s is a %s" % (seeds[0].name, seeds[0].role))
    mine = [peer for peer in config.roster if peer.name == config.name]
    if not mine:
        raise ConfigError("roster: this node, %s, is not in it" % config.name)
    if (mine[0].role, mine[0].address) != (config.role, config.address):
        raise ConfigError(
            "roster: %s is a %s at %s, but this node is a %s at %s"
            % (config.name, mine[0].role, mine[0].address, config.role, config.address)
        )
    network = ipaddress.IPv4Network(config.subnet)
    for peer in config.roster:
        if ipaddress.IPv4Address(peer.address) not in network:
            raise ConfigError(
                "roster: %s at %s is outside of %s" % (peer.name, peer.address, config.subnet)
            )


def _unique(what: str, values: List[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError("%s: %s stands there twice" % (what, value))


class _Object:
    """A JSON object whose members are taken out one by one, each with its path in errors."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, dict):
            raise ConfigError("%s: not a JSON object" % (path or "node.json"))
        self._data: Dict[str, object] = data
        self._path = path

    def _error(self, key: str, expected: str) -> ConfigError:
        value = repr(self._data[key])
        short = value if len(value) <= 80 else value[:77] + "..."
        return ConfigError("%s%s: %s is not %s" % (self._path, key, short, expected))

    def _get(self, key: str) -> object:
        if key not in self._data:
            raise ConfigError("%s%s: missing" % (self._path, key))
        return self._data[key]

    def text(self, key: str, expected: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._error(key, expected)
        return value

    def matching(self, key: str, pattern: Pattern[str], expected: str) -> str:
        value = self.text(key, expected)
        if not pattern.fullmatch(value):
            raise self._error(key, expected)
        return value

    def one_of(self, key: str, choices: Tuple[str, ...]) -> str:
        expected = "one of " + ", ".join(choices)
        value = self.text(key, expected)
        if value not in choices:
            raise self._error(key, expected)
        return value

    def integer(self, key: str, least: int) -> int:
        value = self._get(key)
        # A bool is an int to Python, but not in JSON.
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._error(key, "a whole number of at least %d" % least)
        return value

    def boolean(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._error(key, "true or false")
        return value

    def address(self, key: str) -> str:
        expected = "an IPv4 address"
        value = self.text(key, expected)
        try:
            if str(ipaddress.IPv4Address(value)) == value:
                return value
        except ValueError:
            pass
        raise self._error(key, expected)

    def subnet(self, key: str) -> str:
        expected = "an IPv4 network with its prefix"
        value = self.text(key, expected)
        try:
            if str(ipaddress.IPv4Network(value)) == value:
                return value
        except ValueError:
            pass
        raise self._error(key, expected)

    def domain(self, key: str) -> str:
        expected = "a domain name"
        value = self.text(key, expected)
        if len(value) > 253 or not all(_NAME.fullmatch(label) for label in value.split(".")):
            raise self._error(key, expected)
        return value

    def texts(self, key: str) -> Dict[str, str]:
        value = self._get(key)
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self._error(key, "an object of texts")
        return dict(value)

    def objects(self, key: str) -> List[_Object]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self._error(key, "a list")
        return [
            _Object(item, "%s%s[%d]." % (self._path, key, number))
            for number, item in enumerate(value)
        ]
