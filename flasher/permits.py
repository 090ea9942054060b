"""Which generation, epoch and permit the next flash of a node gets. Pure; all policy of permits.

The rules and why they are safe: docs/decisions/0003-when-a-permit-counts.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flasher.errors import UsageError, WorkspaceError
from flasher.model import ClusterSpec, PermitKind, Ticket

FIRST_EPOCH = 1


@dataclass(frozen=True)
class Flash:
    """A ticket that was minted. `delivered`: its card may have become bootable."""

    ticket: Ticket
    delivered: bool


def next_ticket(
    history: Sequence[Flash], *, spec: ClusterSpec, node: str, rebuild: bool, now: int
) -> Ticket:
    """Give what a flash of the node would get now, with every flash of the cluster so far.

    `now`: UTC seconds; a clock that went backwards does not take `flashed_at` with it.
    UsageError if `rebuild` is asked for a node that is not the seed.
    """
    permit, epoch = _permit(history, spec=spec, node=node, rebuild=rebuild)
    return Ticket(
        node=node,
        generation=1 + max((flash.ticket.generation for flash in _of(history, node)), default=0),
        epoch=epoch,
        permit=permit,
        flashed_at=max([now, *(flash.ticket.flashed_at for flash in history)]),
    )


def check_delivery(history: Sequence[Flash], *, ticket: Ticket) -> None:
    """Refuse to make a card bootable that another flash has overtaken since it was minted.

    WorkspaceError if the ticket was never minted, if a newer card of the node is out, or if
    another card has used up the epoch that this one's permit is for.
    """
    again = f"flash {ticket.node} again"
    if all(flash.ticket != ticket for flash in history):
        raise WorkspaceError(
            f"{ticket.node}: generation {ticket.generation} is not in the workspace's state",
            hint=again,
        )
    for flash in _of(history, ticket.node):
        if flash.delivered and flash.ticket.generation > ticket.generation:
            raise WorkspaceError(
                f"{ticket.node}: another flash wrote generation {flash.ticket.generation} "
                f"meanwhile; this card, of generation {ticket.generation}, would be refused by "
                "its cluster",
                hint=again,
            )
    delivered = _delivered_epoch(history, but=ticket)
    if ticket.permit is not None and delivered is not None and _used_up(ticket, delivered):
        raise WorkspaceError(
            f"{ticket.node}: another flash wrote a card that may found epoch {delivered} "
            f"meanwhile; this one's permit ({ticket.permit.value}, epoch {ticket.epoch}) is void",
            hint=again,
        )


def _permit(
    history: Sequence[Flash], *, spec: ClusterSpec, node: str, rebuild: bool
) -> tuple[PermitKind | None, int]:
    delivered = _delivered_epoch(history)
    epoch = FIRST_EPOCH if delivered is None else delivered
    if not spec.node(node).seed:
        if rebuild:
            seed = next(item.name for item in spec.nodes if item.seed)
            raise UsageError(
                f"--rebuild: {node} is not the seed; only the seed founds a swarm",
                hint=f"piflash --rebuild --node {seed} TARGET",
            )
        return None, epoch
    if delivered is None:
        return PermitKind.GENESIS, FIRST_EPOCH
    if rebuild or len(spec.managers) == 1:
        return PermitKind.REBUILD, delivered + 1
    return PermitKind.REJOIN, delivered


def _used_up(ticket: Ticket, delivered: int) -> bool:
    # A rejoin shares its epoch with the card before it, and asks every other manager first.
    if ticket.permit is PermitKind.REJOIN:
        return delivered > ticket.epoch
    return delivered >= ticket.epoch


def _delivered_epoch(history: Sequence[Flash], *, but: Ticket | None = None) -> int | None:
    """Give the highest epoch that a delivered card holds a permit for."""
    epochs = (
        flash.ticket.epoch
        for flash in history
        if flash.delivered and flash.ticket.permit is not None and flash.ticket != but
    )
    return max(epochs, default=None)


def _of(history: Sequence[Flash], node: str) -> list[Flash]:
    return [flash for flash in history if flash.ticket.node == node]
