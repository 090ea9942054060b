"""What a node does for itself, rule by rule; the leader's duties are in test_leader.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firstboot import leader, memory
from firstboot.decide import decide
from firstboot.model import (
    AskJoin,
    Clock,
    Decision,
    Failing,
    FallToFloor,
    Grant,
    Init,
    Join,
    Leave,
    Memory,
    Notes,
    Observation,
    RaiseAddress,
    Remember,
    ReportJoined,
    RestartDocker,
    StepClock,
    Token,
)
from firstboot.reasons import REASONS
from flasher.model import PermitKind
from tests.support.identity import NOW
from tests.unit.firstboot.card import config, permit
from tests.unit.firstboot.sights import (
    BEGUN,
    THEN,
    engine,
    entry,
    heard,
    hello,
    leading,
    outsider,
    seen,
)

SEED = permit()
IN = engine("active", node_id="id-pi9", ca="ca-1")
MEMBER = Memory(epoch=1, swarm_epoch=1)


def seed(sight: Observation, *, text: str = SEED, now: float = THEN, **card: Any) -> Decision:
    return decide(config(**card), text, sight, now)


def worker(sight: Observation, *, now: float = THEN, **card: Any) -> Decision:
    return decide(config("pi9", **card), "", sight, now)


def test_an_engine_that_does_not_answer_is_waited_for_and_told_after_two_minutes() -> None:
    sight = seen(engine=None)
    assert worker(sight) == Decision("DOCKER", "dockerd does not answer", wait=1.0)
    assert worker(sight, now=BEGUN + 121).reason == "docker"
    said = replace(sight, trouble="dockerd answers 500")
    assert worker(said).why == "dockerd answers 500"


def test_a_manager_that_does_not_see_its_swarm_says_what_can_be_done() -> None:
    blind = seen(engine=engine("active", node_id="id-pi1", manager=True), memory=MEMBER)
    alone = seed(replace(blind, trouble="dockerd: no answer in time"), now=BEGUN + 61)
    assert (alone.reason, "no answer in time" in alone.why) == ("docker", True)
    one_of_three = decide(three(), SEED, blind, BEGUN + 61)
    assert (one_of_three.reason, one_of_three.phase) == ("no-quorum", "MEMBER")


def test_the_cluster_address_comes_first() -> None:
    assert worker(seen(address_up=False)).action == RaiseAddress()


# --- founding ---------------------------------------------------------------------------------


def test_the_seed_remembers_what_it_is_about_to_do_and_then_founds() -> None:
    first = seed(seen())
    assert first.action == Remember(Memory(epoch=0, founding=1))
    second = seed(seen(memory=Memory(epoch=0, founding=1)))
    assert second.action == Init(epoch=1)


def test_no_other_node_founds_even_with_a_permit() -> None:
    assert worker(seen()).action is None
    made = decide(config("pi9"), SEED, seen(), THEN)
    assert (made.phase, made.action) == ("PROBE", None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the seed's card carries none"),
        ("rubbish", "not JSON"),
        (permit(generation=2), "for generation 2, epoch 1; this card has generation 1, epoch 1"),
        (permit(epoch=2), "for generation 1, epoch 2; this card has generation 1, epoch 1"),
    ],
)
def test_a_seed_without_a_valid_permit_is_blocked_and_says_why(text: str, why: str) -> None:
    made = seed(seen(), text=text)
    assert (made.phase, made.reason, made.action) == ("BLOCKED", "no-permit", None)
    assert why in made.why


def test_a_seed_without_a_permit_still_joins_a_swarm_that_is_there() -> None:
    assert seed(seen(peers=heard(hello("pi9")), memory=Memory(1)), text="").action == AskJoin("pi9")


def test_the_founder_waits_for_the_time_but_not_for_ever() -> None:
    unsure = seen(clock=Clock(float(NOW), "floor", float(NOW)), memory=Memory(0, founding=1))
    assert seed(unsure).phase == "CLOCK"
    assert seed(unsure, now=BEGUN + 89).action is None
    assert seed(unsure, now=BEGUN + 91).action == Init(epoch=1)


def test_a_founder_whose_time_nobody_vouches_for_founds_on_the_floor() -> None:
    """A root certificate from the future cannot even be replaced."""
    late, floor = BEGUN + 91, float(NOW)

    def at(time: float, quality: str = "floor") -> Observation:
        return seen(clock=Clock(time, quality, floor), memory=Memory(0, founding=1))

    assert seed(at(floor + late + 241), now=late).action == FallToFloor()
    assert seed(at(floor + late + 239), now=late).action == Init(epoch=1)
    assert seed(at(floor + late + 241, "peer"), now=late).action == FallToFloor()
    assert seed(at(floor + late + 10**8, "ntp"), now=late).action == Init(epoch=1)


def test_a_permit_is_used_up_by_its_own_swarm() -> None:
    """Its database is gone: founding a second one in the same epoch would make two (I2)."""
    made = seed(seen(memory=Memory(1, founding=1, founded=1, swarm_epoch=1)))
    assert (made.reason, made.action) == ("swarm-lost", None)


def test_a_permit_is_void_once_its_epoch_was_founded_by_another_card() -> None:
    assert seed(seen(memory=Memory(epoch=1))).action is None


def test_an_interrupted_founding_may_be_repeated() -> None:
    assert seed(seen(memory=Memory(epoch=0, founding=1))).action == Init(epoch=1)


def test_a_seed_joins_rather_than_founds_when_a_leader_answers() -> None:
    assert seed(seen(peers=heard(hello("pi9")), memory=Memory(1))).action == AskJoin("pi9")


REBUILD = permit(PermitKind.REBUILD, generation=2, epoch=2)


def test_a_rebuild_looks_two_minutes_for_an_older_swarm() -> None:
    sight = seen(memory=Memory(0, founding=2))
    assert seed(sight, text=REBUILD, generation=2, epoch=2).phase == "PROBE"
    late = seed(sight, text=REBUILD, generation=2, epoch=2, now=BEGUN + 121)
    assert late.action == Init(epoch=2)
    found = seen(memory=Memory(0, founding=2), peers=heard(hello("pi9")))
    made = seed(found, text=REBUILD, generation=2, epoch=2)
    # First that the older swarm lives, then into it.
    assert made.action == Remember(Memory(epoch=1, founding=2))


def test_a_rebuild_waits_two_minutes_after_the_last_quorum_it_heard_of() -> None:
    kept = Memory(epoch=1, founding=2)

    def rebuilds(now: float, **said: Any) -> Decision:
        older = hello("pi9", grants=False, **said)
        sight = seen(memory=kept, peers=heard(older, at=BEGUN + 200))
        return seed(sight, text=REBUILD, generation=2, epoch=2, now=now)

    # An election, or a CA that is made anew: nobody is let in for a moment.
    for now in (BEGUN + 201, BEGUN + 215, BEGUN + 319):
        assert (rebuilds(now).phase, rebuilds(now).action) == ("PROBE", None)
    assert rebuilds(BEGUN + 321).action == Init(epoch=2)
    assert rebuilds(BEGUN + 201, quorum=False).action == Init(epoch=2)


def test_a_rebuild_card_that_joined_its_swarm_founds_none_any_more() -> None:
    kept = Memory(epoch=1, founding=0, swarm_epoch=1)
    made = seed(seen(memory=kept), text=REBUILD, generation=2, epoch=2, now=BEGUN + 1000)
    assert (made.action, made.reason) == (None, "managers-silent")


REJOIN = permit(PermitKind.REJOIN, generation=2)


def three(**card: Any) -> Any:
    """A roster of three managers and a worker, seen by the seed."""
    base = config(**card)
    extra = [replace(base.roster[0], name=n, seed=False, address=a) for n, a in OTHERS.items()]
    return replace(base, roster=(*base.roster, *extra))


OTHERS = {"pi2": "198.18.0.13", "pi3": "198.18.0.14"}


@pytest.mark.parametrize(
    ("answers", "phase", "founds"),
    [
        ((), "PROBE", False),
        (("pi2",), "PROBE", False),
        (("pi2", "pi3"), "INIT", True),
    ],
)
def test_a_rejoining_seed_founds_only_if_every_other_manager_never_was_in_a_swarm(
    answers: tuple[str, ...], phase: str, founds: bool
) -> None:
    sight = seen(peers=heard(*map(outsider, answers)), memory=Memory(0, founding=1))
    made = decide(three(generation=2), REJOIN, sight, THEN)
    assert (made.phase, made.action == Init(1)) == (phase, founds)


def test_a_rejoining_seed_is_blocked_when_the_others_were_in_a_swarm() -> None:
    was = replace(outsider("pi3"), was_member=True)
    sight = seen(peers=heard(outsider("pi2"), was), memory=Memory(0, founding=1))
    made = decide(three(generation=2), REJOIN, sight, THEN)
    assert (made.action, "pi3 was in a swarm" in made.why) == (None, True)
    late = seen(peers=heard(outsider("pi2"), was, at=BEGUN + 130), memory=Memory(0, founding=1))
    assert decide(three(generation=2), REJOIN, late, BEGUN + 130).reason == "managers-silent"


# --- joining ----------------------------------------------------------------------------------

PEERS = heard(hello())
GRANT = Grant(Token("SWMTKN-1-x"), "198.18.0.11", "swarm-1", 1, at=THEN)


def knowing(**more: Any) -> Observation:
    return seen(**{"memory": Memory(epoch=1), "peers": PEERS, **more})


def test_a_worker_asks_the_leader_and_joins_with_what_it_gets() -> None:
    assert worker(seen(peers=PEERS)).action == Remember(Memory(epoch=1))
    assert worker(knowing()).action == AskJoin("pi1")
    assert worker(knowing(notes=Notes(grant=GRANT))).action == Join(GRANT)


def test_a_grant_of_another_swarm_or_of_long_ago_is_not_used() -> None:
    other = replace(GRANT, swarm_id="swarm-0")
    assert worker(knowing(notes=Notes(grant=other))).action == AskJoin("pi1")
    old = replace(GRANT, at=THEN - 46)
    assert worker(knowing(notes=Notes(grant=old))).action == AskJoin("pi1")


def test_nobody_joins_an_older_epoch() -> None:
    made = worker(knowing(memory=Memory(epoch=2)))
    assert (made.phase, made.action) == ("PROBE", None)


def test_the_newest_epoch_is_joined() -> None:
    both = heard(hello(), hello("pi2", swarm_epoch=2, epoch=2, swarm_id="swarm-2"))
    assert worker(knowing(peers=both)).action == Remember(Memory(epoch=2))
    assert worker(knowing(peers=both, memory=Memory(epoch=2))).action == AskJoin("pi2")


def test_a_leader_that_was_heard_long_ago_or_is_silent_now_is_none() -> None:
    old = heard(hello(), at=THEN - 16)
    assert worker(knowing(peers=old)).phase == "PROBE"
    silent = {"pi1": replace(PEERS["pi1"], silent_since=THEN - 1)}
    assert worker(knowing(peers=silent)).phase == "PROBE"


def test_a_missing_leader_is_told_after_two_minutes() -> None:
    assert not worker(seen()).reason
    assert worker(seen(), now=BEGUN + 121).reason == "no-leader"


@pytest.mark.parametrize(
    ("quality", "mine", "expected"),
    [
        ("floor", NOW - 100, StepClock(float(NOW))),
        ("none", NOW - 10**9, StepClock(float(NOW))),
        ("peer", NOW - 3, StepClock(float(NOW))),
        ("floor", NOW - 1, AskJoin("pi1")),
        ("floor", NOW + 10**8, AskJoin("pi1")),
        ("ntp", NOW - 200, AskJoin("pi1")),
        ("ntp", NOW - 300, None),
    ],
)
def test_a_clock_behind_the_leaders_is_stepped_first_and_never_back(
    quality: str, mine: float, expected: object
) -> None:
    made = worker(knowing(clock=Clock(float(mine), quality, 0.0)))
    assert made.action == expected
    assert bool(made.reason) == (expected is None)


def test_after_a_refusal_it_waits_a_moment() -> None:
    notes = Notes(refusal="its old entry may go in 12 s", refused_since=THEN - 0.5)
    made = worker(knowing(notes=notes))
    assert (made.action, made.wait, made.why) == (None, 0.5, "its old entry may go in 12 s")


def test_a_void_card_is_blocked() -> None:
    made = worker(knowing(notes=Notes(refusal="superseded")))
    assert (made.phase, made.reason) == ("BLOCKED", "superseded")


def test_a_join_that_hangs_is_given_up_after_45_seconds() -> None:
    pending = engine("pending", since=THEN - 44)
    assert worker(knowing(engine=pending)).action is None
    assert worker(knowing(engine=replace(pending, since=THEN - 46))).action == Leave()


# --- in a swarm -------------------------------------------------------------------------------

LOOKING = engine("pending", node_id="id-pi9", certified=float(NOW - 9999))


@pytest.mark.parametrize(
    "kept",
    [MEMBER, Memory(epoch=1, founded=1), memory.lost(epoch=1, seed=True)],
)
def test_a_member_whose_engine_looks_for_its_leader_stays_for_as_long_as_it_takes(
    kept: Memory,
) -> None:
    """After each start of dockerd; to leave would destroy the swarm's database."""
    sight = seen(engine=LOOKING, memory=kept)
    made = seed(sight)
    assert (made.phase, made.action, made.reason) == ("MEMBER", None, "")
    for later in (46.0, 121.0, 10.0**6):
        made = seed(sight, now=BEGUN + later)
        assert (made.phase, made.action) == ("MEMBER", None)
        assert made.reason == ("no-quorum" if later > 120 else "")
        told = worker(sight, now=BEGUN + later).reason
        assert told == ("no-leader" if later > 120 else "")


