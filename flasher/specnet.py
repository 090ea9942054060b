"""Rules of addresses and networks: the cluster subnet, the nodes' addresses in it, the LAN, Wi-Fi.

All addresses are IPv4 but for name servers.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from flasher.schema import Violation
from flasher.specview import View

FIRST_HOST = 11
SUBNET_PATH = ("network", "cluster_subnet")
_GOOD = tuple(map(IPv4Network, ("198.18.0.0/15", "172.16.0.0/16")))
_ADVICE = "take a /24 of 198.18.0.0/15, such as 198.18.42.0/24"
# libnetwork's default pools (ipamutils) and swarmkit's default-addr-pool, in Docker 19.03 to 29.
_DOCKER = (
    (IPv4Network("172.17.0.0/16"), "the network of Docker's bridge (172.17.0.0/16)"),
    (IPv4Network("172.16.0.0/12"), "Docker's own pool of bridge networks (172.17 to 172.31)"),
    (IPv4Network("192.168.0.0/16"), "Docker's own pool of local networks (192.168.0.0/16)"),
    (IPv4Network("10.0.0.0/8"), "Docker Swarm's pool of overlay networks (10.0.0.0/8)"),
)


@dataclass(frozen=True)
class Addresses:
    """The nodes' cluster addresses, by name, as far as they could be given."""

    of: Mapping[str, IPv4Address]
    violations: tuple[Violation, ...]


def default_subnet(name: str) -> IPv4Network:
    """Give 198.18.x.0/24, x being the first byte of the SHA-256 of the cluster's name.

    Never change this: cards that are out there hold addresses of it.
    """
    return IPv4Network(f"198.18.{hashlib.sha256(name.encode()).digest()[0]}.0/24")


def parse_subnet(text: str) -> IPv4Network:
    """Give the cluster subnet. ValueError says what is wrong with it, and what to take."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise ValueError(f"is not an IPv4 network; {_ADVICE}") from None
    if "/" not in text:
        network = IPv4Network(f"{text}/24", strict=False)
        raise ValueError(f"needs its prefix; did you mean '{network}'?")
    if IPv4Interface(text).ip != network.network_address:
        raise ValueError(f"is an address in a network; did you mean '{network}'?")
    if network.is_loopback or network.is_multicast or network.is_link_local:
        kind = "loopback" if network.is_loopback else "multicast"
        kind = "link-local" if network.is_link_local else kind
        raise ValueError(f"{network} are {kind} addresses; {_ADVICE}")
    if not 16 <= network.prefixlen <= 28:
        raise ValueError(f"/{network.prefixlen} is not between /16 and /28; {_ADVICE}")
    if any(network.subnet_of(good) for good in _GOOD):
        return network
    for pool, words in _DOCKER:
        if network.overlaps(pool):
            raise ValueError(f"{network} overlaps {words}; {_ADVICE}")
    raise ValueError(f"{network} are public addresses, which belong to somebody else; {_ADVICE}")


def cluster_subnet(view: View) -> IPv4Network | None:
    """Give the subnet that is in force, or None if the file does not say a valid one."""
    text, name = view.text(*SUBNET_PATH), view.text("name")
    if view.written(*SUBNET_PATH):
        try:
            return parse_subnet(text) if text is not None else None
        except ValueError:
            return None
    if name is None or not _is_readable(view):
        return None
    return default_subnet(name)


def _is_readable(view: View) -> bool:
    return not view.written("network") or isinstance(view.get("network"), dict)


def _possible(view: View) -> tuple[IPv4Network, ...]:
    """Give where cluster addresses can lie while the subnet itself is not known."""
    if _is_readable(view) and not view.written(*SUBNET_PATH):
        return (default_subnet("").supernet(new_prefix=16),)
    try:
        return (*_GOOD, IPv4Network(view.text(*SUBNET_PATH) or "", strict=False))
    except ValueError:
        return _GOOD


def cluster_addresses(view: View) -> Addresses:
    """Give every node its address; a node appended to the file never changes those before it.

    In the file's order a node without an address takes the next one from .11 upward that no node
    before it has (then .1 to .10). So a written address that an earlier node was given is refused.
    """
    subnet = cluster_subnet(view)
    free = iter(()) if subnet is None else _candidates(subnet)
    taken: dict[IPv4Address, str] = {}
    found: list[Violation] = []
    full = False
    for node in view.nodes:
        path = ("nodes", node, "address")
        text = view.text(*path)
        if text is not None:
            words = _address_problem(view, text, subnet=subnet, taken=taken)
            if words:
                found.append(Violation(path, words))
            else:
                taken[IPv4Address(text)] = node
        elif subnet is not None and not full and not view.written(*path):
            address = next((a for a in free if a not in taken), None)
            if address is None:
                found.append(_full(view, subnet, node))
                full = True
            else:
                taken[address] = node
    return Addresses({node: address for address, node in taken.items()}, tuple(found))


def _candidates(subnet: IPv4Network) -> Iterator[IPv4Address]:
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    yield from map(IPv4Address, range(first + FIRST_HOST, last))
    yield from map(IPv4Address, range(first + 1, first + FIRST_HOST))


def _full(view: View, subnet: IPv4Network, node: str) -> Violation:
    room = subnet.num_addresses - 2
    message = f"{subnet} has no address left for {node}: it has room for {room} nodes; {_ADVICE}"
    return Violation(SUBNET_PATH if view.written(*SUBNET_PATH) else ("nodes", node), message)


def _address_problem(
    view: View, text: str, *, subnet: IPv4Network | None, taken: Mapping[IPv4Address, str]
) -> str:
    try:
        address = IPv4Address(text)
    except ValueError:
        return f"{text!r} is not an IPv4 address, such as 198.18.42.11"
    if subnet is not None and address not in subnet:
        return f"{address} is not in the cluster subnet {subnet}"
    if subnet is None and not any(address in network for network in _possible(view)):
        words = " or ".join(map(str, _possible(view)[:2]))
        return f"{address} is not in the cluster subnet, which is a part of {words}"
    if subnet is not None and address in (subnet.network_address, subnet.broadcast_address):
        kind = "network" if address == subnet.network_address else "broadcast"
        return f"{address} is the {kind} address of {subnet}; take one between"
    owner = taken.get(address)
    if owner is None:
        return ""
    if view.written("nodes", owner, "address"):
        return f"{address} is the address of {owner} already"
    return (
        f"{address} is what {owner} gets by its place in the file; take another, or write "
        f"addresses for both"
    )


# --- the home network ---------------------------------------------------------------------------


def parse_lan(text: str) -> IPv4Interface:
    """Give a node's static address with its network. ValueError says what is wrong with it."""
    try:
        lan = IPv4Interface(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IPv4 address with its prefix, such as 192.168.1.11/24"
        ) from None
    if "/" not in text or not 8 <= lan.network.prefixlen <= 30:
        raise ValueError(f"{text!r} needs a prefix from /8 to /30, such as {lan.ip}/24")
    if lan.ip in (lan.network.network_address, lan.network.broadcast_address):
        kind = "network" if lan.ip == lan.network.network_address else "broadcast"
        raise ValueError(f"{lan.ip} is the {kind} address of {lan.network}; take one between")
    if lan.is_loopback or lan.is_multicast or lan.is_link_local or lan.is_reserved:
        raise ValueError(f"{lan.ip} cannot be the address of a node in a home network")
    return lan


