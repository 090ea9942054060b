"""The first program of a node: what systemd and cloud-init do on a Pi, in their order. Shell.

Runs inside, standard library only, from the plan that tests/lab/node.py leaves in /lab/plan.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import units
from cloud import Cloud
from control import Control, enabled, serve
from units import ETC, Unit, tell

PIFLASH = "piflash.service"
DOCKER = "docker.service"
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")


def main() -> None:
    """Boot, and stay."""
    plan: Mapping[str, Any] = json.loads(Path("/lab/plan.json").read_text())
    # `reboot` asks with it: nothing runs yet at the time at which the card's bootcmd does so.
    signal.signal(signal.SIGUSR1, lambda *_: _again())
    Path("/run/lab-init.pid").write_text(str(os.getpid()))
    tell("boot")
    if plan["synchronized"]:
        SYNCHRONIZED.parent.mkdir(parents=True, exist_ok=True)
        SYNCHRONIZED.touch()
    cloud = Cloud(plan["seed"]) if plan["seed"] else None
    if cloud:
        cloud.begin()
        cloud.every_boot()
        cloud.write_files()
    _network(plan)
    docker = Unit(DOCKER, lambda: units.docker(plan["dockerd"]))
    known = {
        DOCKER: docker,
        PIFLASH: Unit(PIFLASH, lambda: units.from_card(ETC / PIFLASH), after=docker),
    }
    units.listen(known)
    serve(Control(known, masked=plan["masked"]))
    docker.start()
    if enabled(PIFLASH) and PIFLASH not in plan["masked"]:
        known[PIFLASH].start()
    if cloud:
        cloud.end()
    tell("booted")
    while True:
        signal.pause()


def _network(plan: Mapping[str, Any]) -> None:
    """The address of the home network. The cluster's own is for piflash to raise."""
    for line in (
        "link set lo up",
        f"addr replace {plan['lan']} dev eth0",
        "link set eth0 up",
        f"route replace default via {plan['router']}",
    ):
        subprocess.run(["ip", *line.split()], check=True)


def _again() -> None:
    tell("reboot")
    os.kill(-1, signal.SIGKILL)
    os.execv(sys.executable, [sys.executable, "-SEs", str(Path(__file__).parent)])


main()