def test_a_founder_that_was_cut_off_and_finds_no_raft_of_its_own_begins_again() -> None:
    """dockerd then waits for itself for ever; nobody else can be in that swarm."""
    sight = seen(engine=LOOKING, memory=Memory(epoch=0, founding=1))
    assert seed(sight, now=BEGUN + 44).action is None
    assert seed(sight, now=BEGUN + 46).action == Leave()


def test_a_member_that_is_looking_leaves_once_a_leader_does_not_know_it() -> None:
    def met(seconds: float, **said: Any) -> Decision:
        now = BEGUN + seconds
        peers = heard(hello(**said), at=now)
        return worker(seen(engine=LOOKING, memory=MEMBER, peers=peers), now=now)

    assert met(44.0, you="").action is None
    assert met(46.0, you="").action == Leave()
    assert met(46.0, you="", quorum=False).action is None
    assert met(149.0, you="id-pi9").action is None
    assert met(151.0, you="id-pi9").action == RestartDocker()


def test_a_member_that_the_leader_sees_as_down_is_not_ready_and_says_so() -> None:
    def down(seconds: float, **more: Any) -> Decision:
        peers = heard(hello(you="id-pi9", you_down=seconds))
        return worker(knowing(engine=IN, peers=peers, memory=MEMBER, **more))

    assert (down(1.0).phase, down(1.0).reason) == ("MEMBER", "")
    assert (down(121.0).action, down(121.0).reason) == (None, "cut-off")
    assert down(151.0).action == RestartDocker()
    again = down(200.0, notes=Notes(restarted=THEN - 60))
    assert (again.action, again.reason) == (None, "cut-off")