def check_network(view: View) -> Iterator[Violation]:
    """Check the cluster subnet, the cluster addresses and the static addresses in the LAN."""
    text = view.text(*SUBNET_PATH)
    if text is not None:
        try:
            parse_subnet(text)
        except ValueError as error:
            yield Violation(SUBNET_PATH, str(error))
    yield from cluster_addresses(view).violations
    yield from _check_resolvers(view)
    yield from _check_lan(view)


def _check_resolvers(view: View) -> Iterator[Violation]:
    gateway = view.text("network", "lan", "gateway")
    if gateway is not None and _ipv4(gateway) is None:
        yield Violation(("network", "lan", "gateway"), f"{gateway!r} is not an IPv4 address")
    for index, server in view.texts("network", "lan", "dns").items():
        try:
            ipaddress.ip_address(server)
        except ValueError:
            path = ("network", "lan", "dns", index)
            yield Violation(path, f"{server!r} is not the IP address of a name server")


def _check_lan(view: View) -> Iterator[Violation]:
    subnet = cluster_subnet(view)
    gateway = _ipv4(view.text("network", "lan", "gateway") or "")
    owners: dict[IPv4Address, str] = {}
    for node in view.nodes:
        path = ("nodes", node, "lan")
        text = view.text(*path)
        if text is None:
            continue
        try:
            lan = parse_lan(text)
        except ValueError as error:
            yield Violation(path, str(error))
            continue
        if not view.written("network", "lan"):
            yield Violation(
                path, "a static address needs network.lan with the gateway of that network"
            )
        if lan.ip in owners:
            yield Violation(path, f"{lan.ip} is the LAN address of {owners[lan.ip]} already")
        owners.setdefault(lan.ip, node)
        if gateway is not None:
            yield from _check_gateway(path, lan, gateway)
        if subnet is not None and subnet.overlaps(lan.network):
            where = SUBNET_PATH if view.written(*SUBNET_PATH) else path
            message = f"the cluster subnet {subnet} overlaps the LAN {lan.network}; {_ADVICE}"
            yield Violation(where, message)


def _check_gateway(
    path: tuple[str, ...], lan: IPv4Interface, gateway: IPv4Address
) -> Iterator[Violation]:
    if gateway == lan.ip:
        yield Violation(path, f"{lan.ip} is the gateway's address")
    elif gateway not in lan.network:
        yield Violation(path, f"the gateway {gateway} is not in this node's network {lan.network}")
    elif gateway in (lan.network.network_address, lan.network.broadcast_address):
        message = f"{gateway} is the network or broadcast address of {lan.network}"
        yield Violation(("network", "lan", "gateway"), message)


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


# --- wireless -----------------------------------------------------------------------------------


def check_wifi(view: View) -> Iterator[Violation]:
    """Check that wireless nodes have a network to join, and that every node has any way out."""
    for node in view.nodes:
        wifi, ethernet = view.flag("nodes", node, "wifi"), view.flag("nodes", node, "ethernet")
        if wifi and not view.written("network", "wifi"):
            message = "needs network.wifi with ssid, psk and country"
            yield Violation(("nodes", node, "wifi"), message)
        if ethernet is False and not wifi and not _is_wrong(view, node, "wifi"):
            message = "without Ethernet and without wifi: true nobody can reach this node"
            yield Violation(("nodes", node, "ethernet"), message)
    ssid = view.text("network", "wifi", "ssid")
    if ssid is not None and len(ssid.encode()) > 32:
        yield Violation(("network", "wifi", "ssid"), "must have at most 32 bytes in UTF-8")
    if view.text("network", "wifi", "country") == "UK":
        message = "the code of the United Kingdom is GB (ISO 3166)"
        yield Violation(("network", "wifi", "country"), message)


def _is_wrong(view: View, node: str, key: str) -> bool:
    return view.written("nodes", node, key) and view.flag("nodes", node, key) is None
