"""The baseline: a person's script that forms the swarm with the docker command. Shell.

Nothing of piflash has a part in it. It does what the service has to achieve: certificates of ten
years, the addresses of the cluster file, roles and labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.lab import judge
from tests.lab.cards import Member
from tests.lab.lab import Lab
from tests.lab.node import Node


@dataclass(frozen=True)
class Times:
    """Seconds of each step, and of all from the last engine's answer to all being ready."""

    init: float
    rotate: float
    joins: float
    total: float


def form(lab: Lab) -> Times:
    """Form the swarm of a lab whose nodes were powered on by hand."""
    while not (answered := lab.answered()):
        time.sleep(0.05)
    (seed, first), *others = zip(lab.all, lab.cluster.members, strict=True)
    begun = time.monotonic()
    for node, member in zip(lab.all, lab.cluster.members, strict=True):
        node.run("ip", "addr", "add", f"{member.address}/24", "dev", "eth0", "label", "eth0:1")
    swarm = ("docker", "swarm")
    seed.run(*swarm, "init", "--advertise-addr", first.address, "--cert-expiry", "87600h")
    founded = time.monotonic()
    seed.run(*swarm, "ca", "--rotate", "--quiet")
    rotated = time.monotonic()
    tokens = {
        role: seed.run(*swarm, "join-token", "--quiet", role).strip()
        for role in sorted({member.role for _, member in others})
    }
    for node, member in others:
        how = ("--advertise-addr", member.address, "--token", tokens[member.role])
        node.run(*swarm, "join", *how, f"{first.address}:2377")
    _label(seed, lab.cluster.members)
    joined = time.monotonic()
    ready = lab.wait_formed(seconds=180)
    return Times(founded - begun, rotated - founded, joined - rotated, ready - answered)


def _label(seed: Node, members: tuple[Member, ...]) -> None:
    while len(judge.listed(seed)) < len(members):
        time.sleep(0.05)
    for member in members:
        labels = [f"--label-add={key}={text}" for key, text in member.labels.items()]
        seed.run("docker", "node", "update", *labels, member.name)
