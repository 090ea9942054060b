"""The service, from boot to shutdown: imports the card, then turns until SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import Callable, List, Optional, Tuple

from firstboot import files, importer, tls
from firstboot.clock import Timekeeper
from firstboot.engine import Docker
from firstboot.importer import Card, CardError
from firstboot.layout import Layout
from firstboot.model import Decision
from firstboot.node import Node, Surroundings
from firstboot.peers import Peers
from firstboot.server import Server
from firstboot.teller import Teller, log

CARD_AGAIN = 10.0  # seconds
FAULT_AGAIN = 10.0


def run(layout: Layout) -> int:
    """Run until a signal asks to stop; give the exit code, 0, or 1 if it cannot go on."""
    # Pipes, because a handler that sets a threading.Event can deadlock with the waiting thread.
    stop, asked = os.pipe()
    bell, ring = os.pipe()
    for fd in (bell, ring):
        os.set_blocking(fd, False)

    def ask_to_stop(_number: int, _frame: object) -> None:
        os.write(asked, b"x")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    service = Service(layout, wake=lambda: _ring(ring), interrupt=stop)
    try:
        while True:
            pause = service.turn()
            if not service.whole():
                log("stopping: a thread is gone; systemd starts this service again")
                return 1
            ready = select.select([stop, bell], [], [], pause)[0]
            if stop in ready:
                log("stopping: asked to")
                return 0
            if bell in ready:
                os.read(bell, 4096)
    finally:
        service.close()


class Service:
    """Takes a turn at a time; nothing that goes wrong gets out of it."""

    def __init__(self, layout: Layout, *, wake: Callable[[], None], interrupt: int) -> None:
        self._layout = layout
        self._wake = wake
        self._interrupt = interrupt
        self._teller = Teller(layout.status_txt)
        self._node: Optional[Node] = None
        self._parts: List[Callable[[], None]] = []
        self._watched: List[Callable[[], bool]] = []

    def turn(self) -> float:
        """Do the next thing; give the seconds until there may be another."""
        try:
            if self._node is None:
                self._node = self._begin()
            return self._node.turn()
        except CardError as error:
            why = "%s; %s" % (error, error.remedy)
            decision = Decision("BLOCKED", why, reason="card")
            self._teller.tell(decision, config=None, epoch=0)
            return CARD_AGAIN
        except OSError as error:
            if not files.is_disk(error):
                return self._fault(error)
            decision = Decision("BLOCKED", files.in_words(error), reason="disk")
            self._abandon()
            self._teller.tell(decision, config=importer.described(self._layout), epoch=0)
            return FAULT_AGAIN
        except Exception as error:  # noqa: BLE001 - the loop never ends: nobody is there to restart it
            return self._fault(error)

    def whole(self) -> bool:
        """Whether everything that runs beside the loop still does."""
        return all(runs() for runs in self._watched)

    def close(self) -> None:
        """Stop what runs beside the loop."""
        self._watched.clear()
        while self._parts:
            self._parts.pop()()

    def _fault(self, error: Exception) -> float:
        self._teller.fault(error)
        self._abandon()
        why = "%s: %s" % (type(error).__name__, error)
        self._teller.tell(Decision("BLOCKED", why, reason="fault"), config=None, epoch=0)
        return FAULT_AGAIN

    def _abandon(self) -> None:
        """What a beginning that failed has left: the next one makes its own."""
        if self._node is None:
            self.close()

    def _begin(self) -> Node:
        card = importer.import_card(self._layout)
        for path in card.left:
            self._teller.complain("identity still on the boot partition: " + path)
        config = card.config
        peers, server = self._network(card)
        timekeeper = Timekeeper(
            root=self._layout.root, tick=self._layout.tick, flashed_at=float(config.flashed_at)
        )
        around = Surroundings(
            self._layout,
            Docker(self._layout.docker_socket),
            peers,
            server,
            self._teller,
            timekeeper,
        )
        return Node(card, around)

    def _network(self, card: Card) -> Tuple[Peers, Server]:
        config, identity = card.config, self._layout.identity
        peers = Peers(
            config,
            tls.client_context(identity),
            log=log,
            wake=self._wake,
            interrupt=self._interrupt,
        )
        # At once: what comes next may fail, and is then tried again with new ones.
        self._parts.append(peers.close)
        server = Server(
            tls.server_context(identity),
            cluster=config.cluster,
            log=log,
            wake=self._wake,
            heard=peers.heard,
        )
        self._parts.append(server.close)
        peers.start()
        server.start()
        self._watched = [peers.runs, server.runs]
        return peers, server


def _ring(fd: int) -> None:
    # If it blocks, it is full of rings already.
    with contextlib.suppress(BlockingIOError):
        os.write(fd, b"x")
