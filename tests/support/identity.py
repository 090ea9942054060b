"""A fixed authority and small clusters, so that no test waits for an RSA key to be found."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flasher import pki, records
from flasher.model import (
    ClusterSpec,
    Identity,
    ImageRef,
    NodeSpec,
    PermitKind,
    Role,
    Ticket,
    User,
)

NOW = 1_790_000_000


@cache
def authority() -> pki.Authority:
    """Give the authority of cases/authority.json: keys of no cluster, made for tests."""
    path = Path(__file__).parent.parent / "unit" / "cases" / "authority.json"
    return records.parse_authority(path.read_text())


def ticket(
    node: str = "pi1",
    *,
    generation: int = 1,
    epoch: int = 1,
    permit: PermitKind | None = PermitKind.GENESIS,
    flashed_at: int = NOW,
) -> Ticket:
    """Give a ticket; as it stands that of the first flash of a cluster's seed."""
    return Ticket(node, generation, epoch, permit, flashed_at)


def spec(
    *, managers: tuple[str, ...] = ("pi1",), workers: tuple[str, ...] = ("pi9",), seed: str = "pi1"
) -> ClusterSpec:
    """Give a cluster of these nodes."""
    nodes = [(name, Role.MANAGER) for name in managers] + [(name, Role.WORKER) for name in workers]
    return ClusterSpec(
        name="home",
        image=ImageRef("hypriotos-1.12.3"),
        domain="home.arpa",
        timezone="UTC",
        user=User("pirate", (), None),
        cluster_subnet="198.18.0.0/24",
        nodes=tuple(
            NodeSpec(
                name=name,
                role=role,
                seed=name == seed,
                cluster_address=f"198.18.0.{number}",
                lan=None,
                wifi=None,
                ethernet=True,
                labels={},
                cloud_config=None,
            )
            for number, (name, role) in enumerate(nodes, start=11)
        ),
        stacks={},
        seccomp="default",
        cloud_config=None,
    )


def issue(made: Ticket, *, cluster: str = "home", role: Role = Role.MANAGER) -> Identity:
    """Issue a ticket's identity from the fixed authority."""
    return pki.issue(authority(), cluster=cluster, role=role, ticket=made)
