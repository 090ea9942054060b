"""What a cluster has to live through: power cuts, clocks that are years off, new cards. Shell.

A story returns when the cluster came through it and raises NotFormedError when it did not. They
wait far more than they compute, so several are told at once.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.lab import engine
from tests.lab.clocks import DAY
from tests.lab.engine import SilentError
from tests.lab.lab import Lab, NotFormedError
from tests.lab.node import Node

FORMING = 12.0  # seconds in which the power cuts fall
# A stale entry may go 30 s after its node was last heard of, and a try to join may take 45 s.
PATIENCE = 240.0
NTP_PATIENCE = 90.0  # of the founder (design)
FOUNDED_AGAIN = 120.0  # a sole manager's new card looks for an older swarm that long (design)


@dataclass
class Told:
    """What happened in a story, for the report of a failure and for the figures."""

    seed: str
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def __str__(self) -> str:
        return "\n".join([self.seed, *self.lines])


def power_cuts(lab: Lab, told: Told, *, cuts: int) -> None:
    """Power is cut at random moments while the swarm forms, and comes back."""
    source = random.Random(told.seed)
    moments = sorted(source.uniform(0, FORMING) for _ in range(cuts))
    lab.power_on()
    begun = time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        node = source.choice(lab.all)
        off = source.uniform(0.1, 3.0)
        told.say(f"{time.monotonic() - begun:.2f} s: {node.name} off for {off:.2f} s")
        node.pull_the_plug()
        time.sleep(off)
        node.power_on()
    last = time.monotonic()
    told.seconds = lab.wait_settled(seconds=PATIENCE) - last
    told.say(f"formed {told.seconds:.1f} s after the last cut")


def wrong_clocks(lab: Lab, told: Told, *, offsets: dict[str, float]) -> None:
    """Nobody has the time from NTP; the true time comes later, and then 100 days go by."""
    for node in lab.all:
        node.power_on(offset=offsets[node.name], synchronized=False)
        told.say(f"{node.name} begins at {time.strftime('%F', time.gmtime(node.clock.time))}")
    begun = time.monotonic()
    formed = lab.wait_settled(seconds=NTP_PATIENCE + PATIENCE)
    told.seconds = formed - begun
    told.say(f"formed after {told.seconds:.0f} s")
    _ntp(lab, told)
    _later(lab, told, days=100)


def _ntp(lab: Lab, told: Told) -> None:
    """Every node gets the true time, the seed last, as a network that comes up would have it."""
    for node in reversed(lab.all):
        told.say(f"{node.name}: NTP steps the clock by {-node.clock.offset / DAY:.0f} days")
        node.clock.shift(0.0)
        node.synchronize()
        time.sleep(1)
    _endures(lab, told, "the true time", offset=0.0)


def _later(lab: Lab, told: Told, *, days: float) -> None:
    for node in lab.all:
        node.clock.shift(days * DAY)
    when = f"{days:.0f} days later"
    _endures(lab, told, when, offset=days * DAY)
    _newcomer(lab, lab.all[-1])
    told.say(f"{when}: {lab.all[-1].name} let in again after it left")


def _endures(lab: Lab, told: Told, when: str, *, offset: float) -> None:
    """The swarm is whole, and stays so when a worker is turned off and when dockerd restarts."""
    lab.wait_settled(seconds=PATIENCE)
    told.say(f"{when}: settled")
    worker, seed = lab.all[-1], lab.all[0]
    worker.pull_the_plug()
    worker.power_on(offset=offset)
    lab.wait_settled(seconds=PATIENCE)
    told.say(f"{when}: settled after a power cut of {worker.name}")
    seed.run("systemctl", "restart", "docker", seconds=PATIENCE)
    lab.wait_settled(seconds=PATIENCE)
    told.say(f"{when}: settled after a restart of dockerd on {seed.name}")


def _id(node: Node) -> str:
    """Its swarm node id; a machine that has too much to do may take more than one try."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return str(engine.get(node, "/info")["Swarm"]["NodeID"])
        except SilentError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _newcomer(lab: Lab, node: Node) -> None:
    """Have a node join again: only a swarm whose certificates are good lets it."""
    before = _id(node)
    node.run("docker", "swarm", "leave", "--force")
    deadline = time.monotonic() + PATIENCE
    while True:
        lab.wait_settled(seconds=PATIENCE)
        if _id(node) != before:
            return
        if time.monotonic() > deadline:
            raise NotFormedError(lab.last_words(f"{node.name} has its old node id"))
        time.sleep(0.5)


def flashed_again(lab: Lab, told: Told) -> None:
    """A worker, a manager and the seed get new cards, and a worker then its old one again."""
    lab.power_on()
    lab.wait_settled(seconds=PATIENCE)
    begun = time.monotonic()
    managers = [lab.nodes[one.name] for one in lab.cluster.members if one.role == "manager"]
    worker = lab.all[-1]
    before = worker.directory / "before"
    shutil.copytree(lab.cluster.boot(worker.name), before)
    for node in (worker, *managers[1:2], managers[0]):
        _flash_again(lab, told, node)
    told.seconds = time.monotonic() - begun
    worker.pull_the_plug()
    worker.insert(before)
    worker.power_on()
    deadline = time.monotonic() + PATIENCE
    while worker.status().get("reason") != "superseded":
        if time.monotonic() > deadline:
            raise NotFormedError(lab.last_words(f"the old card of {worker.name} is not refused"))
        time.sleep(0.5)
    told.say(f"the old card of {worker.name} is superseded")
    worker.pull_the_plug()
    worker.insert(lab.cluster.boot(worker.name))
    worker.power_on()
    lab.wait_settled(seconds=PATIENCE)


def _flash_again(lab: Lab, told: Told, node: Node) -> None:
    before = _id(node)
    begun = time.monotonic()
    node.pull_the_plug()
    lab.cluster.flash(node.name)
    node.insert(lab.cluster.boot(node.name))
    node.power_on()
    lab.wait_settled(seconds=FOUNDED_AGAIN + PATIENCE)
    if _id(node) == before:
        raise NotFormedError(lab.last_words(f"{node.name} has its old node id"))
    told.say(f"{node.name} flashed again: whole after {time.monotonic() - begun:.0f} s")


Story = Callable[[Lab, Told], None]
