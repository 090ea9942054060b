"""Power cuts while the swarm forms, and clocks that are years off: it forms, and it stays."""

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

CUTS, CUTS_EACH = 30, 5
AT_ONCE = 4  # labs: they wait far more than they compute
# Cards that lay in a drawer: else the clock's floor, the flash time, would be as good as the true
# time. Founder and joiners may be as far apart as the certificates last, which is ten years.
FLASHED = -5 * YEAR

POWER_CUTS = [
    f"{shape} power cuts {number}"
    for number in range(CUTS // CUTS_EACH * (4 if LONG else 1))
    for shape in [("1+3", "3+2")[number % 2]]
]
CLOCKS = [
    "1+3 clocks: founder at 1970, the others ahead",
    "1+3 clocks: founder ahead, the others at 2019",
    *(
        f"{('3+2', '1+3')[number % 2]} clocks at random {number}"
        for number in range(8 if LONG else 1)
    ),
]


@pytest.fixture(scope="module")
def old_cards(
    base: Path, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Cluster]:
    """Cards that were written years ago, by shape."""
    clock = Clock(tmp_path_factory.mktemp("then") / "clock")
    clock.shift(FLASHED)
    made = {}
    for managers, workers in ((1, 3), (3, 2)):
        directory = tmp_path_factory.mktemp("cards") / "cluster"
        cluster = cards.describe(directory, base, managers=managers, workers=workers)
        cluster.flash(environment=clock.environment(library))
        made[f"{managers}+{workers}"] = cluster
    return made


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
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
    new_cards = {"1+3": four, "3+2": five}

    labs: list[Lab] = []

    def tell(seed: str) -> Told:
        told = Told(seed)
        clusters = old_cards if "clocks" in seed else new_cards
        cluster = clusters[seed.split()[0]]
        place = tmp_path_factory.mktemp("story")
        with Lab(place, cluster, python=python, library=library) as lab:
            labs.append(lab)
            try:
                _story(seed, cluster)(lab, told)
            except Exception as error:
                raise AssertionError(f"{told}\n{error}") from error
        return told

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # The longest first.
        futures = {
            seed: pool.submit(tell, seed) for seed in (*CLOCKS, *POWER_CUTS) if seed in wanted
        }
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
    story = told[seed].result()
    figures.took("clocks years off, no NTP: to all ready", story.seconds)


@pytest.mark.parametrize("seed", POWER_CUTS)
def test_converges_after_power_cuts_at_random_moments_and_leaves_no_stale_entry(
    told: dict[str, Future[Told]], seed: str
) -> None:
    story = told[seed].result()
    figures.took(f"{CUTS_EACH} power cuts: from the last to all ready", story.seconds)
