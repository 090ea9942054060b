"""systemd of a node, as far as two services need it: unit files, restarts, readiness. Shell.

Runs inside, standard library only. A unit's own thread starts it and starts it again.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ETC = Path("/etc/systemd/system")
EVENTS = Path("/lab/log/events")
NOTIFY = "/run/lab-notify"
STOP_PATIENCE = 30.0


def tell(event: str) -> None:
    """Write down when something happened, on the clock that all nodes and the tests share."""
    with EVENTS.open("a") as log:
        log.write(f"{time.monotonic():.4f} {event}\n")


@dataclass(frozen=True)
class Service:
    """The [Service] section of a unit: `before` has the commands of ExecStartPre."""

    command: Sequence[str]
    before: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    delay: float = 2.0
    notifies: bool = False
    whole_group: bool = True


def parse(texts: Iterable[str]) -> dict[str, list[str]]:
    """Read the [Service] sections of a unit file and its drop-ins: key -> values."""
    found: dict[str, list[str]] = {}
    for text in texts:
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            key, equals, value = line.strip().partition("=")
            if key.startswith("["):
                section = key
            elif equals and section == "[Service]" and not key.startswith(("#", ";")):
                found.setdefault(key, []).append(value)
    return found


def docker(command: Sequence[str]) -> Service:
    """Debian's docker.service, with the card's drop-ins."""
    drops = sorted((ETC / "docker.service.d").glob("*.conf"))
    keys = parse(path.read_text() for path in drops)
    before = keys.get("ExecStartPre", [])
    return Service(command, before=before, notifies=True, whole_group=False)


def from_card(path: Path) -> Service:
    """The unit that the card brought."""
    keys = parse([path.read_text()])
    pairs = [pair for value in keys.get("Environment", []) for pair in shlex.split(value)]
    return Service(
        shlex.split(keys["ExecStart"][-1]),
        before=keys.get("ExecStartPre", []),
        environment=dict(pair.split("=", 1) for pair in pairs),
        delay=float(keys.get("RestartSec", ["0.1"])[-1]),
    )


class Unit:
    """A service that is started again whenever it ends, until it is told to stop."""

    def __init__(
        self, name: str, load: Callable[[], Service], *, after: Unit | None = None
    ) -> None:
        self.name = name
        self._load = load
        self._after = after
        self._service = Service(())
        self._process: subprocess.Popen[bytes] | None = None
        self._change = threading.Condition()
        self._wanted = False
        self.state = "inactive"
        threading.Thread(target=self._live, daemon=True).start()

    def start(self) -> None:
        with self._change:
            self._wanted = True
            if self.state == "inactive":
                self._become("activating")
            self._change.notify_all()

    def stop(self) -> None:
        """End it, and wait for that."""
        with self._change:
            self._wanted = False
            self._change.notify_all()
            process = self._process
        if process:
            self._signal(process, signal.SIGTERM)
            with self._change:
                over = self._change.wait_for(lambda: self.state == "inactive", STOP_PATIENCE)
            if not over:
                self._signal(process, signal.SIGKILL)
        with self._change:
            self._change.wait_for(lambda: self.state == "inactive")

    def kill(self, number: int) -> None:
        """Send its main process a signal."""
        if self._process:
            self._process.send_signal(number)

    def wait_started(self, seconds: float = 90.0) -> bool:
        """Wait while it is on its way; say whether it is there."""
        with self._change:
            self._change.wait_for(lambda: self.state != "activating", seconds)
            return self.state == "active"

    def ready(self, pid: int) -> None:
        """Take note of what a process told systemd."""
        with self._change:
            if self._process and self._process.pid == pid and self.state == "activating":
                self._become("active")

    @property
    def pid(self) -> int:
        process = self._process
        return process.pid if process else 0

    def _become(self, state: str) -> None:
        self.state = state
        tell(f"{self.name} {state}")
        self._change.notify_all()

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        try:
            if self._service.whole_group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        except ProcessLookupError:
            pass

    def _live(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._wanted)
            if self._after:
                self._after.wait_started()
            self._service = self._load()
            with Path(f"/lab/log/{self.name}.log").open("ab") as log:
                self._once(self._service, log)
            with self._change:
                if not self._wanted:
                    self._become("inactive")
                    continue
                self._become("activating")
                self._change.wait_for(lambda: not self._wanted, self._service.delay)

    def _once(self, service: Service, log: IO[bytes]) -> None:
        environment = {**os.environ, **service.environment}
        for line in service.before:
            rc = subprocess.run(
                shlex.split(line.lstrip("-")), stdout=log, stderr=log, check=False, env=environment
            ).returncode
            if rc and not line.startswith("-"):
                tell(f"{self.name} before {rc}")
                return
        if service.notifies:
            environment["NOTIFY_SOCKET"] = NOTIFY
        with self._change:
            if not self._wanted:
                return
            self._process = subprocess.Popen(
                service.command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            if not service.notifies:
                self._become("active")
        rc = self._process.wait()
        tell(f"{self.name} ended {rc}")
        with self._change:
            self._process = None


def listen(units: Mapping[str, Unit]) -> None:
    """Hear what services tell systemd (sd_notify(3)); in a thread of its own."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    heard.bind(NOTIFY)

    def forever() -> None:
        while True:
            text, extra, _, _ = heard.recvmsg(4096, socket.CMSG_SPACE(12))
            pid = int.from_bytes(extra[0][2][:4], "little") if extra else 0
            if b"READY=1" in text.splitlines():
                for unit in units.values():
                    unit.ready(pid)

    threading.Thread(target=forever, daemon=True).start()