def test_a_manager_that_is_not_promoted_for_two_minutes_says_so() -> None:
    def waits(now: float) -> Decision:
        peers = heard(hello(you="id-pi9"), at=now)
        sight = seen(engine=IN, peers=peers, memory=MEMBER)
        return decide(replace(config("pi9"), role="manager"), "", sight, now)

    assert (waits(THEN).phase, waits(THEN).reason) == ("MEMBER", "")
    assert waits(BEGUN + 121).reason == "promotion"


def test_a_manager_that_nobody_vouched_for_asks_and_waits_for_an_answer() -> None:
    stranger = leading(
        mine=entry(role="manager", reachable=True, bound=False),
        engine=engine("active", node_id="id-pi1", manager=True, ca="ca-1"),
    )
    leader_of = replace(stranger, peers=heard(hello("pi2", leader="pi2")))
    assert seed(leader_of).action == ReportJoined("pi2", "id-pi1")
    notes = Notes(refusal="no", refused=True, refused_since=THEN - 1, refused_first=THEN - 1)
    refused = seed(replace(leader_of, notes=notes))
    assert (refused.action, refused.reason) == (None, "refused")
    assert seed(stranger, now=BEGUN + 121).reason == "no-leader"


def test_a_joined_worker_tells_the_leader_remembers_and_is_ready() -> None:
    known = heard(hello(you="id-pi9"))
    assert worker(knowing(engine=IN)).action == ReportJoined("pi1", "id-pi9")
    assert worker(knowing(engine=IN, peers=known)).action == Remember(MEMBER)
    made = worker(knowing(engine=IN, peers=known, memory=MEMBER))
    assert (made.phase, made.action, made.reason) == ("READY", None, "")


