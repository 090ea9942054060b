from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import permits
from flasher.errors import UsageError, WorkspaceError
from flasher.model import ClusterSpec, PermitKind, Ticket
from flasher.permits import Flash
from tests.support.identity import NOW, spec

GENESIS, REJOIN, REBUILD = PermitKind.GENESIS, PermitKind.REJOIN, PermitKind.REBUILD
ONE = spec(managers=("pi1",))
THREE = spec(managers=("pi1", "pi2", "pi3"))


def history(*entries: str) -> list[Flash]:
    """Give flashes as texts: `pi1 1 genesis delivered`, `pi9 1 - void` (node, epoch, permit)."""
    flashes: list[Flash] = []
    for entry in entries:
        node, epoch, permit, state = entry.split()
        generation = 1 + sum(flash.ticket.node == node for flash in flashes)
        kind = None if permit == "-" else PermitKind(permit)
        flashes.append(Flash(Ticket(node, generation, int(epoch), kind, NOW), state == "delivered"))
    return flashes


def peek(
    flashes: Sequence[Flash], cluster: ClusterSpec, node: str, *, rebuild: bool = False
) -> Ticket:
    return permits.next_ticket(flashes, spec=cluster, node=node, rebuild=rebuild, now=NOW)


def test_tells_when_the_cards_that_are_out_know_other_addresses() -> None:
    node = THREE.nodes[1]
    ticket = Ticket(node.name, 1, 1, None, NOW)
    out = Flash(ticket, delivered=True, address=node.cluster_address)
    moved = replace(out, address="198.18.0.99")
    assert permits.address_warning([out], spec=THREE) == ""
    said = permits.address_warning([out, moved], spec=THREE)
    assert f"{node.name} from 198.18.0.99 to {node.cluster_address}" in said
    assert f"{node.name}: address: 198.18.0.99" in said
    assert permits.address_warning([replace(moved, delivered=False)], spec=THREE) == ""
    assert permits.address_warning([replace(moved, address="")], spec=THREE) == ""
    assert permits.address_warning([moved, out], spec=THREE) == ""


@pytest.mark.parametrize(
    ("cluster", "flashes", "node", "rebuild", "kind", "epoch"),
    [
        # the first flash of the seed
        (ONE, (), "pi1", False, GENESIS, 1),
        (THREE, (), "pi1", False, GENESIS, 1),
        (ONE, (), "pi1", True, GENESIS, 1),
        (ONE, ("pi9 1 - delivered",), "pi1", False, GENESIS, 1),
        # a card that never became bootable gives its permit back
        (ONE, ("pi1 1 genesis void",), "pi1", False, GENESIS, 1),
        (THREE, ("pi1 1 genesis void", "pi1 1 genesis void"), "pi1", False, GENESIS, 1),
        (THREE, ("pi1 1 genesis void",), "pi1", True, GENESIS, 1),
        (ONE, ("pi1 1 genesis delivered", "pi1 2 rebuild void"), "pi1", False, REBUILD, 2),
        (THREE, ("pi1 1 genesis delivered", "pi1 2 rebuild void"), "pi1", False, REJOIN, 1),
        (THREE, ("pi1 1 genesis delivered", "pi1 2 rebuild void"), "pi1", True, REBUILD, 2),
        # any later flash of the seed
        (THREE, ("pi1 1 genesis delivered",), "pi1", False, REJOIN, 1),
        (THREE, ("pi1 1 genesis delivered",), "pi1", True, REBUILD, 2),
        (ONE, ("pi1 1 genesis delivered",), "pi1", False, REBUILD, 2),
        (ONE, ("pi1 1 genesis delivered", "pi1 2 rebuild delivered"), "pi1", False, REBUILD, 3),
        (THREE, ("pi1 1 genesis delivered", "pi1 2 rebuild delivered"), "pi1", False, REJOIN, 2),
        # a worker has no permit, and the epoch of the cards that are out
        (THREE, (), "pi9", False, None, 1),
        (THREE, ("pi1 1 genesis delivered",), "pi9", False, None, 1),
        (THREE, ("pi1 1 genesis delivered", "pi1 2 rebuild void"), "pi9", False, None, 1),
        (THREE, ("pi1 1 genesis delivered", "pi1 2 rebuild delivered"), "pi9", False, None, 2),
        # so has a manager that is not the seed
        (THREE, ("pi1 1 genesis delivered",), "pi2", False, None, 1),
        # another seed does not start again: a permit is a permit of the cluster
        (
            spec(managers=("pi1", "pi2", "pi3"), seed="pi2"),
            ("pi1 1 genesis delivered",),
            "pi2",
            False,
            REJOIN,
            1,
        ),
        (
            spec(managers=("pi2",), seed="pi2"),
            ("pi1 1 genesis delivered",),
            "pi2",
            False,
            REBUILD,
            2,
        ),
        (
            spec(managers=("pi1", "pi2", "pi3"), seed="pi2"),
            ("pi1 1 genesis void",),
            "pi2",
            False,
            GENESIS,
            1,
        ),
    ],
)
def test_the_permit_follows_from_the_cards_that_are_out(
    cluster: ClusterSpec,
    flashes: tuple[str, ...],
    node: str,
    rebuild: bool,
    kind: PermitKind | None,
    epoch: int,
) -> None:
    ticket = peek(history(*flashes), cluster, node, rebuild=rebuild)
    assert (ticket.permit, ticket.epoch) == (kind, epoch)


