"""A card as the writer leaves it, in two directories that stand for FAT and ext4."""

from __future__ import annotations

from pathlib import Path

from firstboot.layout import Layout
from firstboot.nodeconfig import NodeConfig, Peer, dump
from flasher.model import PermitKind, Role
from tests.support.identity import NOW, issue, ticket

ROSTER = (
    Peer("pi1", "manager", "198.18.0.11", True, {}),
    Peer("pi9", "worker", "198.18.0.12", False, {}),
)


def config(name: str = "pi1", *, generation: int = 1, epoch: int = 1) -> NodeConfig:
    me = next(peer for peer in ROSTER if peer.name == name)
    return NodeConfig(
        cluster="home",
        name=name,
        role=me.role,
        generation=generation,
        epoch=epoch,
        address=me.address,
        subnet="198.18.0.0/24",
        domain="home.arpa",
        flashed_at=NOW,
        permit_key=issue(ticket()).permit_modulus,
        roster=ROSTER,
        interface="eth0",
        stacks=(),
    )


def permit(kind: PermitKind = PermitKind.GENESIS, *, generation: int = 1, epoch: int = 1) -> str:
    made = issue(ticket(generation=generation, epoch=epoch, permit=kind)).permit_json
    assert made is not None
    return made.reveal()


def insert(tmp_path: Path, name: str = "pi1") -> Layout:
    """Give the layout of a card of that node, as it is at its first boot."""
    layout = Layout(boot=str(tmp_path / "boot"), root=str(tmp_path / "root"))
    kind = PermitKind.GENESIS if name == "pi1" else None
    role = Role.MANAGER if name == "pi1" else Role.WORKER
    identity = issue(ticket(name, permit=kind), role=role)
    fat = Path(layout.card_identity)
    fat.mkdir(parents=True)
    Path(layout.root).mkdir()
    Path(layout.card_node_json).write_text(dump(config(name)))
    (fat / "ca.pem").write_text(identity.ca_pem)
    (fat / "node.pem").write_text(identity.cert_pem)
    (fat / "node.key").write_text(identity.key_pem.reveal())
    if identity.permit_json is not None:
        (fat / "permit.json").write_text(identity.permit_json.reveal())
    if identity.charter_json is not None:
        (fat / "charter.json").write_text(identity.charter_json)
    return layout