def test_a_worker_whose_swarm_the_leader_does_not_know_leaves() -> None:
    """Facts S7: the engine itself reports nothing."""
    twice = knowing(engine=IN, memory=MEMBER, notes=Notes(strangers=2))
    assert worker(twice).action == ReportJoined("pi1", "id-pi9")
    thrice = knowing(engine=IN, memory=MEMBER, notes=Notes(strangers=3))
    assert worker(thrice).action == Leave()


def test_a_worker_that_is_not_bound_for_minutes_leaves_and_joins_again() -> None:
    def refused(seconds: float) -> Decision:
        first = THEN - seconds
        notes = Notes(refusal="not ready yet", refused_since=THEN - 3, refused_first=first)
        return worker(knowing(engine=IN, memory=MEMBER, notes=notes))

    assert refused(149.0).action == ReportJoined("pi1", "id-pi9")
    assert refused(151.0).action == Leave()


def test_a_worker_follows_a_newer_epoch_and_only_a_newer_one() -> None:
    newer = heard(hello(swarm_epoch=2, epoch=2, ca="ca-2"))
    sight = knowing(engine=IN, peers=newer, memory=Memory(epoch=2, swarm_epoch=1))
    assert worker(sight).action == Leave()
    # It has joined that one since, and only the leader's word is missing.
    joined = replace(sight, engine=replace(IN, ca="ca-2"))
    assert worker(joined).action == ReportJoined("pi1", "id-pi9")
    older = knowing(engine=IN, memory=Memory(epoch=2, swarm_epoch=2))
    assert worker(older).action is None
    # The CA of its own swarm is being made anew, and it has the old one still.
    rotating = knowing(engine=replace(IN, ca="ca-0"), memory=MEMBER)
    assert worker(rotating).action == ReportJoined("pi1", "id-pi9")


