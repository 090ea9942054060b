"""A virtual Pi: it has a card, a power switch and a network cable, and its firmware boots the card.

Shell. QEMU without KVM. As on a Pi, kernel and command line come from the card's boot partition at
every power-on and reboot. A root shell on a virtual console stands in for a debugger's probe: it
works whatever the card did to the network.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.lan import DIES_WITH_US, Cable, Lan
from tests.support import baseimage

BOOT_OFFSET = baseimage.BOOT_START * baseimage.SECTOR
MEMORY_MIB = 640

_MACHINES = {
    "amd64": ("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max"),
    "armhf": ("qemu-system-arm", "-machine", "virt,accel=tcg,highmem=off", "-cpu", "cortex-a15"),
}
# For the emulator, not for the card: the probe's shell, and no LSM that HypriotOS has not either.
_EXTRA = (
    "net.ifnames=0 apparmor=0 systemd.unified_cgroup_hierarchy=0 systemd.show_status=1 "
    "systemd.debug_shell=hvc0 systemd.mask=serial-getty@hvc0.service panic=-1"
)
_UNPACK = (
    "import sys, zlib, base64; "
    "sys.stdout.buffer.write(zlib.decompress(base64.b64decode(sys.stdin.read())))"
)


class DeadError(Exception):
    """The machine did not do what it was waited for; the message ends with its console."""


@dataclass
class Machine:
    """One Pi. `rtc`: what its clock says at power-on, as QEMU's -rtc takes it (UTC)."""

    name: str
    card: Path
    lan: Lan
    cable: Cable
    arch: str = "amd64"
    rtc: str = "1970-01-01T00:00:10"
    cache: str = "writeback"
    starts: int = 0
    scrapped: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _on: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def directory(self) -> Path:
        return self.card.parent

    @property
    def console(self) -> str:
        """Everything that its serial console ever said."""
        path = self.directory / f"{self.name}.console"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- the power switch -----------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot the card, and again at every reboot, until the power goes or the guest is off."""
        if self.scrapped:
            raise DeadError(f"{self.name} is not to be used any more")
        self._on.set()
        self._thread = threading.Thread(target=self._firmware, name=self.name, daemon=True)
        self._thread.start()

    def pull_the_plug(self) -> None:
        """End the emulator at once (SIGKILL): what the guest had not written yet is lost."""
        self._on.clear()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
        if self._thread is not None:
            self.wait_off(30)

    def scrap(self) -> None:
        """Pull the plug for good: whoever still plays with it gets a DeadError."""
        self.scrapped = True
        self.pull_the_plug()

    def wait_off(self, seconds: float) -> None:
        """Wait until the guest has turned itself off."""
        assert self._thread is not None
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise DeadError(f"{self.name} is still on after {seconds:.0f} s\n{self.last_words()}")

    @property
    def is_on(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def last_words(self, lines: int = 25) -> str:
        """The console's last lines."""
        return "\n".join(self.console.splitlines()[-lines:])

    def _firmware(self) -> None:
        while self._on.is_set():
            with self._lock:
                if not self._on.is_set():
                    return
                self.starts += 1
                with (self.directory / f"{self.name}.qemu").open("ab") as talk:
                    self._process = subprocess.Popen(
                        (*DIES_WITH_US, *self.lan.inside(*self._command())),
                        stdin=subprocess.DEVNULL,
                        stdout=talk,
                        stderr=talk,
                    )
            # With -no-reboot a reset ends QEMU well; anything else is no reboot.
            if self._process.wait() != 0 or "reboot: Power down" in self.console[-400:]:
                return

    def _command(self) -> list[str]:
        for file in ("kernel7.img", "initrd.img"):
            (self.directory / f"{self.name}.{file}").write_bytes(self.boot_file(file))
        cmdline = self.boot_file("cmdline.txt").decode().strip()
        drive = f"file={self.card},format=raw,if=none,id=card,cache={self.cache},discard=unmap"
        shell = self.directory / f"{self.name}.shell"
        rom = ",romfile=" if self.arch == "amd64" else ""
        return [
            *_MACHINES[self.arch],
            *("-m", str(MEMORY_MIB), "-smp", "1", "-nographic", "-nodefaults", "-no-reboot"),
            *("-kernel", str(self.directory / f"{self.name}.kernel7.img")),
            *("-initrd", str(self.directory / f"{self.name}.initrd.img")),
            *("-append", f"{cmdline} {_EXTRA}"),
            *("-rtc", f"base={self.rtc},clock=vm"),
            *("-drive", drive, "-device", _device(self.arch, "virtio-blk", "drive=card")),
            *("-netdev", f"tap,id=lan,ifname={self.cable.tap},script=no,downscript=no"),
            *("-device", _device(self.arch, "virtio-net", f"netdev=lan,mac={self.cable.mac}{rom}")),
            *("-object", "rng-random,id=rng,filename=/dev/urandom"),
            *("-device", _device(self.arch, "virtio-rng", "rng=rng")),
            *("-chardev", f"file,id=log,path={self.directory / self.name}.console,append=on"),
            *("-serial", "chardev:log"),
            *("-chardev", f"socket,id=shell,path={shell},server=on,wait=off"),
            *("-device", _device(self.arch, "virtio-serial", "id=bus")),
            *("-device", "virtconsole,chardev=shell,bus=bus.0"),
        ]

    # --- looking in -----------------------------------------------------------------------------

    def boot_file(self, name: str) -> bytes:
        """Read a file of the boot partition, as another computer would: the power should be off."""
        return baseimage.run("mtype", "-i", f"{self.card}@@{BOOT_OFFSET}", f"::{name}")

    def wait_for(self, pattern: str, *, seconds: float, start: int = 0) -> int:
        """Wait until the console says it after position `start`; give the position behind it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = re.compile(pattern).search(self.console, start)
            if found:
                return found.end()
            if not self.is_on or "Kernel panic" in self.console[start:]:
                raise DeadError(f"{self.name} died before {pattern!r}\n{self.last_words()}")
            time.sleep(0.5)
        raise DeadError(f"{self.name}: no {pattern!r} in {seconds:.0f} s\n{self.last_words()}")

    def run(self, script: str, *, seconds: float = 120.0, program: str = "sh") -> str:
        """Run a script as root through the probe's shell; give what it printed."""
        packed = base64.encodebytes(zlib.compress(script.encode())).decode()
        begin, end = f"begin-{time.monotonic_ns()}", f"end-{time.monotonic_ns()}"
        text = (
            "stty -echo -onlcr 2>/dev/null; PS1=; PS2=; unset HISTFILE\n"
            f"python3 -c '{_UNPACK}' >/run/probe <<'.'\n{packed}.\n"
            f"echo {begin[:3]}''{begin[3:]}; {program} /run/probe 2>&1; echo {end[:3]}''{end[3:]}\n"
        )
        with socket.socket(socket.AF_UNIX) as shell:
            shell.settimeout(seconds)
            self._connect(shell, seconds)
            shell.sendall(text.encode())
            return self._answer(shell, begin, end, seconds)

    def tell(self, command: str) -> None:
        """Start a command and don't wait for its answer: it ends the shell."""
        with socket.socket(socket.AF_UNIX) as shell:
            self._connect(shell, 30)
            shell.sendall(f"unset HISTFILE; {command}\n".encode())
            time.sleep(1)

    def _connect(self, shell: socket.socket, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                shell.connect(str(self.directory / f"{self.name}.shell"))
            except OSError:
                if time.monotonic() > deadline or not self.is_on:
                    raise DeadError(f"{self.name}: no shell\n{self.last_words()}") from None
                time.sleep(0.5)
            else:
                return

    def _answer(self, shell: socket.socket, begin: str, end: str, seconds: float) -> str:
        heard, deadline = b"", time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                piece = shell.recv(65536)
                if not piece:
                    break
                heard += piece
            text = heard.decode(errors="replace").replace("\r", "")
            if f"{end}\n" in text and f"{begin}\n" in text:
                return text.partition(f"{begin}\n")[2].partition(f"{end}\n")[0]
        raise DeadError(
            f"{self.name}: no answer in the shell; it said {heard[-400:]!r}\n{self.last_words()}"
        )


def _device(arch: str, kind: str, options: str) -> str:
    return f"{kind}-{'pci' if arch == 'amd64' else 'device'},{options}"


def grow(card: Path, *, gib: int = 4) -> None:
    """Make a written card as large as a real one."""
    os.truncate(card, gib << 30)
