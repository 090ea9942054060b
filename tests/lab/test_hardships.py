"""Power cuts while the swarm forms, clocks that are years off, new cards: it forms, and it stays.

The name of a test is the seed of all that is random in it: to replay one, run it alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.lab import cards, figures, stories
from tests.lab.cards import Cluster
from tests.lab.clocks import YEAR, Clock
from tests.lab.lab import Lab
from tests.lab.orders import LONG
from tests.lab.stories import Story, Told

CUTS_EACH = 5
AT_ONCE = 4  # labs: they wait far more than they compute
# Cards that lay in a drawer: else the clock's floor, the flash time, would be as good as the true
# time. Founder and joiners may be as far apart as the certificates last, which is ten years.
FLASHED = -5 * YEAR
SHAPES = {"1+3": (1, 3), "3+2": (3, 2)}

POWER_CUTS = [
    f"{('1+3', '3+2')[number % 2]} power cuts {number}" for number in range(8 if LONG else 4)
]
CLOCKS = [
    "1+3 clocks: founder at 1970, the others ahead",
    "1+3 clocks: founder ahead, the others at 2019",
    *(f"{('3+2', '1+3')[number % 2]} clocks at random {number}" for number in range(8 * LONG)),
]
FLASHED_AGAIN = ["1+3 flashed again", "3+2 flashed again"] if LONG else ["3+2 flashed again"]


@pytest.fixture(scope="module")
def old_cards(
    base: Path, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Cluster]:
    """Cards that were written years ago, by shape."""
    clock = Clock(tmp_path_factory.mktemp("then") / "clock")
    clock.shift(FLASHED)
    made = {}
    for shape, (managers, workers) in SHAPES.items():
        directory = tmp_path_factory.mktemp("cards") / "cluster"
        cluster = cards.describe(directory, base, managers=managers, workers=workers)
        cluster.flash(environment=clock.environment(library))
        made[shape] = cluster
    return made


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,
    four: Cluster,
    five: Cluster,
    old_cards: dict[str, Cluster],
    python: str,
    library: Path,
) -> Iterator[dict[str, Future[Told]]]:
    """Every story that a selected test asks for, several at a time."""
    wanted = {
        item.callspec.params["seed"]
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function)
    }
    labs: list[Lab] = []

    def cluster(seed: str, place: Path) -> Cluster:
        shape = seed.split()[0]
        if "clocks" in seed:
            return old_cards[shape]
        if "again" not in seed:
            return {"1+3": four, "3+2": five}[shape]
        managers, workers = SHAPES[shape]
        own = cards.describe(place / "cluster", base, managers=managers, workers=workers)
        own.flash()
        return own

    def tell(seed: str) -> Told:
        told = Told(seed)
        place = tmp_path_factory.mktemp("story")
        chosen = cluster(seed, place)
        with Lab(place / "lab", chosen, python=python, library=library) as lab:
            labs.append(lab)
            try:
                _story(seed, chosen)(lab, told)
            except Exception as error:
                raise AssertionError(f"{told}\n{error}") from error
        return told

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # The longest first.
        order = (*CLOCKS, *FLASHED_AGAIN, *POWER_CUTS)
        futures = {seed: pool.submit(tell, seed) for seed in order if seed in wanted}
        try:
            yield futures
        finally:
            # After Ctrl-C: nobody waits for what is still being told.
            for future in futures.values():
                future.cancel()
            for lab in labs:
                lab.switch.close()


def _story(seed: str, cluster: Cluster) -> Story:
    if "power cuts" in seed:
        return partial(stories.power_cuts, cuts=CUTS_EACH)
    if "flashed again" in seed:
        return stories.flashed_again
    return partial(stories.wrong_clocks, offsets=_offsets(seed, cluster))


def _offsets(seed: str, cluster: Cluster) -> dict[str, float]:
    first, *others = [one.name for one in cluster.members]
    then = {"1970": -time.time(), "2019": 49 * YEAR - time.time(), "ahead": 3 * YEAR}
    if "founder at 1970" in seed:
        return {first: then["1970"], **dict.fromkeys(others, then["ahead"])}
    if "founder ahead" in seed:
        return {first: then["ahead"], **dict.fromkeys(others, then["2019"])}
    choices = [*then.values(), 0.0]
    source = random.Random(seed)
    return {name: source.choice(choices) for name in (first, *others)}


@pytest.mark.parametrize("seed", CLOCKS)
def test_forms_with_clocks_years_off_and_survives_the_true_time_and_a_hundred_days(
    told: dict[str, Future[Told]], seed: str
) -> None:
    figures.took("clocks years off, no NTP: to all ready", told[seed].result().seconds)


@pytest.mark.parametrize("seed", FLASHED_AGAIN)
def test_a_node_that_is_flashed_again_takes_its_place_and_its_old_card_is_refused(
    told: dict[str, Future[Told]], seed: str
) -> None:
    figures.took(f"{seed}: worker, manager, seed, one by one", told[seed].result().seconds)


@pytest.mark.parametrize("seed", POWER_CUTS)
def test_converges_after_power_cuts_at_random_moments_and_leaves_no_stale_entry(
    told: dict[str, Future[Told]], seed: str
) -> None:
    figures.took(
        f"{CUTS_EACH} power cuts while forming: from the last to all ready",
        told[seed].result().seconds,
    )
