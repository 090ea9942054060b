"""The stage of real dockerds, each in namespaces of its own, with clocks that can be set. Shell."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cryptography import x509

from firstboot import repair, swarmview
from firstboot.engine import EngineError
from firstboot.model import Bind, Engine, Entry, Grant, Swarm, Token
from tests.lab.conformance.stage import ROOM, EndedError, Outcome, Play, RefusedError
from tests.lab.conformance.steps import Scenario
from tests.support import dockerd
from tests.support.dockerd import Machines
from tests.support.engines import Machine

NOBODY = "250"  # no machine has that address
PATIENCE = 240.0  # far more than anything takes, also on a machine that has other things to do


def play(scenario: Scenario, directory: Path, *, library: Path) -> list[Outcome]:
    """Play a scenario with dockerds. `library`: clock.c, compiled."""
    with RealStage(scenario, directory, library=library) as stage:
        return Play(stage, patience=PATIENCE, every=0.1).run(scenario)


class RealStage:
    """A context manager: a stage for a scenario's machines, all of them on."""

    def __init__(self, scenario: Scenario, directory: Path, *, library: Path) -> None:
        self._raw: dict[str, str] = {}
        with ExitStack() as stack:
            self._network = stack.enter_context(Machines(directory, library=library))
            made = {name: self._network.make(name) for name in scenario.nodes}
            for machine in made.values():
                machine.power_on()
            self._machines = {name: Machine(machine) for name, machine in made.items()}
            self._begun: list[threading.Thread] = []
            stack.callback(self._end_joins)
            self._stack = stack.pop_all()

    def __enter__(self) -> RealStage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end_joins(self) -> None:
        for thread in self._begun:
            thread.join(60)

    # --- doing ----------------------------------------------------------------------------------

    def act(self, verb: str, name: str, argument: str) -> None:
        one = self._machines[name]
        acts: dict[str, Callable[[], object]] = {
            "init": lambda: one.docker.init(one.address, epoch=1, charter=""),
            "leave": lambda: one.docker.leave(),
            "rotate-ca": lambda: one.docker.rotate_ca(),
            "rotate-token": lambda: one.docker.rotate_worker_token(),
            "clock": lambda: one.machine.clock.shift(float(argument)),
            "cut": one.machine.pull_the_plug,
            "start": lambda: self._start(one),
            "restart": lambda: self._restart(one),
            "wipe": one.machine.wipe,
            "tear": lambda: os.truncate(one.machine.data / repair.STATE, 0),
            "tear-certificate": lambda: os.truncate(one.machine.data / repair.CERTIFICATE, 0),
            "repair": lambda: repair.put_aside(str(one.machine.data), address=one.address),
            "unplug": lambda: self._network.switch.unplug(name),
            "plug": lambda: self._network.switch.plug(name),
        }
        _told(acts[verb])

    def _start(self, one: Machine) -> None:
        try:
            if one.machine.is_on:
                one.machine.start()
            else:
                one.machine.power_on()
        except dockerd.EndedError as error:
            # A dockerd that ended for any other reason is a failure of the stage.
            if repair.STATE.rpartition("/")[2] not in str(error) and "JSON" not in str(error):
                raise
            raise EndedError(str(error)) from None

    def _restart(self, one: Machine) -> None:
        one.machine.pull_the_plug()
        self._start(one)

    def join(self, name: str, target: str, token: Token, *, wait: bool) -> None:
        one = self._machines[name]
        subnet = one.address.rpartition(".")[0]
        to = self._machines[target].address if target in self._machines else f"{subnet}.{NOBODY}"
        grant = Grant(token, to, "", 1, 0.0)

        def call() -> None:
            try:
                one.docker.join(one.address, grant)
            except EngineError as error:
                # What else it says does not count: what it then is, does (facts S17).
                if "already part of a swarm" in str(error) and wait:
                    raise RefusedError(str(error)) from None

        if wait:
            call()
            return
        self._begun.append(threading.Thread(target=call))
        self._begun[-1].start()

    def change(self, verb: str, node_id: str, on: str) -> None:
        docker = self._machines[on].docker
        if verb == "label":
            name = next(
                key for key, one in self._machines.items() if one.engine().node_id == node_id
            )
            _told(lambda: docker.bind(Bind(node_id, name, 1, "worker", ROOM)))
        elif verb == "supersede":
            _told(lambda: docker.supersede("pi9", 7))
        else:
            act = {"promote": docker.promote, "demote": docker.demote, "remove": docker.remove}
            _told(lambda: act[verb](node_id))

    # --- looking --------------------------------------------------------------------------------

    def token(self, name: str) -> Token:
        return self._machines[name].docker.worker_token()

    def engine(self, name: str) -> Engine:
        return self._machines[name].engine()

    def swarm(self, name: str) -> Swarm | None:
        raw = self._machines[name].docker.look()
        if raw is None or raw["swarm"] is None:
            return None
        self._raw = {node["ID"]: node["Status"].get("State", "") for node in raw["nodes"]}
        return swarmview.read_swarm(raw["swarm"], raw["nodes"])

    def digest(self, name: str) -> str:
        return swarmview.ca_digest(self._machines[name].read("swarm-root-ca.crt"))

    def lasts(self, name: str) -> float:
        node = x509.load_pem_x509_certificate(self._machines[name].read("swarm-node.crt"))
        return (node.not_valid_after_utc - node.not_valid_before_utc).total_seconds()

    def unknown(self, entry: Entry) -> bool:
        return self._raw.get(entry.id) == "unknown"

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()


def _told(act: Callable[[], object]) -> None:
    try:
        act()
    except EngineError as error:
        raise RefusedError(str(error)) from None