def test_a_worker_without_a_leader_stays_and_says_so() -> None:
    made = worker(seen(engine=IN, memory=MEMBER))
    assert (made.phase, made.action, made.reason) == ("MEMBER", None, "")
    assert worker(seen(engine=IN, memory=MEMBER), now=BEGUN + 121).reason == "no-leader"


@pytest.mark.parametrize("state", ["error", "locked"])
def test_an_engine_that_takes_part_in_nothing_follows_a_newer_epoch(state: str) -> None:
    mine = engine(state, ca="ca-1")
    newer = heard(hello("pi9", swarm_epoch=2, epoch=2, ca="ca-2"))
    sight = seen(engine=mine, memory=Memory(epoch=2, swarm_epoch=1), peers=newer)
    assert seed(sight).action == Leave()
    same = heard(hello("pi9", swarm_epoch=2, epoch=2, ca="ca-1"))
    assert seed(replace(sight, peers=same)).action != Leave()
    assert seed(replace(sight, peers={})).action != Leave()


def test_an_engine_in_error_is_restarted_then_left_and_joined_again() -> None:
    broken = engine("error", since=THEN - 100, error="certificate")
    first = worker(knowing(engine=broken, memory=MEMBER))
    assert first.action == RestartDocker()
    at = Notes(restarted=THEN - 10)
    assert worker(knowing(engine=broken, memory=MEMBER, notes=at)).action is None
    late = Notes(restarted=THEN - 90)
    assert worker(knowing(engine=broken, memory=MEMBER, notes=late)).action == Leave()


