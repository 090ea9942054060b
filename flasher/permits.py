"""Which generation, epoch and permit the next flash of a node gets. Pure; all policy of permits.

The rules and why they are safe: docs/decisions/0003-when-a-permit-counts.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from flasher.errors import UsageError, WorkspaceError
from flasher.model import ClusterSpec, PermitKind, Ticket

FIRST_EPOCH = 1

_CLOCKS_DIFFER = 24 * 60 * 60  # more than two computers' clocks and time zones do


@dataclass(frozen=True)
class Flash:
    """A ticket that was minted. `delivered`: its card may have become bootable.

    `address`: the node's cluster address on it, empty if that was not recorded.
    """

    ticket: Ticket
    delivered: bool
    address: str = ""


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


def clock_warning(history: Sequence[Flash], *, now: int) -> str:
    """Give what to tell the user if a flash lies more than a day ahead of `now`, UTC seconds.

    Empty if none does. Until it is mended every card starts at that flash's time (`next_ticket`).
    """
    latest = max((flash.ticket.flashed_at for flash in history), default=now)
    if latest <= now + _CLOCKS_DIFFER:
        return ""
    # Later flashes took the time over; the first one was made by the clock that said so.
    first = next(flash.ticket for flash in history if flash.ticket.flashed_at == latest)
    return (
        f"the flash of {first.node}, generation {first.generation}, is recorded for "
        f"{_utc(latest)}, but this computer's clock says {_utc(now)}; every card made now starts "
        "at the later time. If this computer's clock is wrong, correct it before you flash; if it "
        "was wrong then, edit .piflash/state.json: put a number that is not above "
        f"{now} for each flashed_at that is"
    )


def address_warning(history: Sequence[Flash], *, spec: ClusterSpec) -> str:
    """Give what to tell the user if the cards that are out know other addresses; else empty."""
    moved = []
    for node in spec.nodes:
        known = [flash.address for flash in _of(history, node.name) if flash.delivered]
        if known and known[-1] not in ("", node.cluster_address):
            moved.append((node.name, known[-1], node.cluster_address))
    if not moved:
        return ""
    changes = ", ".join(f"{name} from {old} to {new}" for name, old, new in moved)
    keep = ", ".join(f"{name}: address: {old}" for name, old, _ in moved)
    return (
        f"cluster addresses changed since cards were written: {changes} (nodes without `address` "
        "are counted in the file's order). The cards that are out know the old ones, and their "
        f"swarm will not let the new ones in. Keep them by writing under nodes: {keep}; or flash "
        "every card again"
    )


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


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
