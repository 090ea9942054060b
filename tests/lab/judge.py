"""Whether the nodes of a lab are one swarm, as the engines and the nodes themselves say. Shell.

It asks from outside and believes nothing that only the service says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509

from tests.lab import engine
from tests.lab.cards import Member
from tests.lab.engine import SilentError
from tests.lab.node import Node

LIFE = timedelta(days=3649)
CERTIFICATE = "/var/lib/docker/swarm/certificates/swarm-node.crt"


def formed(nodes: Sequence[Node], members: Sequence[Member]) -> list[str]:
    """What is missing until the swarm is as the cluster file has it; by the first node's engine."""
    try:
        listed = engine.get(nodes[0], "/nodes")
    except SilentError as error:
        return [str(error)]
    missing = [] if len(listed) == len(members) else [f"{len(listed)} entries: {_names(listed)}"]
    for member in members:
        mine = [entry for entry in listed if entry["Description"].get("Hostname") == member.name]
        if len(mine) != 1:
            missing.append(f"{member.name}: {len(mine)} entries")
        else:
            missing += _entry(member, mine[0])
    leaders = [entry for entry in listed if entry.get("ManagerStatus", {}).get("Leader")]
    return missing if len(leaders) == 1 else [*missing, f"{len(leaders)} leaders"]


def _names(listed: Iterable[Any]) -> str:
    return ", ".join(
        f"{entry['Description'].get('Hostname', '?')} {entry['Status']['State']}"
        for entry in listed
    )


def _entry(member: Member, entry: Any) -> list[str]:
    spec, manager = entry["Spec"], entry.get("ManagerStatus", {})
    wrong = []
    if entry["Status"]["State"] != "ready":
        wrong.append(entry["Status"]["State"])
    if spec["Availability"] != "active":
        wrong.append(spec["Availability"])
    if spec["Role"] != member.role:
        wrong.append(f"is a {spec['Role']}")
    if member.role == "manager" and manager.get("Reachability") != "reachable":
        wrong.append(f"manager, {manager.get('Reachability')}")
    labels = spec.get("Labels") or {}
    absent = {key: text for key, text in member.labels.items() if labels.get(key) != text}
    if absent:
        wrong.append(f"without {absent}")
    return [f"{member.name}: {', '.join(wrong)}"] if wrong else []


def settled(nodes: Sequence[Node], members: Sequence[Member]) -> list[str]:
    """What is wrong with a formed swarm, seen from every node; by its status.txt too."""
    wrong = formed(nodes, members)
    if wrong:
        return wrong
    ids = {
        entry["Description"]["Hostname"]: entry["ID"] for entry in engine.get(nodes[0], "/nodes")
    }
    swarms = set()
    for node, member in zip(nodes, members, strict=True):
        try:
            swarm = engine.get(node, "/info")["Swarm"]
        except SilentError as error:
            wrong.append(str(error))
            continue
        seen = (swarm["LocalNodeState"], swarm["NodeID"], swarm["ControlAvailable"])
        if seen != ("active", ids[node.name], member.role == "manager"):
            wrong.append(f"{node.name}: its engine says {seen}, error {swarm['Error']!r}")
        if swarm["ControlAvailable"]:
            swarms.add(swarm["Cluster"]["ID"])
        if swarm["NodeAddr"] != member.address:
            wrong.append(f"{node.name}: advertises {swarm['NodeAddr']}")
        wrong += _certificate(node)
    return wrong if len(swarms) == 1 else [*wrong, f"{len(swarms)} swarms"]


def _certificate(node: Node) -> list[str]:
    try:
        found = x509.load_pem_x509_certificate(node.inside(CERTIFICATE).read_bytes())
    except FileNotFoundError:
        return [f"{node.name}: no certificate"]
    life = found.not_valid_after_utc - found.not_valid_before_utc
    return [] if life > LIFE else [f"{node.name}: a certificate of {life.days} days"]


def told(nodes: Sequence[Node], members: Sequence[Member]) -> list[str]:
    """Which nodes' status.txt does not say that they are ready."""
    wrong = []
    for node, member in zip(nodes, members, strict=True):
        status = node.status()
        said = (status.get("node"), status.get("role"), status.get("phase"))
        if said != (member.name, member.role, "READY"):
            wrong.append(f"{node.name}: status.txt says {status}")
    return wrong


def listed(node: Node) -> list[tuple[str, str, str]]:
    """What `docker node ls` prints on a node: name, status, manager status."""
    lines = node.run("docker", "node", "ls", "--format", "{{json .}}").splitlines()
    rows = [json.loads(line) for line in lines]
    return sorted((row["Hostname"], row["Status"], row["ManagerStatus"]) for row in rows)
