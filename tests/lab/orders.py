"""Orders in which nodes are turned on, from a seed. Pure but for the waiting."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

from tests.lab.lab import Lab

LONG = os.environ.get("PIFLASH_LAB_LONG") == "1"
MOST_PAUSE = 1.5  # seconds between two nodes


@dataclass(frozen=True)
class Order:
    """Names of nodes, and the seconds to wait before each."""

    seed: str
    steps: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return f"{self.seed}: " + ", ".join(f"{name} +{pause:.1f} s" for name, pause in self.steps)


def shuffled(seed: str, names: list[str]) -> Order:
    """Give a random order with random pauses."""
    source = random.Random(seed)
    mixed = source.sample(names, k=len(names))
    return Order(seed, tuple((name, source.uniform(0, MOST_PAUSE)) for name in mixed))


def at_once(names: list[str]) -> Order:
    """Give the order of a power strip."""
    return Order("all at once", tuple((name, 0.0) for name in names))


def power_on(lab: Lab, order: Order) -> None:
    """Turn the nodes on in that order."""
    for name, pause in order.steps:
        time.sleep(pause)
        lab.nodes[name].power_on()
