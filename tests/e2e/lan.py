"""A home network in a network namespace of its own: a bridge, cables, and dnsmasq as the router.

Shell. Nothing of the machine's own network is touched, and nothing in here can reach it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SUBNET = "192.168.77"
ROUTER = f"{SUBNET}.1"
DOMAIN = "home.test"
BRIDGE = "br0"
ALONE = ("isolated", "on")
NAMESPACE = "piflash-e2e-"  # and the pid of the run that it belongs to
# A killed run leaves no emulator and no router behind.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
FIRST_LEASE, LAST_LEASE = 100, 199


@dataclass(frozen=True)
class Cable:
    """One end in the switch; the other one is a tap device for a machine with this MAC."""

    tap: str
    mac: str


@dataclass(frozen=True)
class Lan:
    """`namespace` is its name; `log` is what dnsmasq says (leases, questions)."""

    namespace: str
    directory: Path

    def inside(self, *argv: str) -> list[str]:
        """Give the command that runs a program on the router."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def plug(self, number: int) -> Cable:
        """Give a new cable; `number` (1 to 99) makes its MAC and its DHCP address."""
        cable = Cable(f"tap{number}", mac(number))
        inside = ("ip", "-n", self.namespace)
        _run(*inside, "tuntap", "add", "dev", cable.tap, "mode", "tap")
        _run(*inside, "link", "set", cable.tap, "master", BRIDGE, "up")
        self._isolate(cable)
        return cable

    def _isolate(self, cable: Cable) -> None:
        """Each machine sees the router and no other: their scenes have nothing in common."""
        _run("ip", "-n", self.namespace, "link", "set", cable.tap, "type", "bridge_slave", *ALONE)

    def switch(self, cable: Cable, *, connected: bool) -> None:
        """Take the cable out of the switch, or put it back; the machine still sees a carrier."""
        where = ("master", BRIDGE) if connected else ("nomaster",)
        _run("ip", "-n", self.namespace, "link", "set", cable.tap, *where)
        if connected:
            self._isolate(cable)

    def unplug(self, cable: Cable) -> None:
        """Take the cable away; it may be gone already."""
        subprocess.run(
            ["ip", "-n", self.namespace, "link", "del", cable.tap],
            capture_output=True,
            timeout=30,
            check=False,
        )

    @property
    def log(self) -> str:
        return (self.directory / "dnsmasq.log").read_text(errors="replace")


def mac(number: int) -> str:
    """Give the MAC of machine `number`, under QEMU's own prefix."""
    return f"52:54:00:12:34:{number:02x}"


def leased(number: int) -> str:
    """Give the address that the router's DHCP has for machine `number`."""
    return f"{SUBNET}.{FIRST_LEASE + number}"


@contextmanager
def home(directory: Path) -> Iterator[Lan]:
    """Build the network, and take it down with whatever still runs in it."""
    _sweep()
    lan = Lan(f"{NAMESPACE}{os.getpid()}", directory)
    with ExitStack() as undo:
        _run("ip", "netns", "add", lan.namespace)
        undo.callback(_demolish, lan.namespace)
        for line in (
            "link set lo up",
            f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0",
            f"addr add {ROUTER}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ):
            _run("ip", "-n", lan.namespace, *line.split())
        router = subprocess.Popen(
            (*DIES_WITH_US, *lan.inside(*_dnsmasq(directory))), stdin=subprocess.DEVNULL
        )
        undo.callback(router.wait, timeout=10)
        undo.callback(router.terminate)
        yield lan
        if router.poll() is not None:
            raise RuntimeError(f"dnsmasq ended before the tests did: exit {router.returncode}")


def _sweep() -> None:
    """Take down the networks of runs that were killed."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = name[len(NAMESPACE) :]
        if name.startswith(NAMESPACE) and owner.isdigit() and not Path("/proc", owner).exists():
            _demolish(name)


def _demolish(namespace: str) -> None:
    for pid in _run("ip", "netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "del", namespace)


def _dnsmasq(directory: Path) -> list[str]:
    hosts = directory / "hosts"
    numbers = range(1, LAST_LEASE - FIRST_LEASE)
    hosts.write_text("".join(f"{mac(n)},{leased(n)}\n" for n in numbers))
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file="),
        *("--no-resolv", "--no-hosts", "--no-poll", f"--interface={BRIDGE}", "--bind-interfaces"),
        *(f"--domain={DOMAIN}", f"--local=/{DOMAIN}/", f"--address=/services.{DOMAIN}/{ROUTER}"),
        f"--dhcp-range={SUBNET}.{FIRST_LEASE},{SUBNET}.{LAST_LEASE},255.255.255.0,1h",
        f"--dhcp-hostsfile={hosts}",
        *("--dhcp-authoritative", f"--dhcp-leasefile={directory / 'leases'}", "--log-dhcp"),
        *("--log-queries", f"--log-facility={directory / 'dnsmasq.log'}"),
    ]


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def requests(log: str, *, mac: str) -> list[str]:
    """Give what a machine asked of DHCP, in order: DHCPDISCOVER, DHCPREQUEST ..."""
    return re.findall(rf"(DHCP[A-Z]+)\(\S+\)(?: \S+)? {mac}", log)
