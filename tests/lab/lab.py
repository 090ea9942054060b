"""A lab: the network and a node for each member of a cluster. Shell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab import judge
from tests.lab.cards import Cluster
from tests.lab.node import PIFLASH, Node
from tests.lab.switch import Switch


class NotFormedError(AssertionError):
    """The nodes did not come to what they should be; with the ends of all logs."""


class Lab:
    """A context manager. `cluster`'s cards are in the nodes, which are off.

    `python`: what the nodes' python3 is. `library`: clock.c, compiled.
    """

    def __init__(self, directory: Path, cluster: Cluster, *, python: str, library: Path) -> None:
        self.cluster = cluster
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.switch = stack.enter_context(Switch())
            # Called after the nodes have been closed.
            stack.callback(_sweep, self.switch.group)
            self.nodes = {}
            for number, member in enumerate(cluster.members, start=11):
                place = directory / member.name
                node = Node(
                    member.name, place, self.switch, number=number, python=python, library=library
                )
                stack.callback(node.close)
                node.insert(cluster.boot(member.name))
                self.nodes[member.name] = node
            self._stack = stack.pop_all()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def all(self) -> Sequence[Node]:
        """The nodes in the order of the cluster file."""
        return list(self.nodes.values())

    def power_on(self, *, by_hand: bool = False) -> None:
        """Turn on what is off; `by_hand`: without the service."""
        for node in self.all:
            if not node.is_on:
                node.power_on(masked=[PIFLASH] if by_hand else [])

    def answered(self) -> float:
        """When the last engine answered, on the monotonic clock; 0 if one has not yet."""
        times = [
            [at for at, what in node.events() if what == "docker.service active"]
            for node in self.all
        ]
        return max(found[0] for found in times) if all(times) else 0.0

    def wait_formed(self, *, seconds: float) -> float:
        """Wait until the engines say that the swarm is as the cluster file has it.

        Gives when that was, on the monotonic clock. NotFormedError tells what is missing.
        """
        return self._wait(lambda: judge.formed(self.all, self.cluster.members), seconds, every=0.1)

    def wait_settled(self, *, seconds: float) -> float:
        """Wait until every node says so too, in its engine and in its status.txt; likewise."""
        members = self.cluster.members
        return self._wait(
            lambda: judge.settled(self.all, members) + judge.told(self.all, members),
            seconds,
            every=0.25,
        )

    def _wait(self, look: Callable[[], list[str]], seconds: float, *, every: float) -> float:
        deadline = time.monotonic() + seconds
        while True:
            missing = look()
            if not missing:
                return time.monotonic()
            if time.monotonic() > deadline or self.switch.is_closed:
                raise NotFormedError(self.last_words(f"not in {seconds:.0f} s: {missing}"))
            time.sleep(every)

    def last_words(self, why: str) -> str:
        """A report of all nodes."""
        return "\n".join([why, *(node.last_words() for node in self.all)])


def _sweep(group: str) -> None:
    """Remove the control groups that containers left, in version 1 and 2 of the hierarchy."""
    tops = Path("/sys/fs/cgroup")
    for top in (*tops.glob(group), *tops.glob(f"*/{group}")):
        for place, _, _ in os.walk(top, topdown=False):
            os.rmdir(place)
