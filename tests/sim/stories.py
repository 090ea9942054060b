"""Stories that need a rule: with it they end well, without it something is violated."""

from __future__ import annotations

from dataclasses import replace

from tests.sim import plans
from tests.sim.plans import DAY, YEAR, Fault, Plan


def calm() -> Plan:
    return plans.plain(1, 2, heal=60.0)


def three() -> Plan:
    return plans.plain(3, 1, heal=60.0)


def swapped(node: str, *, managers: int = 1, at: float = 40.0) -> Plan:
    """A card is replaced in a swarm that is ready."""
    return plans.plain(managers, 2, heal=120.0, faults=(Fault(at, "reflash", node),))


def rebuilt() -> Plan:
    """The seed gets a --rebuild card, although its swarm lives."""
    return plans.plain(3, 1, heal=60.0, faults=(Fault(50.0, "again", "m1"),))


def two_epochs() -> Plan:
    """A rebuild apart from a quorum that lives; a worker hears of it, and comes to the others."""
    return plans.plain(
        3,
        1,
        heal=300.0,
        honest=False,
        faults=(
            Fault(40.0, "apart", "m1", 260.0),
            Fault(41.0, "rebuild", "m1"),
            Fault(150.0, "reflash", "w1"),
            Fault(155.0, "apart", "w1", 17.0),
        ),
    )


def old_cards() -> Plan:
    """Cards of ten months ago; only the founder knows the time."""
    plan = plans.plain(1, 2)
    return plans.plain(
        1,
        2,
        heal=10.0,
        age=300 * DAY,
        clocks={"w1": -300 * DAY, "w2": -400 * DAY},
        ntp={**dict.fromkeys(plan.boots), "m1": 1.0},
    )


def cut_off() -> Plan:
    """The power goes while the final CA is made, and the clock starts wrongly then."""
    return plans.plain(
        1,
        2,
        heal=60.0,
        clocks={"m1": 20 * DAY},
        ntp={"m1": 30.0, "w1": 39.0, "w2": 1.0},
        docker=dict.fromkeys(("m1", "w1", "w2"), 0.2),
        faults=(Fault(32.5, "cut", "m1", 1.0),),
    )


def cut_off_sooner() -> Plan:
    """The power goes while the swarm is founded, and the clock starts wrongly then."""
    return replace(cut_off(), faults=(Fault(30.5, "cut", "m1", 1.0),))


def ahead() -> Plan:
    """The seed founds by a clock that is three years ahead, and then learns the true time."""
    plan = plans.plain(1, 2, heal=150.0)
    return plans.plain(
        1, 2, heal=150.0, clocks={"m1": 3 * YEAR}, ntp={**plan.ntp, "m1": 140.0, "w2": 150.0}
    )


def months() -> Plan:
    return plans.plain(1, 2, heal=30.0, later=True)


def forged(how: str) -> Plan:
    """The seed's card carries a permit that is not its own."""
    return plans.plain(1, 1, heal=20.0, forged=how)


def forgotten() -> Plan:
    """The founder loses its swarm, and would be free to found it again."""
    return plans.plain(1, 2, heal=60.0, faults=(Fault(40.0, "forget", "m1", 1.0),))


def rebuilt_apart() -> Plan:
    """The seed gets a --rebuild card, and its network comes up late; its old swarm lives."""
    return plans.plain(
        3,
        1,
        heal=100.0,
        faults=(Fault(49.0, "apart", "m1", 35.0), Fault(50.0, "rebuild", "m1")),
    )


def dark_house() -> Plan:
    """No power; the managers come back one after the other, each alone for more than a minute."""
    return plans.plain(3, 1, heal=400.0, faults=(Fault(40.0, "house", "", 320.0),))


def armed() -> Plan:
    """A --rebuild card joined its swarm, which lived; later it loses that, and is up first."""
    return plans.plain(
        3,
        1,
        heal=700.0,
        faults=(
            Fault(50.0, "rebuild", "m1"),
            Fault(300.0, "forget", "m1", 5.0),
            Fault(300.0, "cut", "m2", 200.0),
            Fault(300.0, "cut", "m3", 200.0),
        ),
    )


def replaced_worker() -> Plan:
    """The old card of a worker comes while its new one is away for longer than half a minute."""
    plan = plans.plain(1, 2)
    return plans.plain(
        1,
        2,
        heal=200.0,
        honest=False,
        boots={**plan.boots, "w1": 34.0},
        faults=(
            Fault(30.0, "reflash", "w1"),
            Fault(60.0, "cut", "w1", 90.0),
            Fault(62.0, "old", "", 80.0),
        ),
    )


def one_dead() -> Plan:
    """One of five managers is replaced while another one is away."""
    return plans.plain(
        5, 0, heal=200.0, faults=(Fault(40.0, "cut", "m2", 140.0), Fault(45.0, "reflash", "m3"))
    )


def never_came() -> Plan:
    """Who is promoted first (at 9.2 s) loses its card before it is in the raft."""
    return plans.plain(3, 0, heal=100.0, faults=(Fault(9.8, "reflash", "m3"),))


def minority() -> Plan:
    """The swarm is rebuilt; a manager that kept its card is up, and another one comes late."""
    return plans.plain(
        3,
        0,
        heal=320.0,
        faults=(Fault(40.0, "cut", "m2", 280.0), Fault(45.0, "rebuild", "m1")),
    )
