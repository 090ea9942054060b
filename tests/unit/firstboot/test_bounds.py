from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from firstboot.bounds import LIMITS, Allowance, Caller, Complaints, surplus
from firstboot.model import Claim

SMALL = replace(LIMITS, strangers=4, per_source=2, known=4, per_name=2)


def stranger(source: str, since: float) -> Caller:
    return Caller(source, since=since)


def known(name: str, since: float, *, ask: int | None = None) -> Caller:
    made = Caller("198.18.0.12", since=since)
    made.claim = Claim("home", "worker", name, 1)
    made.ask = ask
    return made


def since(callers: list[Caller]) -> list[float]:
    return [one.since for one in callers]


def test_who_fits_stays() -> None:
    callers = [stranger("a", 1), stranger("a", 2), known("pi9", 3), known("pi9", 4)]
    assert surplus(callers, SMALL) == []


def test_a_source_pushes_out_its_own_oldest() -> None:
    callers = [stranger("honest", 1), *(stranger("flood", at) for at in range(2, 9))]
    assert since(surplus(callers, SMALL)) == [2, 3, 4, 5, 6]


def test_many_sources_push_out_the_oldest_of_those_that_have_most() -> None:
    callers = [
        *(stranger("honest", 1), stranger("b", 2), stranger("b", 3)),
        *(stranger("c", 4), stranger("c", 5)),
    ]
    assert since(surplus(callers, SMALL)) == [2]


def test_strangers_never_push_out_the_known() -> None:
    callers = [known("pi9", 1), *(stranger(f"s{at}", at) for at in range(100))]
    gone = surplus(callers, SMALL)
    assert len(gone) == 96
    assert all(one.claim is None for one in gone)


def test_a_name_pushes_out_its_own_oldest() -> None:
    callers = [known("pi2", 1), known("pi9", 2), known("pi9", 3), known("pi9", 4)]
    assert since(surplus(callers, SMALL)) == [2]


def test_who_waits_for_an_answer_goes_after_who_is_quiet() -> None:
    callers = [known("waits", 0, ask=1), *(known(f"pi{at}", at) for at in range(1, 6))]
    assert since(surplus(callers, SMALL)) == [1, 2]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(0, 9)), max_size=40))
def test_what_stays_is_within_the_bounds_and_no_more_goes_than_must(
    made: list[tuple[str, bool, int]],
) -> None:
    callers = [known(s, at) if proved else stranger(s, at) for s, proved, at in made]
    gone = surplus(callers, SMALL)
    stay = [one for one in callers if one not in gone]
    for group, most, each in (
        ([one for one in stay if not one.claim], SMALL.strangers, SMALL.per_source),
        ([one for one in stay if one.claim], SMALL.known, SMALL.per_name),
    ):
        marks = [one.name or one.source for one in group]
        assert len(group) <= most
        assert all(marks.count(mark) <= each for mark in marks)
    assert surplus(stay, SMALL) == []
    if len(callers) <= 2:
        assert gone == []


def test_a_source_is_complained_about_once_a_minute() -> None:
    complaints = Complaints()
    told = [complaints.about("198.18.0.66", "no", now=float(now)) for now in range(0, 181, 10)]
    assert [number * 10 for number, line in enumerate(told) if line] == [0, 60, 120, 180]
    assert told[0] == "198.18.0.66: no"


def test_a_minute_has_no_more_lines_than_that() -> None:
    complaints = Complaints(lines=3)
    assert sum(bool(complaints.about(str(n), "no", now=1.0)) for n in range(1000)) == 3


def test_a_complaint_is_one_line_without_a_token() -> None:
    line = Complaints().about("a", "x\ny SWMTKN-1-aaa-bbb", now=0.0)
    assert line == "a: x y ***"


def test_a_burst_is_allowed_and_then_one_in_a_while() -> None:
    allowance = Allowance(every=1.0, burst=4)
    taken = [at / 10 for at in range(100) if allowance.take("pi9", now=at / 10)]
    assert taken[:5] == [0.0, 0.1, 0.2, 0.3, 1.0]
    assert 12 <= len(taken) <= 13


def test_each_has_an_allowance_of_its_own() -> None:
    allowance = Allowance(every=1.0, burst=1)
    assert [allowance.take(who, now=0.0) for who in ("a", "a", "b")] == [True, False, True]


@given(st.lists(st.floats(0.0, 3.0), max_size=60))
def test_nobody_gets_more_than_a_burst_and_one_for_each_while(pauses: list[float]) -> None:
    allowance, now, taken = Allowance(every=1.0, burst=4), 0.0, 0
    for pause in pauses:
        now += pause
        taken += allowance.take("pi9", now=now)
    assert taken <= 4 + now + 1e-6


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), max_size=60))
def test_an_honest_card_never_has_to_wait(rounds: list[tuple[float, bool]]) -> None:
    """Each round: an ask that waits for its answer, and after a token the report at once."""
    allowance, now = Allowance(every=LIMITS.ask, burst=LIMITS.asks_in_a_row), 0.0
    for answered_in, granted in rounds:
        assert allowance.take("pi9", now=now)
        now += answered_in
        if granted:
            assert allowance.take("pi9", now=now)
            now += 1.0  # after the report decide.py waits twice that
        now += 1.0
