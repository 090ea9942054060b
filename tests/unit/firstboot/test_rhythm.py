from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot import hearing, leader, rhythm
from firstboot.nodeconfig import Peer
from firstboot.rhythm import FOLLOWING, FORMING, LEADING, SOON, Calls
from tests.unit.firstboot.sights import hello, outsider

MANAGER = Peer("pi1", "manager", "198.18.0.11", True, {})
WORKER = Peer("pi9", "worker", "198.18.0.12", False, {})
SLOWEST = 4.0  # peers.HELLO_PATIENCE
MOODS = (FORMING, FOLLOWING, LEADING)

moods = st.sampled_from(MOODS)
peers = st.sampled_from([MANAGER, WORKER])
calls = st.builds(
    Calls,
    begun=st.floats(0, 1e6),
    number=st.integers(1, 10**6),
    failures=st.integers(0, 10**6),
    poked=st.booleans(),
    news=st.booleans(),
)


def pause(peer: Peer, mood: str, **more: Any) -> float:
    """Seconds from one call to the next."""
    made = Calls(begun=100.0, **{"number": 1, **more})
    due = rhythm.due("me", peer, mood=mood, calls=made)
    assert due is not None
    return due - 100.0


def test_nobody_calls_itself() -> None:
    for mood in MOODS:
        assert rhythm.due("pi1", MANAGER, mood=mood, calls=Calls(poked=True)) is None


def test_a_manager_is_called_at_once_and_then_every_second_while_forming() -> None:
    assert rhythm.due("pi9", MANAGER, mood=FORMING, calls=Calls()) == 0.0
    assert 0.85 <= pause(MANAGER, FORMING) <= 1.15


@pytest.mark.parametrize("mood", [FORMING, FOLLOWING])
def test_workers_are_called_by_the_leader_only(mood: str) -> None:
    assert rhythm.due("me", WORKER, mood=mood, calls=Calls()) is None
    assert rhythm.due("me", WORKER, mood=LEADING, calls=Calls()) == 0.0


@given(moods, calls)
def test_a_peer_that_answers_is_fresh_all_the_time(mood: str, made: Calls) -> None:
    due = rhythm.due("me", MANAGER, mood=mood, calls=replace(made, failures=0))
    assert due is not None
    assert due + SLOWEST < made.begun + hearing.FRESH


@given(calls)
def test_a_leader_knows_of_each_worker_whether_it_lives(made: Calls) -> None:
    due = rhythm.due("me", WORKER, mood=LEADING, calls=replace(made, failures=0))
    assert due is not None
    assert due + SLOWEST < made.begun + leader.GONE


@given(moods, peers, calls)
def test_no_peer_is_called_without_a_pause_or_never_again(
    mood: str, peer: Peer, made: Calls
) -> None:
    due = rhythm.due("me", peer, mood=mood, calls=made)
    if due is None:
        assert peer == WORKER
        assert mood != LEADING
    else:
        assert SOON * 0.99 <= due - made.begun <= 30.0 * 1.15 + 0.01


def test_a_silent_peer_is_called_less_and_less_up_to_a_bound() -> None:
    pauses = [pause(MANAGER, FORMING, failures=failures) for failures in (0, 3, 100)]
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 5.0 * 1.15
    assert 25.0 < pause(MANAGER, FOLLOWING, failures=100) < 35.0


def test_a_sign_of_life_ends_the_pause() -> None:
    assert pause(MANAGER, FOLLOWING, failures=9, poked=True) == pytest.approx(SOON)
    assert pause(WORKER, FORMING, poked=True) == pytest.approx(SOON)


def test_news_are_told_at_once_but_not_hammered_into_the_deaf() -> None:
    assert pause(WORKER, LEADING, news=True) == pytest.approx(SOON)
    assert pause(WORKER, LEADING, news=True, failures=1) > 5.0


def test_nodes_do_not_call_in_step() -> None:
    pauses = {pause(MANAGER, FORMING, number=number) for number in range(1, 50)}
    assert len(pauses) > 40
    assert max(pauses) - min(pauses) > 0.2


def test_the_mood_is_what_a_node_says_of_itself() -> None:
    assert rhythm.mood(outsider("pi9")) == FORMING
    assert rhythm.mood(hello("pi1")) == LEADING
    assert rhythm.mood(hello("pi1", phase="ROSTER", grants=False)) == LEADING
    assert rhythm.mood(hello("pi1", leader="pi2", grants=False)) == FOLLOWING
    assert rhythm.mood(hello("pi1", quorum=False, phase="MEMBER")) == FORMING


@pytest.mark.parametrize(
    "more",
    [{"grants": False}, {"you": "id-9"}, {"leader": "pi2"}, {"swarm_epoch": 2}, {"quorum": False}],
)
def test_what_a_hearer_could_act_on_is_news(more: dict[str, Any]) -> None:
    assert rhythm.news(hello(), hello(**more))


def test_the_time_alone_is_no_news() -> None:
    assert rhythm.news(None, hello())
    assert not rhythm.news(hello(), hello(time=hello().time + 5, phase="ROSTER"))
