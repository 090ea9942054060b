from __future__ import annotations

import pytest

from firstboot.decide import decide
from flasher.model import PermitKind
from tests.unit.firstboot.card import config, permit

INIT = "docker swarm init --advertise-addr 198.18.0.11"


@pytest.mark.parametrize(
    ("kind", "epoch", "expected"),
    [
        (PermitKind.GENESIS, 1, "would run: " + INIT),
        (
            PermitKind.REJOIN,
            1,
            "would ask every other manager for a swarm to join; if there never was one, run: "
            + INIT,
        ),
        (
            PermitKind.REBUILD,
            2,
            "would look 120 s for a swarm with a quorum to join; if there is none, run: " + INIT,
        ),
    ],
)
def test_a_seed_with_a_permit_would_found_the_swarm(
    kind: PermitKind, epoch: int, expected: str
) -> None:
    made = decide(config(generation=3, epoch=epoch), permit=permit(kind, generation=3, epoch=epoch))
    assert (made.phase, made.next) == ("INIT", expected)
    assert made.why == f"pi1 is the seed of home and holds a {kind.value} permit for epoch {epoch}"


def test_every_other_node_would_join_the_seed() -> None:
    made = decide(config("pi9"), permit="")
    assert (made.phase, made.next) == ("JOIN", "would join the swarm of pi1 at 198.18.0.11")
    assert made.why == "pi9 is a worker and pi1 is the seed"


def test_a_permit_does_not_make_a_seed_of_a_node_that_is_not() -> None:
    assert decide(config("pi9"), permit=permit()).phase == "JOIN"


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
    made = decide(config(), permit=text)
    assert made.phase == "BLOCKED"
    assert why in made.why
    assert made.remedy.startswith("write the card of pi1 again")