def test_refuses_to_rebuild_from_a_node_that_is_not_the_seed() -> None:
    with pytest.raises(UsageError, match="pi2 is not the seed") as caught:
        peek(history("pi1 1 genesis delivered"), THREE, "pi2", rebuild=True)
    assert "--node pi1" in caught.value.hint


def test_a_generation_is_burnt_even_if_its_card_never_became_bootable() -> None:
    flashes = history("pi1 1 genesis void", "pi1 1 genesis void", "pi9 1 - void")
    assert peek(flashes, ONE, "pi1").generation == 3
    assert peek(flashes, ONE, "pi9").generation == 2


def test_a_clock_that_went_backwards_does_not_take_the_floor_with_it() -> None:
    flashes = history("pi9 1 - delivered")
    early = permits.next_ticket(flashes, spec=ONE, node="pi1", rebuild=False, now=NOW - 10**8)
    late = permits.next_ticket(flashes, spec=ONE, node="pi1", rebuild=False, now=NOW + 5)
    assert (early.flashed_at, late.flashed_at) == (NOW, NOW + 5)


DAY = 24 * 60 * 60


def flashed(*when: int) -> list[Flash]:
    """Give flashes of pi1, pi2, ... at these times."""
    return [
        Flash(Ticket(f"pi{number}", number + 4, 1, None, at), delivered=number != 1)
        for number, at in enumerate(when, 1)
    ]


@pytest.mark.parametrize("when", [(), (0,), (NOW,), (NOW - DAY, NOW + DAY), (NOW + DAY, NOW)])
def test_says_nothing_about_clocks_that_agree_within_a_day(when: tuple[int, ...]) -> None:
    assert permits.clock_warning(flashed(*when), now=NOW) == ""


@pytest.mark.parametrize(
    ("when", "node", "generation"),
    [
        ((NOW + DAY + 1,), "pi1", 5),
        # the one whose clock was wrong is named, not those that took its time over
        ((NOW, NOW + 9 * DAY, NOW + 9 * DAY), "pi2", 6),
        ((NOW + 2 * DAY, NOW, NOW + 3 * DAY), "pi3", 7),
    ],
)
def test_a_flash_ahead_of_the_clock_is_named_with_both_remedies(
    when: tuple[int, ...], node: str, generation: int
) -> None:
    said = permits.clock_warning(flashed(*when), now=NOW)
    latest = datetime.fromtimestamp(max(when), tz=timezone.utc)
    assert said.startswith(
        f"the flash of {node}, generation {generation}, is recorded for "
        f"{latest:%Y-%m-%d %H:%M} UTC, but this computer's clock says 2026-09-21 14:13 UTC;"
    )
    assert "correct it" in said
    assert f"edit .piflash/state.json: put a number that is not above {NOW}" in said


def test_the_clock_warning_ends_when_its_remedy_is_followed() -> None:
    ahead = flashed(NOW, NOW + 9 * DAY, NOW + 9 * DAY)
    assert permits.clock_warning(ahead, now=NOW)
    edited = flashed(*(min(flash.ticket.flashed_at, NOW) for flash in ahead))
    assert permits.clock_warning(edited, now=NOW) == ""
    assert permits.clock_warning(ahead, now=NOW + 9 * DAY) == ""


