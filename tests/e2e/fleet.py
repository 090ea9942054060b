"""Plays the scenes beside each other, as many at once as there are processors. Shell."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from tests.e2e.scenes import Stage, Story

Scene = Callable[[Stage], Story]


class Fleet:
    """`wanted`: the scenes that tests ask for, in the order in which they should begin."""

    def __init__(self, stage: Stage, scenes: Mapping[str, Scene], *, wanted: list[str]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 2)
        self._told: dict[str, float] = {}
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._futures: dict[str, Future[Story]] = {
            name: self._pool.submit(self._play, name, scenes[name], stage) for name in wanted
        }

    def story(self, name: str) -> Story:
        """Give what a scene saw, when it is over."""
        return self._futures[name].result()

    def close(self) -> None:
        """Begin no scene any more, and wait for those that play."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _play(self, name: str, scene: Scene, stage: Stage) -> Story:
        begun = time.monotonic()
        try:
            return scene(stage)
        finally:
            self._told[name] = time.monotonic() - begun

    @property
    def seconds(self) -> Mapping[str, float]:
        return dict(self._told)