def test_an_engine_in_error_may_first_try_again_by_itself_unless_its_clock_was_set() -> None:
    def lately(**more: Any) -> Decision:
        return worker(knowing(engine=engine("error", since=THEN - 30, **more), memory=MEMBER))

    assert (lately().phase, lately().action) == ("RECOVER", None)
    assert lately(stale_clock=True).action == RestartDocker()


def test_an_engine_in_error_that_never_was_a_member_leaves_at_once() -> None:
    assert worker(knowing(engine=engine("error"))).action == Leave()


def test_an_engine_in_error_is_not_made_to_leave_by_a_founder_without_a_memory() -> None:
    lost = memory.lost(epoch=1, seed=True)
    broken = engine("error", since=THEN - 100)
    assert seed(seen(engine=broken, memory=lost)).action == RestartDocker()
    late = Notes(restarted=THEN - 90)
    made = seed(seen(engine=broken, memory=lost, notes=late))
    assert (made.action, made.reason) == (None, "swarm-error")


def test_an_engine_in_error_is_restarted_again_after_a_clock_step_and_after_minutes() -> None:
    def again(restarted: float, **more: Any) -> Decision:
        broken = engine("error", since=THEN - 100, **more)
        return worker(
            knowing(engine=broken, memory=MEMBER, notes=Notes(restarted=THEN - restarted))
        )

    assert again(10.0).action is None
    assert again(10.0, stale_clock=True).action == RestartDocker()
    assert again(301.0).action == RestartDocker()


def test_a_founder_without_the_last_of_its_memory_does_not_leave_its_swarm() -> None:
    broken = engine("error", since=THEN - 100)
    sight = seen(engine=broken, memory=Memory(epoch=0, founding=1, founded=1))
    assert seed(sight).action == RestartDocker()


@pytest.mark.parametrize(
    "kept",
    [
        memory.lost(epoch=1, seed=True),
        Memory(epoch=1),
        Memory(epoch=1, founding=1),
        Memory(epoch=2, founding=1),
        Memory(epoch=0, founding=1, founded=1),
    ],
)
def test_nothing_is_founded_where_a_swarm_of_that_epoch_was(kept: Memory) -> None:
    made = seed(seen(memory=kept))
    assert (made.phase, made.action) != ("INIT", Init(epoch=1))
    assert made.action is None


@pytest.mark.parametrize(("disk", "reason"), [(False, "stuck"), (True, "disk")])
def test_a_step_that_fails_for_two_minutes_is_told_and_tried_all_the_same(
    disk: bool, reason: str
) -> None:
    def founding(since: float, action: str = "Init") -> Decision:
        failing = Failing(action, since, "it does not work", disk)
        return seed(seen(memory=Memory(0, founding=1), notes=Notes(failing=failing)))

    made = founding(THEN - 121)
    assert (made.action, made.reason, made.why) == (Init(1), reason, "it does not work")
    assert founding(THEN - 119).reason == ""
    assert founding(THEN - 121, "Promote").reason == ""


