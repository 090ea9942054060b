"""Which stories a run tells, and the telling of several at a time while other tests run. Shell.

The name of a story is the seed of all that is random in it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.lab import stories
from tests.lab.cards import Cluster
from tests.lab.clocks import YEAR
from tests.lab.lab import Lab
from tests.lab.orders import LONG
from tests.lab.stories import Story, Told

CUTS_EACH = 5
AT_ONCE = 4  # labs: they wait far more than they compute
# Cards that lay in a drawer: else the clock's floor, the flash time, would be as good as the true
# time. Founder and joiners may be as far apart as the certificates last, which is ten years.
FLASHED = -5 * YEAR

POWER_CUTS = [
    f"{('1+3', '3+2')[number % 2]} power cuts {number}" for number in range(8 if LONG else 4)
]
CLOCKS = [
    "1+3 clocks: founder at 1970, the others ahead",
    "1+3 clocks: founder ahead, the others at 2019",
    *(f"{('3+2', '1+3')[number % 2]} clocks at random {number}" for number in range(8 * LONG)),
]
FLASHED_AGAIN = ["1+3 flashed again", "3+2 flashed again"] if LONG else ["3+2 flashed again"]


class Telling:
    """A context manager. `stage` makes the lab of a story; the longest stories begin first."""

    def __init__(self, wanted: Collection[str], stage: Callable[[str], Lab]) -> None:
        self._stage = stage
        self._labs: list[Lab] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)
        order = [seed for seed in (*CLOCKS, *FLASHED_AGAIN, *POWER_CUTS) if seed in wanted]
        self._futures = {seed: self._pool.submit(self._tell, seed) for seed in order}

    def __enter__(self) -> Telling:
        return self

    def __exit__(self, *_: object) -> None:
        """After Ctrl-C nobody waits for what is still being told."""
        for future in self._futures.values():
            future.cancel()
        for lab in self._labs:
            lab.switch.close()
        self._pool.shutdown()

    def result(self, seed: str) -> Told:
        """Wait for the end of a story; AssertionError with all that happened if it went wrong."""
        return self._futures[seed].result()

    def _tell(self, seed: str) -> Told:
        told = Told(seed)
        with self._stage(seed) as lab:
            self._labs.append(lab)
            try:
                _story(seed, lab.cluster)(lab, told)
            except Exception as error:
                raise AssertionError(f"{told}\n{error}") from error
        return told


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
