"""A node: a card, a root file system that stays, and what runs while the power is on. Shell.

The node lives in namespaces of its own; what is asked of it from outside goes through them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from tests.lab import switch as net
from tests.lab.clocks import FENCE, Clock
from tests.lab.switch import Switch

HERE = Path(__file__).parent
PIFLASH = "piflash.service"
_PATH = "/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a card's scripts and units call and what is not on this machine, or must not be called here.
_PROGRAMS = {
    "systemctl": '#!/bin/sh\nexec {python} -SEs /lab/inside/control.py "$@"\n',
    "reboot": "#!/bin/sh\nkill -USR1 $(cat /run/lab-init.pid); sleep 60\n",
    # The addresses are there; the cluster's own is for the service to raise.
    "ifup": "#!/bin/sh\nexit 0\n",
}


class Node:
    """`number` gives it its address in the home network; `python` is what its service runs on."""

    def __init__(
        self, name: str, directory: Path, switch: Switch, *, number: int, python: str, library: Path
    ) -> None:
        self.name = name
        self.directory = directory
        self.lan = f"{net.SUBNET}.{number}"
        self.clock = Clock(directory / "lab/clock")
        self.pid = 0
        self._switch = switch
        self._python = python
        self._process: subprocess.Popen[str] | None = None
        # Its own interpreter for what stands for systemd: a link of a venv would lead nowhere.
        self._own_python = os.path.realpath(sys.executable)
        for part in ("boot", "root", "upper", "work", "docker", "lab/bin", "lab/log"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        shutil.copytree(HERE / "inside", directory / "lab/inside", dirs_exist_ok=True)
        shutil.copyfile(library, directory / "lab/clock.so")
        for program, text in _PROGRAMS.items():
            path = directory / "lab/bin" / program
            path.write_text(text.format(python=self._own_python))
            path.chmod(0o755)
        (directory / "lab/bin/python3").symlink_to(python)
        self._format()

    # --- card and power -------------------------------------------------------------------------

    @property
    def boot(self) -> Path:
        """What stands for the boot partition."""
        return self.directory / "boot"

    @property
    def root(self) -> Path:
        """What the node wrote over the machine's root file system."""
        return self.directory / "upper"

    def insert(self, boot: Path) -> None:
        """Put a new card in: files for the boot partition; the rest of the old card is gone."""
        self._must_be_off()
        for part in ("upper", "work", "docker", "boot"):
            shutil.rmtree(self.directory / part)
            (self.directory / part).mkdir()
        shutil.copytree(boot, self.boot, dirs_exist_ok=True)
        self._format()

    def power_on(
        self,
        *,
        offset: float = 0.0,
        synchronized: bool = True,
        masked: Sequence[str] = (),
    ) -> None:
        """Turn it on. Its clock begins `offset` seconds ahead of the machine's.

        `synchronized`: it believes that it has the time from NTP. `masked`: units that never start.
        """
        self._must_be_off()
        self.clock.shift(offset)
        plan = {
            "seed": seed(self.boot),
            "lan": f"{self.lan}/{net.PREFIX}",
            "router": net.ROUTER,
            "synchronized": synchronized,
            "masked": list(masked),
            "dockerd": self._dockerd(),
        }
        (self.directory / "lab/plan.json").write_text(json.dumps(plan))
        with (self.directory / "lab/log/events").open("a") as events:
            events.write(f"{time.monotonic():.4f} power\n")
        with (self.directory / "lab/log/boot.log").open("ab") as trouble:
            self._process = self._launch(trouble)
        assert self._process.stdin
        assert self._process.stdout
        with self._process.stdin as go, self._process.stdout as said:
            number = said.readline()
            if not number:
                raise RuntimeError(f"{self.name} does not come up: {self.log('boot')}")
            self.pid = int(number)
            self._switch.connect(self.name, pid=self.pid)
            go.write("plugged\n")

    def _launch(self, trouble: IO[bytes]) -> subprocess.Popen[str]:
        others = [str(Path(path).parents[1]) for path in (self._own_python, self._python)]
        boot = ["sh", str(HERE / "boot.sh"), str(self.directory), self.name, self._own_python]
        return subprocess.Popen(
            [
                *(*FENCE, "nsenter", f"--target={self._switch.pid}", "--pid", "--"),
                *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"),
                *("--kill-child", *boot, *others),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trouble,
            text=True,
            start_new_session=True,
        )

    def pull_the_plug(self) -> None:
        """Everything on the node is dead at once, wherever it was."""
        if self._process is None:
            return
        # While nsenter waits for it, the number is its own.
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(60)
        self._process = None
        self.pid = 0

    def synchronize(self) -> None:
        """Have it believe, from now on, that its time is from NTP."""
        mark = self.inside("/run/systemd/timesync/synchronized")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Turn it off, and keep of it only its logs and its boot partition."""
        self.pull_the_plug()
        for part in ("upper", "work", "docker", "root"):
            shutil.rmtree(self.directory / part, ignore_errors=True)

    # --- looking in -----------------------------------------------------------------------------

    def command(self, *argv: str) -> list[str]:
        """A command line that runs on the node."""
        into = ("nsenter", f"--target={self.pid}", "--all", "--")
        return [*FENCE, *into, "env", "-i", f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *argv]

    def run(self, *argv: str, seconds: float = 180.0, check: bool = True) -> str:
        """Run a program on the node; give what it printed. RuntimeError if it fails."""
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=seconds, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {argv}: rc {done.returncode}: {done.stderr}")
        return done.stdout

    def inside(self, path: str) -> Path:
        """A file of the running node, as it is reached from outside."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def log(self, unit: str) -> str:
        """What a unit wrote, in all boots: piflash.service, docker.service, cloud-init, events."""
        path = self.directory / "lab/log" / (unit if unit == "events" else f"{unit}.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def events(self) -> list[tuple[float, str]]:
        """What happened since the last power-on, with the time on the monotonic clock."""
        lines = [line.split(" ", 1) for line in self.log("events").splitlines()]
        events = [(float(at), what) for at, what in lines]
        begins = [number for number, (_, what) in enumerate(events) if what == "power"]
        return events[begins[-1] + 1 :] if begins else []

    def service(self) -> int:
        """The number, inside, of the service's process; 0 if it does not run."""
        text = self.run("sh", "-c", "pgrep -f firstboot.pyz || true")
        return int(text.split()[0]) if text.split() else 0

    def status(self) -> dict[str, str]:
        """What the card's status.txt says."""
        try:
            text = (self.boot / "piflash/status.txt").read_text()
        except FileNotFoundError:
            return {}
        found = re.findall(r"(?m)^(\w+): +(.*)$", text)
        return dict(found)

    def last_words(self, lines: int = 12) -> str:
        """The ends of its logs, for a failed test."""
        parts = [f"--- {self.name}: {'on' if self.is_on else 'off'}, {self.status()}"]
        for unit in ("boot", "init", "cloud-init", "docker.service", PIFLASH):
            parts += [f"{unit}:", *(f"    {line}" for line in self.log(unit).splitlines()[-lines:])]
        return "\n".join(parts)

    # --------------------------------------------------------------------------------------------

    def _must_be_off(self) -> None:
        if self.is_on:
            raise RuntimeError(f"{self.name} is on")

    def _format(self) -> None:
        """What the image has on its root partition and the machine has not."""
        files = {
            "etc/ld.so.preload": "/lab/clock.so\n",
            # Nobody answers there, and says so at once.
            "etc/resolv.conf": "nameserver 127.0.0.1\n",
            "etc/apt/sources.list": "# empty: runcmd edits it\n",
        }
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        python = self.root / "usr/bin/python3"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.symlink_to(self._python)

    def _dockerd(self) -> list[str]:
        group = f"--cgroup-parent=/{self._switch.group}/{self.name}"
        return ["dockerd", "-H", "unix:///run/docker.sock", group]


def seed(boot: Path) -> dict[str, Any] | None:
    """What cloud-init reads of a card at every boot; None of a card without."""
    try:
        text = (boot / "user-data").read_text()
    except FileNotFoundError:
        return None
    meta = yaml.safe_load((boot / "meta-data").read_text())
    return {"text": text, "user_data": yaml.safe_load(text), "instance": meta["instance-id"]}
