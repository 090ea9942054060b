from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasher import records
from flasher.model import PermitKind, Ticket
from flasher.permits import Flash
from flasher.records import ImagePin, State
from tests.support.identity import NOW

MOST, LATEST = 2**31, 253_402_300_799
FLASH = {
    "node": "pi1",
    "generation": 1,
    "epoch": 1,
    "permit": "genesis",
    "flashed_at": NOW,
    "delivered": True,
}


def state(**changed: object) -> str:
    """Give a state.json of one flash with some fields as given."""
    return json.dumps({"version": 1, "cluster": "home", "flashes": [{**FLASH, **changed}]})


tickets = st.builds(
    Ticket,
    node=st.text(),
    generation=st.integers(1, MOST),
    epoch=st.integers(1, MOST),
    permit=st.none() | st.sampled_from(PermitKind),
    flashed_at=st.integers(0, LATEST),
)


@given(st.text(), st.lists(st.builds(Flash, ticket=tickets, delivered=st.booleans())))
def test_a_state_is_read_back_as_it_was_written(cluster: str, flashes: list[Flash]) -> None:
    written = State(cluster, tuple(flashes))
    assert records.parse_state(records.dump_state(written)) == written


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", -5),
        ("generation", 0),
        ("generation", MOST + 1),
        ("epoch", 0),
        ("epoch", MOST + 1),
        ("flashed_at", -1),
        ("flashed_at", LATEST + 1),
        ("flashed_at", 10**20),
        ("flashed_at", 10**4000),
    ],
)
def test_refuses_a_number_out_of_its_range(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is not in [01] to \d+$"):
        records.parse_state(state(**{field: value}))


@pytest.mark.parametrize("value", [None, "1", 1.0, True, [1]])
@pytest.mark.parametrize("field", ["generation", "epoch", "flashed_at"])
def test_refuses_what_is_no_whole_number(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is not a number$"):
        records.parse_state(state(**{field: value}))


@pytest.mark.parametrize("delivered", [True, None, 0, "no"])
def test_what_is_not_plainly_undelivered_counts_as_delivered(delivered: object) -> None:
    assert records.parse_state(state(delivered=delivered)).flashes[0].delivered


@pytest.mark.parametrize("seconds", [-1, LATEST + 1])
def test_refuses_a_pin_of_a_time_that_there_is_not(seconds: int) -> None:
    text = records.dump_pins({"x": ImagePin("a" * 64, None, first_seen=seconds)})
    with pytest.raises(ValueError, match=r"^first_seen is not in"):
        records.parse_pins(text)
