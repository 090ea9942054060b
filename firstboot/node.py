"""One turn of the node: observe, decide, apply one action, say so. Shell; all policy is decide's.

Everything it works with is given to it, so that the same turn runs on a Pi and in a lab.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, Mapping

from firstboot import address, files, greeting, importer, memory, notes, scrub, swarmview
from firstboot.address import AddressError
from firstboot.clock import Timekeeper
from firstboot.decide import decide
from firstboot.engine import Docker, EngineError
from firstboot.importer import Card
from firstboot.layout import Layout
from firstboot.model import (
    Action,
    Answer,
    AskJoin,
    Bind,
    Decision,
    Demote,
    FallToFloor,
    Init,
    Join,
    Leave,
    Memory,
    Notes,
    Observation,
    Promote,
    RaiseAddress,
    Remember,
    Remove,
    ReportJoined,
    RestartDocker,
    RotateCa,
    RotateToken,
    StepClock,
    Supersede,
)
from firstboot.notes import Outcome
from firstboot.peers import Peers
from firstboot.server import Server
from firstboot.swarmview import Tracker
from firstboot.teller import Teller
from firstboot.wire import Reply

AFTER_FAILURE = 1.0  # seconds until a failed action is tried again
LOOK = 10.0  # the longest pause between two looks
MAX_PEM = 65536
ROOT_CA = "swarm/certificates/swarm-root-ca.crt"
NODE_CERTIFICATE = "swarm/certificates/swarm-node.crt"


@dataclass(frozen=True)
class Surroundings:
    """What a node works with."""

    layout: Layout
    docker: Docker
    peers: Peers
    server: Server
    teller: Teller
    timekeeper: Timekeeper


class Node:
    """A node of a card that was imported."""

    def __init__(self, card: Card, around: Surroundings) -> None:
        self._card = card
        self._config = card.config
        self._around = around
        self._begun = time.monotonic()
        self._notes = Notes()
        self._tracker = Tracker(begun=self._begun)
        self._memory = self._load()
        self._left = card.left  # of the identity on FAT

    def turn(self) -> float:
        """Take one step; give the seconds until the next is wanted. A failed action is told."""
        now = time.monotonic()
        seen = self._observe(now)
        decision = decide(self._config, self._card.permit, seen, now)
        self._around.teller.tell(decision, config=self._config, epoch=self._memory.swarm_epoch)
        self._publish(seen, decision)
        self._housekeeping(seen)
        if decision.action is None:
            return min(decision.wait, LOOK)
        outcome = self._try(decision.action, seen)
        asked = {ask.number: ask for ask in seen.asks}
        number = decision.action.number if isinstance(decision.action, Answer) else 0
        self._notes = notes.after(
            self._notes,
            decision.action,
            outcome,
            now=time.monotonic(),
            ask=asked.get(number),
        )
        if outcome.failure:
            self._around.teller.trouble(outcome.failure)
            return AFTER_FAILURE
        return 0.0

    # --- observe --------------------------------------------------------------------------------

    def _observe(self, now: float) -> Observation:
        config, around = self._config, self._around
        view = self._tracker.follow(around.docker.look(), now)
        engine = view.engine
        if engine is not None:
            # A restart of dockerd from here is over before the next look can miss it.
            started = max(view.since, self._notes.restarted or 0.0)
            engine = replace(
                engine,
                ca=swarmview.ca_digest(self._certificate(ROOT_CA)),
                certified=swarmview.not_before(self._certificate(NODE_CERTIFICATE)),
                stale_clock=around.timekeeper.stepped_since(started),
            )
        return Observation(
            clock=around.timekeeper.read(certified=engine.certified if engine else 0.0),
            begun=self._begun,
            address_up=address.is_up(config.address, interface=config.interface),
            engine=engine,
            engine_since=view.since,
            swarm=view.swarm,
            peers=around.peers.contacts(),
            memory=self._memory,
            notes=self._notes,
            asks=around.server.asks(),
            trouble=around.docker.trouble,
        )

    def _certificate(self, name: str) -> bytes:
        path = os.path.join(self._around.layout.docker, name)
        return files.read(path, limit=MAX_PEM) or b""

    def _load(self) -> Memory:
        config = self._config
        lost = memory.lost(epoch=config.epoch, seed=config.name == config.seed.name)
        found, complaint = memory.load(self._around.layout.memory, lost=lost)
        if complaint:
            self._around.teller.complain(complaint)
        return found

    def _housekeeping(self, seen: Observation) -> None:
        """What no decision depends on; it may fail, and is tried again at the next turn."""
        try:
            self._around.timekeeper.keep(seen.clock)
            scrub.user_data(self._around.layout)
            if self._left:
                self._left = importer.scrub(self._around.layout)
        except OSError as error:
            self._around.teller.complain(files.in_words(error))

    # --- say ------------------------------------------------------------------------------------

    def _publish(self, seen: Observation, decision: Decision) -> None:
        """Set what the others are told until the next turn."""
        hello, you = greeting.hello(self._config, seen, decision), greeting.bound(seen.swarm)
        self._around.server.publish(hello, you=you)
        self._around.peers.follow(hello, you=you)

    # --- apply ----------------------------------------------------------------------------------

    def _try(self, action: Action, seen: Observation) -> Outcome:
        try:
            return self._apply(action, seen)
        except (EngineError, AddressError) as error:
            return Outcome(failure=str(error))
        except OSError as error:
            return Outcome(failure=files.in_words(error), disk=files.is_disk(error))

    def _apply(self, action: Action, seen: Observation) -> Outcome:
        if isinstance(action, AskJoin):
            return self._around.peers.ask_join(action.leader)
        if isinstance(action, ReportJoined):
            return self._around.peers.report_joined(action.leader, action.node_id)
        if isinstance(action, Answer):
            if not self._around.server.answer(action.number, self._reply(action, seen)):
                return Outcome(status="gone")
        elif isinstance(action, Remember):
            memory.keep(self._around.layout.memory, action.memory)
            self._memory = action.memory
        else:
            self._change(action)
        return Outcome()

    def _reply(self, action: Answer, seen: Observation) -> Reply:
        if action.status != "granted" or seen.swarm is None:
            return Reply(action.status, action.why, leader=action.leader)
        return Reply(
            action.status,
            action.why,
            leader=self._config.name,
            token=self._around.docker.worker_token(),
            address=self._config.address,
            swarm_id=seen.swarm.id,
            epoch=seen.swarm.epoch,
        )

    def _change(self, action: Action) -> None:
        """Change the machine, its engine or the swarm."""
        docker, config = self._around.docker, self._config
        if isinstance(action, RaiseAddress):
            address.bring_up(config.address, subnet=config.subnet, interface=config.interface)
        elif isinstance(action, StepClock):
            self._around.timekeeper.step(action.time)
        elif isinstance(action, FallToFloor):
            self._around.timekeeper.fall_to_floor()
        elif isinstance(action, RestartDocker):
            docker.restart()
        elif isinstance(action, Init):
            docker.init(config.address, epoch=action.epoch, charter=self._card.charter)
        elif isinstance(action, Join):
            docker.join(config.address, action.grant)
        elif isinstance(action, Bind):
            docker.bind(action)
        elif isinstance(action, Supersede):
            docker.supersede(action.name, action.generation)
        else:
            self._plain(action)

    def _plain(self, action: Action) -> None:
        """What needs nothing but a node id, or nothing."""
        docker = self._around.docker
        whole: Mapping[type, Callable[[], None]] = {
            RotateCa: docker.rotate_ca,
            RotateToken: docker.rotate_worker_token,
            Leave: docker.leave,
        }
        by_id: Dict[type, Callable[[str], None]] = {
            Promote: docker.promote,
            Demote: docker.demote,
            Remove: docker.remove,
        }
        if isinstance(action, (Promote, Demote, Remove)):
            by_id[type(action)](action.node_id)
        else:
            whole[type(action)]()