def test_the_last_second_of_the_state_file_can_be_told() -> None:
    assert "9999-12-31 23:59" in permits.clock_warning(flashed(253_402_300_799), now=NOW)


@pytest.mark.parametrize(
    ("flashes", "which", "message"),
    [
        # two flashes at once, both minted before either was written: only one may go out
        (("pi1 1 genesis void", "pi1 1 genesis delivered"), 0, "generation 2 meanwhile"),
        (("pi1 1 genesis delivered", "pi1 1 genesis void"), 1, "may found epoch 1 meanwhile"),
        (
            ("pi1 1 genesis delivered", "pi1 2 rebuild delivered", "pi1 2 rebuild void"),
            2,
            "may found epoch 2 meanwhile",
        ),
        (
            ("pi1 1 genesis delivered", "pi1 2 rebuild delivered", "pi1 1 rejoin void"),
            2,
            "may found epoch 2 meanwhile",
        ),
        (("pi9 1 - void", "pi9 1 - delivered"), 0, "generation 2 meanwhile"),
        # the seed moved between mint and write
        (("pi1 1 genesis delivered", "pi2 1 genesis void"), 1, "may found epoch 1 meanwhile"),
    ],
)
def test_refuses_to_deliver_a_card_that_another_has_overtaken(
    flashes: tuple[str, ...], which: int, message: str
) -> None:
    past = history(*flashes)
    with pytest.raises(WorkspaceError, match=message) as caught:
        permits.check_delivery(past, ticket=past[which].ticket)
    assert caught.value.hint.startswith("flash pi")


@pytest.mark.parametrize(
    ("flashes", "which"),
    [
        (("pi1 1 genesis void",), 0),
        (("pi1 1 genesis delivered",), 0),
        (("pi1 1 genesis void", "pi1 1 genesis void"), 0),
        (("pi1 1 genesis delivered", "pi1 1 rejoin delivered", "pi1 1 rejoin void"), 2),
        (("pi1 1 genesis delivered", "pi1 2 rebuild void", "pi9 1 - void"), 2),
    ],
)
def test_delivers_what_nothing_has_overtaken(flashes: tuple[str, ...], which: int) -> None:
    past = history(*flashes)
    permits.check_delivery(past, ticket=past[which].ticket)


def test_refuses_to_deliver_what_was_never_minted() -> None:
    past = history("pi1 1 genesis void")
    with pytest.raises(WorkspaceError, match="generation 1 is not in"):
        permits.check_delivery(past, ticket=replace(past[0].ticket, flashed_at=NOW + 1))


moves = st.lists(
    st.one_of(
        st.tuples(
            st.just("mint"),
            st.sampled_from(["pi1", "pi2"]),  # who is the seed at that time
            st.sampled_from([1, 3]),  # how many managers there are
            st.booleans(),  # --rebuild
        ),
        st.tuples(st.just("mint worker"), st.just("pi1"), st.just(1), st.just(False)),
        st.tuples(st.just("deliver"), st.integers(0, 5), st.just(0), st.just(False)),
    ),
    min_size=4,
    max_size=25,
)


@settings(max_examples=60)
@given(moves)
def test_whatever_is_minted_and_delivered_in_any_order_no_epoch_is_founded_twice(
    taken: list[tuple[str, str | int, int, bool]],
) -> None:
    """Mints and deliveries interleave; seeds move and rosters change between them."""
    past: list[Flash] = []
    for move, which, managers, rebuild in taken:
        if isinstance(which, str):
            names = (which,) if managers == 1 else ("pi1", "pi2", "pi3")
            node = "pi9" if move == "mint worker" else which
            ticket = peek(past, spec(managers=names, seed=which), node, rebuild=rebuild)
            assert ticket.generation > max(
                (f.ticket.generation for f in past if f.ticket.node == node), default=0
            )
            past.append(Flash(ticket, delivered=False))
            continue
        pending = [number for number, flash in enumerate(past) if not flash.delivered]
        if pending:
            index = pending[which % len(pending)]
            with contextlib.suppress(WorkspaceError):
                permits.check_delivery(past, ticket=past[index].ticket)
                past[index] = Flash(past[index].ticket, delivered=True)
    out = [flash.ticket for flash in past if flash.delivered]
    founding = [ticket.epoch for ticket in out if ticket.permit in (GENESIS, REBUILD)]
    assert len(founding) == len(set(founding)), out
