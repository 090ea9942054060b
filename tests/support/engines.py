"""A real dockerd as the service sees it: firstboot.engine and firstboot.swarmview on it. Shell."""

from __future__ import annotations

import time
from collections.abc import Callable

from firstboot import swarmview
from firstboot.engine import Docker
from firstboot.model import Engine, Entry, Grant, Swarm, Token
from tests.support.dockerd import Dockerd

PATIENCE = 120.0  # far more than anything takes here when the machine is idle


class Machine:
    """A machine, and the engine of it as the service sees it."""

    def __init__(self, machine: Dockerd) -> None:
        self.machine = machine

    @property
    def docker(self) -> Docker:
        return Docker(self.machine.socket, restart=self.machine.restart)

    @property
    def address(self) -> str:
        return self.machine.address

    def engine(self) -> Engine:
        raw = self.docker.look()
        assert raw is not None, self.machine.log.read_text()[-2000:]
        return swarmview.read_engine(raw["info"])

    def swarm(self) -> Swarm | None:
        raw = self.docker.look()
        return swarmview.read_swarm(raw["swarm"], raw["nodes"]) if raw and raw["swarm"] else None

    def entries(self) -> dict[str, Entry]:
        """Of the swarm that it manages, by the host's name."""
        swarm = self.swarm()
        return {entry.name: entry for entry in swarm.entries} if swarm else {}

    def read(self, name: str) -> bytes:
        """A file of its swarm's certificates."""
        return (self.machine.data / "swarm/certificates" / name).read_bytes()

    def join(self, leader: Machine, token: Token | None = None) -> None:
        given = token or leader.docker.worker_token()
        self.docker.join(self.address, Grant(given, leader.address, "", 1, 0.0))


def until(what: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait until it is so; AssertionError if it never is."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)
