"""The operator's side: cards as the real rules of permits make them. Pure, but for signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from firstboot import permit as permits
from firstboot.model import Claim, Memory
from firstboot.nodeconfig import NodeConfig
from flasher import pki, seed
from flasher.model import ClusterSpec, Identity, PermitKind, Secret, Ticket
from flasher.permits import Flash, check_delivery, next_ticket
from tests.sim.raft import Engine
from tests.support import identity

CLUSTER = "home"
FORGERIES = ("generation", "epoch", "cluster", "seed", "signature", "none")


class Card:
    """A card with all that is written on it, by the operator and by the node that it is in."""

    def __init__(self, config: NodeConfig, *, permit: str, charter: str) -> None:
        self.config = config
        self.name = config.name
        self.permit = permit
        self.charter = charter
        self.claim = Claim(config.cluster, config.role, config.name, config.generation)
        self.memory = Memory(epoch=0)
        self.tick = 0.0
        self.engine = Engine(config.name, config.address)
        self.engine.owner = self

    def __repr__(self) -> str:
        return f"{self.name}/{self.config.generation}"


class Operator:
    """Flashes cards, and remembers which, as the workspace does."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.history: list[Flash] = []

    def flash(self, node: str, *, now: int, rebuild: bool = False, delivered: bool = True) -> Card:
        """Make the next card of a node. One that is not `delivered` never becomes bootable."""
        ticket = next_ticket(self.history, spec=self.spec, node=node, rebuild=rebuild, now=now)
        self.history.append(Flash(ticket, delivered=False))
        if delivered:
            check_delivery(self.history, ticket=ticket)
            self.history[-1] = Flash(ticket, delivered=True)
        return card(self.spec, ticket)


def spec(
    managers: int, workers: int, *, labels: Mapping[str, Mapping[str, str]] | None = None
) -> ClusterSpec:
    """Give a cluster of m1.. and w1..; m1 is the seed."""
    made = identity.spec(
        managers=tuple(f"m{number}" for number in range(1, managers + 1)),
        workers=tuple(f"w{number}" for number in range(1, workers + 1)),
        seed="m1",
    )
    nodes = tuple(replace(node, labels=(labels or {}).get(node.name, {})) for node in made.nodes)
    return replace(made, nodes=nodes)


def card(made: ClusterSpec, ticket: Ticket) -> Card:
    """Give the card of a ticket."""
    permit, charter = _signed(ticket)
    papers = Identity(
        ca_pem="",
        cert_pem="",
        key_pem=Secret(""),
        permit_modulus=_modulus(),
        permit_json=Secret(permit) if permit else None,
        charter_json=charter or None,
    )
    config = seed.node_config(
        made, made.node(ticket.node), ticket=ticket, identity=papers, stacks={}
    )
    return Card(config, permit=permit, charter=charter)


@cache
def forged(how: str, name: str, generation: int, epoch: int) -> str:
    """Give a permit that is not that of the card: in what it says, or in who signed it."""
    ticket = Ticket(name, generation, epoch, PermitKind.GENESIS, 0)
    others = {
        "generation": replace(ticket, generation=generation + 1),
        "epoch": replace(ticket, epoch=epoch + 1),
        "seed": replace(ticket, node="w1"),
    }
    cluster = "office" if how == "cluster" else CLUSTER
    permit = pki.sign_permit(identity.authority(), cluster=cluster, ticket=others.get(how, ticket))
    if how == "none" or permit is None:
        return ""
    text = permit.reveal()
    if how != "signature":
        return text
    data = json.loads(text)
    first = data["signature"][0]
    data["signature"] = ("1" if first == "0" else "0") + data["signature"][1:]
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


@cache
def charter_of(text: str) -> int:
    """Give the epoch of a charter, checked by the node's own code. PermitError if it is none."""
    return permits.verify_charter(text, modulus=_modulus(), cluster=CLUSTER)


@cache
def _modulus() -> str:
    return pki.permit_modulus(identity.authority())


def _signed(ticket: Ticket) -> tuple[str, str]:
    # A permit does not say when it was made: one signature serves every seed.
    return _signatures(replace(ticket, flashed_at=0)) if ticket.permit else ("", "")


@cache
def _signatures(ticket: Ticket) -> tuple[str, str]:
    permit = pki.sign_permit(identity.authority(), cluster=CLUSTER, ticket=ticket)
    charter = pki.sign_charter(identity.authority(), cluster=CLUSTER, ticket=ticket)
    return permit.reveal() if permit else "", charter or ""