def test_a_join_that_fails_after_each_token_is_told() -> None:
    failing = Failing("Join", THEN - 121, "refused", disk=False)
    made = worker(knowing(notes=Notes(failing=failing)))
    assert (made.action, made.reason) == (AskJoin("pi1"), "stuck")


@pytest.mark.parametrize(
    ("said", "reason"),
    [(leader.LIVES, "name-taken"), (leader.NO_ROOM, "no-quorum"), ("timed out", "stuck")],
)
def test_a_leader_that_says_later_for_minutes_is_told_with_its_own_remedy(
    said: str, reason: str
) -> None:
    notes = Notes(refusal=said, refused_since=THEN - 2, refused_first=THEN - 121)
    made = worker(knowing(notes=notes))
    assert (made.action, made.reason) == (AskJoin("pi1"), reason)


def test_a_certificate_from_the_future_is_left_once_the_leader_agrees_on_the_time() -> None:
    future = replace(IN, certified=NOW + 10**8)
    sight = knowing(engine=future, memory=MEMBER, peers=heard(hello(you="id-pi9")))
    assert worker(sight).action == Leave()
    ahead = heard(hello(you="id-pi9", time=NOW + 10.0**8))
    assert worker(replace(sight, peers=ahead)).action is None
    # While nobody can give another one, this one is as good as any.
    closed = heard(hello(you="id-pi9", grants=False))
    assert worker(replace(sight, peers=closed)).action is None


def test_every_reason_has_a_remedy() -> None:
    sights = [seen(), seen(engine=None), seen(memory=Memory(1, founded=1)), seen(engine=IN)]
    found = {
        decide(config(name), text, sight, THEN + later).reason
        for sight in sights
        for later in (0, 1000)
        for name, text in (("pi1", SEED), ("pi1", ""), ("pi9", ""))
    }
    assert found - {""} <= set(REASONS)
    assert len(found) > 3


def test_a_seed_whose_swarm_is_nowhere_says_what_to_do_about_it() -> None:
    late = BEGUN + 130
    gone = seen(memory=Memory(1, founding=1, founded=1, swarm_epoch=1))
    # To flash it again would give a card that may only join the others.
    assert decide(three(), SEED, gone, late).reason == "managers-silent"
    another = seen(memory=Memory(1, swarm_epoch=1))
    assert decide(three(), SEED, another, late).reason == "managers-silent"


# --- cards that were replaced -------------------------------------------------------------------


def test_a_managers_newer_card_is_remembered_and_its_older_one_not_listened_to() -> None:
    flashed = heard(hello(generation=2, grants=False, quorum=False, leader=""))
    made = worker(knowing(peers=flashed))
    assert made.action == Remember(Memory(epoch=1, seen={"pi1": 2}))
    knows = Memory(epoch=1, seen={"pi1": 2})
    assert worker(knowing(peers=heard(hello()), memory=knows)).phase == "PROBE"
    assert worker(knowing(peers=heard(hello(generation=2)), memory=knows)).phase == "JOIN"
    future = heard(hello(swarm_epoch=9, epoch=9))
    assert worker(knowing(peers=future, memory=knows)).action is None


def test_a_swarm_that_is_not_of_piflash_is_left_alone() -> None:
    foreign = leading()
    assert foreign.swarm
    foreign = replace(foreign, swarm=replace(foreign.swarm, labels={}))
    decision = decide(config("pi1"), SEED, foreign, THEN)
    assert (decision.reason, decision.action) == ("foreign-swarm", None)
    # But for the one whose founding was cut off before it had its labels.
    cut_off = replace(foreign, memory=Memory(epoch=0, founding=1))
    assert decide(config("pi1"), SEED, cut_off, THEN).action == Leave()
