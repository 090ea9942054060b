"""Real dockerds without cards and without the service, each in namespaces of its own. Shell.

The network and the certain end of everything are the lab's (tests/lab/switch.py); whoever needs
cards, clocks or the service itself takes tests/lab/node.py.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from tests.lab import switch as net
from tests.lab.clocks import FENCE, Clock
from tests.lab.switch import Switch
from tests.support import tools

PROGRAMS = ("dockerd", "iptables", "ip", "tini", "setpriv", "unshare", "nsenter", "mount")
SECONDS = 180.0  # until dockerd answers; it takes half a second when the machine is idle
# dockerd gives containerd 15 seconds, too few on a machine that runs ten labs at once.
_SLOW = "timeout waiting for containerd to start"
_BOOT = """
set -eu
read -r pid rest </proc/self/stat
echo "$pid"
read -r plugged
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1/layer"
mkdir "$1/layer/upper" "$1/layer/work" "$1/layer/root"
cd "$1/layer"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
cd root
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p var/lib/docker mnt lab
mount --bind "$1/docker" var/lib/docker
mount --bind "$1/lab" lab
hostname "$2"
pivot_root . mnt
umount -l /mnt
ip link set lo up
# The same at each start: neighbours would wait for seconds with that of the last one.
ip link set eth0 address "$4"
if [ "$3" ]; then
  ip addr add "$3" dev eth0
  ip link set eth0 up
fi
exec tini -s -- sleep infinity </dev/null >/dev/null 2>&1
"""


class EndedError(Exception):
    """dockerd ended instead of answering; the message is the end of what it wrote."""


class Dockerd:
    """A machine with a dockerd. `data` is its /var/lib/docker, which stays when it is off.

    `library`: tests/lab/clock.c, compiled; then dockerd goes by `clock`, which can be set.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        switch: Switch,
        *,
        number: int,
        library: Path | None = None,
    ) -> None:
        self.name = name
        self.clock = Clock(directory / "lab/clock")
        self.address = f"{net.SUBNET}.{number}"
        self._card = f"02:00:00:00:00:{number:02x}"
        self.data = directory / "docker"
        self.log = directory / "dockerd.log"
        self.pid = 0
        self._directory = directory
        self._switch = switch
        self._machine: subprocess.Popen[str] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        for part in ("docker", "layer", "lab"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self._preload = ""
        if library:
            self.clock.shift(0.0)
            shutil.copy(library, directory / "lab")
            self._preload = f"/lab/{library.name}"

    @property
    def is_on(self) -> bool:
        return self._machine is not None

    @property
    def socket(self) -> str:
        """Where it listens, as it is reached from outside."""
        return f"/proc/{self.pid}/root/run/docker.sock"

    @property
    def restart(self) -> tuple[str, ...]:
        """A command line that does what `systemctl restart docker` does: it ends once it is up."""
        script = (
            'kill "$(cat /run/docker.pid)"; while [ -e /run/docker.pid ]; do sleep 0.05; done; '
            f"setsid {' '.join(self._command())} </dev/null >/dev/null 2>&1 & "
            "until docker version >/dev/null 2>&1; do sleep 0.1; done"
        )
        return tuple(self.command("sh", "-c", script))

    def command(self, *argv: str) -> list[str]:
        """A command line that runs on the machine."""
        return [*FENCE, "nsenter", f"--target={self.pid}", "--all", "--", *argv]

    def power_on(self, *, addressed: bool = True) -> None:
        """Turn the machine on and wait until dockerd answers. EndedError if it ends instead.

        `addressed`: its network card is up and has the address.
        """
        with self.log.open("ab") as log:
            self._machine = self._launch(log, addressed=addressed)
            assert self._machine.stdin
            assert self._machine.stdout
            with self._machine.stdin as go, self._machine.stdout as said:
                self.pid = int(said.readline())
                self._switch.connect(self.name, pid=self.pid)
                go.write("plugged\n")
            self._wait_booted()
        self.start()

    def start(self) -> None:
        """Start dockerd on a machine that is on, and wait until it answers, likewise."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self._start(deadline)
            except EndedError as error:
                if _SLOW not in str(error) or time.monotonic() > deadline:
                    raise

    def pull_the_plug(self) -> None:
        """Everything on the machine is dead at once."""
        if self._machine is None:
            return
        os.kill(self.pid, signal.SIGKILL)
        for process in (self._machine, self._dockerd):
            if process is not None:
                process.wait(60)
        self._machine = self._dockerd = None
        self.pid = 0

    def wipe(self) -> None:
        """Make it a machine on which dockerd has never run."""
        self.pull_the_plug()
        shutil.rmtree(self.data)
        self.data.mkdir()

    def _launch(self, log: IO[bytes], *, addressed: bool) -> subprocess.Popen[str]:
        address = f"{self.address}/{net.PREFIX}" if addressed else ""
        return subprocess.Popen(
            [
                *(*FENCE, "nsenter", f"--target={self._switch.pid}", "--pid", "--"),
                *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"),
                *("--kill-child", "sh", "-c", _BOOT, "sh"),
                *(str(self._directory), self.name, address, self._card),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def _command(self) -> tuple[str, ...]:
        group = f"--cgroup-parent=/{self._switch.group}/{self.name}"
        clock = ("env", f"LD_PRELOAD={self._preload}") if self._preload else ()
        return (*clock, "dockerd", "--host=unix:///run/docker.sock", group)

    def _wait_booted(self) -> None:
        deadline = time.monotonic() + SECONDS
        while Path(f"/proc/{self.pid}/comm").read_text() != "tini\n":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} does not boot")
            time.sleep(0.02)

    def _start(self, deadline: float) -> None:
        with self.log.open("ab") as log:
            process = self._dockerd = subprocess.Popen(
                self.command(*self._command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not _answers(self.socket):
            if process.poll() is not None:
                raise EndedError(self.log.read_text(errors="replace")[-600:])
            if time.monotonic() > deadline:
                raise TimeoutError(f"dockerd of {self.name} does not answer")
            time.sleep(0.05)


class Machines:
    """A context manager: machines in one network. `directory` is on a real file system."""

    def __init__(self, directory: Path, *, library: Path | None = None) -> None:
        self._directory = directory
        self._library = library
        self._stack = ExitStack()
        self.switch = self._stack.enter_context(Switch())
        self._numbers = iter(range(11, 250))

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self, name: str) -> Dockerd:
        """Give a new machine, which is off."""
        machine = Dockerd(
            name,
            self._directory / name,
            self.switch,
            number=next(self._numbers),
            library=self._library,
        )
        self._stack.callback(shutil.rmtree, machine.data, ignore_errors=True)
        self._stack.callback(machine.pull_the_plug)
        return machine


def need() -> None:
    """Skip, or fail in CI, where no dockerd can run."""
    tools.need_root()
    tools.need(*PROGRAMS)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=2)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _answers(path: str) -> bool:
    connection = _Connection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
