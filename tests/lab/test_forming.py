"""Cards in, power on, in any order: one swarm as the cluster file has it, and how fast."""

from __future__ import annotations

import pytest

from tests.lab import byhand, figures, orders
from tests.lab.cards import Cluster
from tests.lab.conftest import MakeLab
from tests.lab.orders import LONG, Order

PATIENCE = 240.0
ORDERS = 10 if LONG else 3
# Measured in pairs, one beside the other, and told: a time is no reason to fail on two cores
# that may have other work. The goals stand beside the figures.
PAIRS = 5 if LONG else 2
GOALS = {"by hand": 1.5, "1+19": 3.0}


def form(make_lab: MakeLab, cluster: Cluster, order: Order) -> float:
    """Form a swarm; give the seconds from the last engine's answer until it was as it should be."""
    with make_lab(cluster) as lab:
        orders.power_on(lab, order)
        try:
            formed = lab.wait_formed(seconds=PATIENCE)
            lab.wait_settled(seconds=PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{order}\n{error}") from None
        return formed - lab.answered()


def by_hand(make_lab: MakeLab, cluster: Cluster) -> float:
    with make_lab(cluster) as lab:
        lab.power_on(by_hand=True)
        return byhand.form(lab).total


@pytest.fixture(params=["1+3", "3+2"])
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(shape: str, request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue({"1+3": "four", "3+2": "five"}[shape])
    return found


@pytest.mark.parametrize("number", range(ORDERS))
def test_forms_in_any_order_of_power(
    make_lab: MakeLab, cluster: Cluster, shape: str, number: int
) -> None:
    order = orders.shuffled(f"{shape} number {number}", [one.name for one in cluster.members])
    figures.took(f"{shape}, in a random order", form(make_lab, cluster, order))


def test_forms_from_a_power_strip_beside_the_same_by_hand(
    make_lab: MakeLab, cluster: Cluster, shape: str
) -> None:
    strip = orders.at_once([one.name for one in cluster.members])
    hand, service = f"{shape}, by hand", f"{shape}, all at once"
    for _ in range(PAIRS):
        figures.took(hand, by_hand(make_lab, cluster))
        figures.took(service, form(make_lab, cluster, strip))
    figures.ratio(service, hand, goal=GOALS["by hand"])


def test_twenty_nodes_form_beside_four(make_lab: MakeLab, four: Cluster, twenty: Cluster) -> None:
    few, many = "1+3, beside 1+19", "1+19, all at once"
    for _ in range(PAIRS):
        for what, cluster in ((few, four), (many, twenty)):
            strip = orders.at_once([one.name for one in cluster.members])
            figures.took(what, form(make_lab, cluster, strip))
    figures.ratio(many, few, goal=GOALS["1+19"])
