"""What the leader does for others and what it answers them, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firstboot.decide import decide
from firstboot.model import (
    Answer,
    Bind,
    Clock,
    Contact,
    Decision,
    Demote,
    Granted,
    Leave,
    Memory,
    Notes,
    Observation,
    Promote,
    Remember,
    Remove,
    RotateCa,
    RotateToken,
    Supersede,
)
from tests.support.identity import NOW
from tests.unit.firstboot.card import config, permit
from tests.unit.firstboot.sights import THEN, ask, engine, entry, heard, hello, leading, outsider


def lead(sight: Observation, **card: Any) -> Decision:
    return decide(config(**card), permit(), sight, THEN)


def answered(sight: Observation) -> Answer:
    action = lead(sight).action
    assert isinstance(action, Answer), action
    return action


READY9 = entry("pi9")
KNOWN = Memory(1, 1, 1, 1, {"pi1": 1, "pi2": 1, "pi9": 1})
DOWN9 = entry("pi9", ready=False, down_for=31.0)

# --- founding, to its end ---------------------------------------------------------------------


def test_what_was_founded_is_remembered_before_anything_else() -> None:
    fresh = leading(memory=Memory(epoch=0, founding=1), rotations=0)
    done = Memory(epoch=1, founding=1, founded=1, swarm_epoch=1)
    assert lead(fresh).action == Remember(done)


def test_the_ca_is_made_anew_once_for_certificates_of_ten_years() -> None:
    assert lead(leading(rotations=0)).action == RotateCa()
    assert lead(leading(rotating=True)).action is None
    assert lead(leading()).phase == "READY"


def test_a_ca_that_waits_for_a_node_that_is_off_says_for_whom() -> None:
    assert lead(leading(DOWN9, rotating=True)).reason == ""
    made = lead(leading(replace(DOWN9, down_for=121.0), rotating=True))
    assert (made.action, made.reason, "waits for pi9" in made.why) == (None, "stuck", True)


def test_a_ca_does_not_wait_for_the_entry_of_a_node_that_says_it_is_in_no_swarm() -> None:
    """It cannot ask to join before the CA is made."""
    known = {"piflash.generation.pi9": "1"}
    gone = leading(DOWN9, rotating=True, labels=known, peers=heard(outsider("pi9")))
    assert lead(gone).action == Remove("id-pi9")
    nobody = entry("pi9", bound=False, ready=False, down_for=31.0)
    assert lead(leading(nobody, rotating=True)).action == Remove("id-pi9")


def test_a_ca_of_the_future_is_made_anew_and_says_since_when_it_is_good() -> None:
    made = lead(leading(ca_since=NOW + 7200.0))
    assert (made.action, made.reason) == (RotateCa(), "clock")
    assert "begin 20" in made.why
    assert lead(leading(ca_since=NOW + 100.0)).reason == ""


def test_the_leader_says_whose_absence_forbids_a_promotion() -> None:
    waiting = entry("pi9", wanted="manager")
    away = entry("pi2", role="manager", ready=False, down_for=400.0)
    made = lead(leading(waiting, away, memory=KNOWN))
    assert (made.action, made.phase) == (None, "READY")
    assert made.why.endswith("pi9 is promoted when pi2 is back")


def test_a_ca_from_the_future_is_made_anew() -> None:
    """Facts S16: the clock was put back since."""
    assert lead(leading(ca_since=NOW + 10.0**8)).action == RotateCa()


def test_the_final_ca_waits_for_the_time_after_a_power_cut() -> None:
    unsure = leading(rotations=0, clock=Clock(float(NOW), "floor", float(NOW)))
    assert lead(unsure).phase == "CLOCK"
    assert decide(config(), permit(), unsure, THEN + 90).action == RotateCa()


def test_a_certificate_of_its_own_from_the_future_is_made_anew_too() -> None:
    """A rotation was cut off, and finished by the clock of the next boot."""
    mine = engine("active", node_id="id-pi1", manager=True, ca="ca-1", certified=NOW + 10.0**8)
    assert lead(leading(engine=mine)).action == RotateCa()


def test_a_rotation_does_not_wait_for_entries_of_nodes_that_are_gone() -> None:
    """Swarmkit finishes it only when every node on the list has its new certificate."""
    ghost = entry("pi9", bound=False, ready=False, down_for=31.0)
    assert lead(leading(ghost, rotating=True)).action == Remove("id-pi9")
    outside = heard(outsider("pi9"))
    assert lead(leading(DOWN9, rotating=True, peers=outside)).action == Supersede("pi9", 1)
    voided = leading(DOWN9, rotating=True, peers=outside, labels={"piflash.generation.pi9": "1"})
    assert lead(voided).action == Remove("id-pi9")
    for silent in (leading(DOWN9, rotating=True), leading(READY9, rotating=True, peers=outside)):
        assert lead(silent).action is None


def test_the_leader_binds_itself() -> None:
    mine = entry(role="manager", leader=True, reachable=True, bound=False)
    assert lead(leading(mine=mine)).action == Bind("id-pi1", "pi1", 1, "manager", {})


def test_a_manager_without_a_quorum_follows_a_newer_epoch() -> None:
    alone = leading(
        engine=engine("active", node_id="id-pi1", manager=True, ca="ca-1"),
        memory=Memory(epoch=2, swarm_epoch=1),
        peers=heard(hello("pi2", swarm_epoch=2, ca="ca-2")),
    )
    assert lead(replace(alone, swarm=None)).action == Leave()
    same = heard(hello("pi2", swarm_epoch=2, ca="ca-1"))
    assert lead(replace(alone, swarm=None, peers=same)).action is None


def test_a_swarm_that_piflash_did_not_found_is_left_alone() -> None:
    assert lead(leading(labels={"piflash.epoch": "no"})).reason == "foreign-swarm"


def test_a_founding_that_was_cut_off_before_the_labels_were_written_begins_again() -> None:
    """Seen with real engines: the swarm is there, its labels are not."""
    begun = Memory(epoch=0, founding=1)
    assert lead(leading(labels={"piflash.epoch": "no"}, memory=begun)).action == Leave()
    crowd = leading(entry("pi9"), labels={"piflash.epoch": "no"}, memory=begun)
    assert lead(crowd).reason == "foreign-swarm"


def test_without_a_quorum_it_waits_and_says_so_after_a_minute() -> None:
    lost = replace(leading(), swarm=None)
    assert lead(lost).action is None
    assert decide(config(), permit(), lost, THEN + 60).reason == "docker"


# --- who asks to join -------------------------------------------------------------------------


def test_a_node_of_the_cluster_may_join() -> None:
    assert answered(leading(asks=(ask(),))).status == "granted"


def test_nobody_joins_while_the_swarm_is_being_founded() -> None:
    for sight in (leading(rotations=0), leading(rotating=True)):
        assert answered(replace(sight, asks=(ask(),))).status == "later"


def test_who_does_not_lead_says_who_does() -> None:
    follower = leading(
        entry("pi2", role="manager", leader=True, reachable=True),
        mine=entry(role="manager", reachable=True),
        asks=(ask(),),
    )
    assert (answered(follower).status, answered(follower).leader) == ("elsewhere", "pi2")
    outside = replace(leading(asks=(ask(),)), engine=engine(), swarm=None)
    assert answered(outside).status == "elsewhere"


@pytest.mark.parametrize(
    "known",
    [
        {"labels": {"piflash.generation.pi9": "3"}},
        {"memory": Memory(1, 1, 1, 1, {"pi1": 1, "pi9": 3})},
    ],
)
def test_an_older_card_is_refused(known: dict[str, Any]) -> None:
    made = answered(leading(asks=(ask(generation=2),), **known))
    assert (made.status, made.why.split(":")[0]) == ("refused", "superseded")


def test_that_a_newer_card_was_let_in_is_kept_by_the_swarm_before_it_is() -> None:
    assert lead(leading(asks=(ask(generation=3),))).action == Supersede("pi9", 3)
    kept = leading(asks=(ask(generation=3),), labels={"piflash.generation.pi9": "3"})
    assert answered(kept).status == "granted"
    assert answered(leading(asks=(ask(generation=1),))).status == "granted"


def test_an_older_card_than_the_one_in_the_swarm_is_refused_in_both_ways() -> None:
    for kind in ("join", "joined"):
        sight = leading(entry("pi9", generation=2), asks=(ask(kind=kind, node_id="id-pi9"),))
        assert answered(sight).status == "refused"


def test_an_older_card_is_refused_once_a_newer_one_was_given_a_token() -> None:
    given = Notes(granted=(Granted("pi9", 2, THEN - 5),))
    for kind in ("join", "joined"):
        made = answered(leading(asks=(ask(kind=kind, node_id="id-pi9"),), notes=given))
        assert (made.status, "superseded" in made.why) == ("refused", True)


def test_a_second_card_of_a_node_that_lives_has_to_wait() -> None:
    assert answered(leading(READY9, asks=(ask(generation=2),))).status == "later"
    speaks = heard(hello("pi9", node_id="id-pi9"))
    sight = leading(DOWN9, asks=(ask(),), peers=speaks)
    assert answered(sight).status == "later"


def test_an_old_entry_is_removed_only_after_30_seconds_of_silence() -> None:
    early = entry("pi9", ready=False, down_for=29.0)
    assert answered(leading(early, asks=(ask(),))).status == "later"
    assert lead(leading(DOWN9, asks=(ask(),))).action == Supersede("pi9", 1)
    known = {"piflash.generation.pi9": "1"}
    assert lead(leading(DOWN9, asks=(ask(),), labels=known)).action == Remove("id-pi9")


def test_the_new_card_itself_may_answer_meanwhile() -> None:
    new = {"pi9": Contact(outsider("pi9"), THEN)}
    known = {"piflash.generation.pi9": "1"}
    sight = leading(DOWN9, asks=(ask(),), labels=known, peers=new)
    assert lead(sight).action == Remove("id-pi9")


def managers(**down: Any) -> tuple[Any, ...]:
    pi2 = entry("pi2", role="manager", reachable=True)
    pi3 = entry("pi3", role="manager", **{"reachable": True, **down})
    return pi2, pi3


def test_a_dead_manager_is_demoted_then_removed() -> None:
    asked = ask("pi3", role="manager", generation=2)
    dead = managers(reachable=False, ready=False, down_for=31.0)
    assert lead(leading(*dead, asks=(asked,))).action == Demote("id-pi3")


def test_a_manager_is_not_demoted_where_that_would_cost_the_quorum() -> None:
    pi2, pi3 = managers(reachable=False, ready=False, down_for=31.0)
    both = (replace(pi2, reachable=False, ready=False), pi3)
    made = answered(leading(*both, asks=(ask("pi3", role="manager", generation=2),)))
    assert (made.status, "quorum" in made.why) == ("later", True)


def test_who_was_promoted_and_never_came_into_the_raft_can_be_demoted() -> None:
    promoted = replace(DOWN9, role="manager", reachable=False)
    assert lead(leading(promoted, asks=(ask(),))).action == Demote("id-pi9")


def test_nobody_takes_the_leaders_own_name() -> None:
    assert answered(leading(asks=(ask("pi1", generation=9),))).status == "refused"


# --- who says that it joined ------------------------------------------------------------------


def joined(*others: Any, **more: Any) -> Observation:
    return leading(*others, asks=(ask(kind="joined", node_id="id-pi9", **more),))


NEW9 = entry("pi9", bound=False)


def test_a_node_that_joined_is_bound_to_its_name_and_told_so() -> None:
    assert lead(joined(NEW9)).action == Bind("id-pi9", "pi9", 1, "worker", {})
    assert answered(joined(READY9)).status == "bound"


def test_role_and_generation_are_those_of_the_certificate() -> None:
    made = lead(joined(NEW9, role="manager", generation=4)).action
    assert made == Bind("id-pi9", "pi9", 4, "manager", {})


def test_a_node_id_that_the_swarm_does_not_have_is_unknown() -> None:
    assert answered(joined()).status == "unknown"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (entry("pi8", id="id-pi9"), "belongs to pi8"),
        (entry("pi8", id="id-pi9", bound=False), "host name pi8"),
        (replace(NEW9, address="198.18.0.77"), "address 198.18.0.77"),
    ],
)
def test_nobody_takes_another_nodes_id(other: Any, why: str) -> None:
    made = answered(joined(other))
    assert (made.status, why in made.why) == ("refused", True)


def test_an_entry_that_is_not_ready_is_not_bound_yet() -> None:
    assert answered(joined(replace(NEW9, ready=False))).status == "later"


def test_a_name_is_never_bound_twice() -> None:
    old = entry("pi9", id="id-old")
    assert answered(joined(old, NEW9)).status == "later"
    gone = replace(old, ready=False, down_for=31.0)
    assert lead(joined(gone, NEW9)).action == Supersede("pi9", 1)


# --- roster -----------------------------------------------------------------------------------


def test_a_manager_to_be_is_promoted_one_at_a_time() -> None:
    new2, new3 = (entry(name, wanted="manager") for name in ("pi2", "pi3"))
    assert lead(leading(new2, new3)).action == Promote("id-pi2")
    on_the_way = entry("pi2", role="manager", reachable=False)
    assert not isinstance(lead(leading(on_the_way, new3)).action, Promote)
    there = replace(on_the_way, reachable=True)
    assert lead(leading(there, new3)).action == Promote("id-pi3")


def test_nobody_is_promoted_soon_after_a_demotion() -> None:
    notes = Notes(token_is_out=False, demoted=THEN - 29)
    sight = leading(entry("pi2", wanted="manager"), notes=notes)
    assert not isinstance(lead(sight).action, Promote)
    later = replace(sight, notes=replace(notes, demoted=THEN - 31))
    assert lead(later).action == Promote("id-pi2")


def test_no_worker_and_no_unbound_node_is_promoted() -> None:
    unbound = entry("pi2", bound=False)
    for other in (READY9, unbound, entry("pi2", wanted="manager", ready=False)):
        assert not isinstance(lead(leading(other)).action, Promote)


def test_a_node_of_an_older_card_is_not_promoted() -> None:
    old = entry("pi2", wanted="manager", generation=1)
    sight = leading(old)
    assert lead(sight).action == Promote("id-pi2")
    newer = replace(sight, memory=replace(sight.memory, seen={"pi1": 1, "pi2": 2}))
    assert not isinstance(lead(newer).action, Promote)


def test_entries_of_failed_tries_go_when_they_are_down_and_silent() -> None:
    nameless = entry("", id="id-x", bound=False, ready=False, down_for=31.0)
    assert lead(leading(nameless)).action == Remove("id-x")
    assert lead(leading(replace(nameless, down_for=29.0))).action is None
    assert lead(leading(replace(nameless, ready=True))).action is None
    answers = heard(replace(outsider("pi9"), engine="active", node_id="id-x"))
    assert lead(leading(nameless, peers=answers)).action is None


def test_a_bound_node_that_is_down_stays_on_the_list() -> None:
    sight = leading(DOWN9, memory=replace(leading().memory, seen={"pi1": 1, "pi9": 1}))
    assert lead(sight).action is None


def test_labels_that_drifted_are_put_right() -> None:
    card = config()
    roster = (card.roster[0], replace(card.roster[1], labels={"disk": "ssd"}))
    made = decide(replace(card, roster=roster), permit(), leading(READY9), THEN)
    assert made.action == Bind("id-pi9", "pi9", 1, "worker", {"disk": "ssd"})


def test_a_label_of_ours_in_a_roster_is_passed_over() -> None:
    card = config()
    roster = (card.roster[0], replace(card.roster[1], labels={"piflash.generation": "9"}))
    sight = leading(READY9, memory=replace(leading().memory, seen={"pi1": 1, "pi9": 1}))
    assert decide(replace(card, roster=roster), permit(), sight, THEN).action is None


def test_a_token_that_was_given_away_is_changed_when_nobody_is_on_the_way() -> None:
    out = Notes(token_is_out=True, granted=(Granted("pi9", 1, at=THEN - 5),))
    assert not isinstance(lead(leading(notes=out)).action, RotateToken)
    assert lead(leading(READY9, notes=out)).action == RotateToken()
    late = replace(out, granted=(Granted("pi9", 1, at=THEN - 61),))
    assert lead(leading(notes=late)).action == RotateToken()


def test_the_highest_generations_are_remembered() -> None:
    made = lead(leading(entry("pi9", generation=7))).action
    assert isinstance(made, Remember)
    assert made.memory.seen == {"pi1": 1, "pi9": 7}


def test_says_who_is_missing() -> None:
    assert "waits for pi9" in lead(leading()).why
    whole = replace(leading(READY9), memory=Memory(1, 1, 1, 1, {"pi1": 1, "pi9": 1}))
    assert lead(whole).why == "leads the swarm"
