"""`systemctl` of a node: the server in its first process, and the program that asks it. Shell.

Runs inside, standard library only. It knows the units that it was given; of all others it says
what systemd says of a unit that is not there.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from units import ETC, Unit

SOCKET = "/run/lab-systemctl"
WANTS = ETC / "multi-user.target.wants"
NOT_FOUND = 5


def enabled(name: str) -> bool:
    """The unit is started at every boot."""
    return (WANTS / name).is_symlink()


class Control:
    """Carries out what `systemctl` was told. `masked` units are never started."""

    def __init__(self, units: Mapping[str, Unit], *, masked: Sequence[str]) -> None:
        self._units = units
        self._masked = masked

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        """Give the exit code and what is printed."""
        words = [word for word in argv if not word.startswith("-")]
        later = "--no-block" in argv
        verb, names = words[0], [_full(name) for name in words[1:]]
        if verb == "daemon-reload":
            return 0, ""
        for name in names:
            rc, text = self._one(verb, name, later=later)
            if rc or text:
                return rc, text
        return 0, ""

    def _one(self, verb: str, name: str, *, later: bool) -> tuple[int, str]:
        unit = self._units.get(name)
        if unit is None:
            return (0, "") if verb == "try-restart" else (NOT_FOUND, f"Unit {name} not found.")
        if verb in ("enable", "disable"):
            WANTS.mkdir(parents=True, exist_ok=True)
            (WANTS / name).unlink(missing_ok=True)
            if verb == "enable":
                (WANTS / name).symlink_to(ETC / name)
            return 0, ""
        if verb == "is-enabled":
            return (0, "enabled") if enabled(name) else (1, "disabled")
        if verb == "is-active":
            return (0 if unit.state == "active" else 3), unit.state
        if verb == "kill":
            unit.kill(signal.SIGKILL)
            return 0, ""
        return self._change(verb, unit, later=later)

    def _change(self, verb: str, unit: Unit, *, later: bool) -> tuple[int, str]:
        def restart() -> None:
            unit.stop()
            unit.start()

        doing: Mapping[str, Callable[[], None]] = {
            "start": unit.start,
            "stop": unit.stop,
            "restart": restart,
            "try-restart": restart if unit.pid else lambda: None,
        }
        if verb not in doing:
            return 1, f"Unknown command verb {verb}."
        if unit.name in self._masked and verb != "stop":
            return 1, f"Unit {unit.name} is masked."
        if later:
            threading.Thread(target=doing[verb], daemon=True).start()
            return 0, ""
        doing[verb]()
        return (0, "") if verb == "stop" or unit.wait_started() else (1, f"{unit.name} failed.")


def _full(name: str) -> str:
    return name if "." in name else f"{name}.service"


def serve(control: Control) -> None:
    """Answer on the socket, in threads of its own."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(SOCKET)
    server.listen(16)

    def answer(caller: socket.socket) -> None:
        with caller, caller.makefile("rwb") as line:
            line.write(json.dumps(control.run(json.loads(line.readline()))).encode() + b"\n")

    def forever() -> None:
        while True:
            caller, _ = server.accept()
            threading.Thread(target=answer, args=(caller,), daemon=True).start()

    threading.Thread(target=forever, daemon=True).start()


def ask(argv: Sequence[str]) -> int:
    """Be `systemctl`."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(SOCKET)
        with server.makefile("rwb") as line:
            line.write(json.dumps(list(argv)).encode() + b"\n")
            line.flush()
            rc, text = json.loads(line.readline())
    if text:
        sys.stdout.write(text + "\n")
    return int(rc)


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1:]))
