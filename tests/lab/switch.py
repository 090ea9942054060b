"""The home network: a namespace with a bridge, and a cable to each node. Shell.

Its first process is also that of a process namespace in which all nodes live. It ends when the one
who made it ends, however that happens, and then the kernel ends everything and leaves nothing.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tests.lab.clocks import FENCE
from tests.support import baseimage

SUBNET = "192.168.77"
ROUTER = f"{SUBNET}.1"
PREFIX = 24
BRIDGE = "br0"


class Switch:
    """A context manager. `pid` is of the process that holds the namespaces, as seen from here."""

    def __init__(self) -> None:
        self._ports: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._holder = subprocess.Popen(
            # Away from our terminal: Ctrl-C is for the tests, which then close the lab in order.
            [*FENCE, "unshare", "--net", "--pid", "--fork", "--kill-child", "tini", "--", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = child(self._holder.pid)
        self._add_bridge(BRIDGE)
        self.ip("addr", "add", f"{ROUTER}/{PREFIX}", "dev", BRIDGE)
        self.ip("link", "set", "lo", "up")

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        return self._holder.poll() is not None

    def close(self) -> None:
        """Turn everything off that is in here; any thread may do so, and more than once."""
        if self._holder.stdin:
            self._holder.stdin.close()
        try:
            self._holder.wait(30)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait(30)

    @property
    def group(self) -> str:
        """The control group of all that runs in containers here; no other lab has that name."""
        return f"piflash-lab-{self.pid}"

    def command(self, *argv: str) -> list[str]:
        """A command line that runs in the network of the switch."""
        return [*FENCE, "nsenter", f"--target={self.pid}", "--net", "--", *argv]

    def ip(self, *argv: str) -> None:
        """Run `ip` there."""
        baseimage.run(*self.command("ip", *argv))

    # --- cables ---------------------------------------------------------------------------------

    def connect(self, node: str, *, pid: int) -> None:
        """Lay a new cable to a node, whose namespace is that of `pid`; there it is eth0."""
        port = f"port{next(self._numbers)}"
        peer = ("peer", "name", "eth0", "netns", str(pid))
        self.ip("link", "add", port, "type", "veth", *peer)
        self.ip("link", "set", port, "master", BRIDGE, "up")
        self._ports[node] = port

    def unplug(self, node: str) -> None:
        """Pull a node's cable."""
        self.ip("link", "set", self._ports[node], "down")

    def plug(self, node: str) -> None:
        """Put it back."""
        self.ip("link", "set", self._ports[node], "up")

    def partition(self, *groups: Iterable[str]) -> None:
        """Let each group of nodes reach only itself. Who is not named stays where it is."""
        for group in groups:
            bridge = f"part{next(self._numbers)}"
            self._add_bridge(bridge)
            for node in group:
                self.ip("link", "set", self._ports[node], "master", bridge)

    def heal(self) -> None:
        """Let all reach all again."""
        for port in self._ports.values():
            self.ip("link", "set", port, "master", BRIDGE)

    def _add_bridge(self, name: str) -> None:
        # No snooping, or mDNS waits for a querier that a home network may have and this has not.
        self.ip("link", "add", name, "type", "bridge", "mcast_snooping", "0")
        self.ip("link", "set", name, "up")


def child(pid: int, *, seconds: float = 10.0) -> int:
    """Give the first child of a process, waiting until it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.005)
    raise RuntimeError(f"process {pid} has no child after {seconds:.0f} s")
