"""Plays the scenes beside each other, as many at once as there are processors. Shell."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from traceback import format_exception

from tests.e2e.cards import Stage
from tests.e2e.machine import DeadError
from tests.e2e.scenes import Story

EACH_NEEDS = 1 << 30  # bytes of memory: a guest's own, the emulator's, the card's pages


def _lanes() -> int:
    """One machine more than there are processors for us, for they wait at times."""
    asked = os.environ.get("PIFLASH_E2E_MACHINES", "")
    free = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) << 10
    return max(1, int(asked or min(len(os.sched_getaffinity(0)) + 1, free // EACH_NEEDS)))


Scene = Callable[[Stage], Story]


class Fleet:
    """`wanted`: the scenes that tests ask for, in the order in which they should begin."""

    def __init__(self, stage: Stage, scenes: Mapping[str, Scene], *, wanted: list[str]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=_lanes())
        self._stage = stage
        self._told: dict[str, float] = {}
        self._futures: dict[str, Future[Story]] = {
            name: self._pool.submit(self._play, name, scenes[name], stage) for name in wanted
        }

    def story(self, name: str) -> Story:
        """Give what a scene saw, when it is over."""
        return self._futures[name].result()

    def told(self) -> Iterator[tuple[str, Story]]:
        """Give the scenes that came to their end."""
        for name, future in self._futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                yield name, future.result()

    def close(self) -> None:
        """Begin no scene any more, and end those that play."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for machine in self._stage.machines:
            with suppress(DeadError):
                machine.scrap()
        self._pool.shutdown(wait=True)

    def _play(self, name: str, scene: Scene, stage: Stage) -> Story:
        begun = time.monotonic()
        try:
            story = scene(stage)
            sights = [{"found": s.found, "login": s.login} for s in story.sights]
            (stage.directory / f"{name}.json").write_text(
                json.dumps({"sights": sights, "notes": story.notes}, indent=1)
            )
            return story
        except BaseException as error:
            (stage.directory / f"{name}.failed").write_text("".join(format_exception(error)))
            raise
        finally:
            self._told[name] = time.monotonic() - begun

    @property
    def seconds(self) -> Mapping[str, float]:
        return dict(self._told)
