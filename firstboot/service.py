"""The loop: import, decide, tell. Runs from boot to shutdown and ends only by SIGTERM or SIGINT."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from typing import Optional, Set

from firstboot import importer, status
from firstboot.decide import Decision, decide
from firstboot.importer import Card, CardError
from firstboot.layout import Layout
from firstboot.nodeconfig import NodeConfig
from firstboot.status import Status

INTERVAL = 10.0  # seconds between two looks


def run(layout: Layout, *, interval: float = INTERVAL) -> int:
    """Run until a signal asks to stop; give the exit code, 0."""
    stop, wake = os.pipe()

    def ask_to_stop(_number: int, _frame: object) -> None:
        os.write(wake, b"x")

    # A pipe, because a handler that sets a threading.Event can deadlock with the waiting thread.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    teller = Teller(layout)
    while True:
        teller.turn()
        if select.select([stop], [], [], interval)[0]:
            log("stopping: asked to")
            return 0


def log(line: str) -> None:
    """One line to the journal, which adds the time."""
    sys.stderr.write("piflash: " + line + "\n")
    sys.stderr.flush()


class Teller:
    """Takes a turn at a time and tells what changed since the one before."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._config: Optional[NodeConfig] = None
        self._told: Optional[Decision] = None
        self._since = 0
        self._troubles: Set[str] = set()

    def turn(self) -> None:
        """Import, decide, tell; nothing that goes wrong gets out of here."""
        try:
            decision = self._decide()
        except Exception as error:  # noqa: BLE001 - the loop never ends: nobody is there to restart it
            decision = Decision(
                "BLOCKED",
                "try again",
                "%s: %s" % (type(error).__name__, error),
                # -m: HypriotOS makes a new machine-id during the first boot, and without it
                # journalctl shows nothing of what was logged before.
                remedy="see `journalctl -m -u piflash` on the node",
            )
            if decision != self._told:
                traceback.print_exc()
        if decision != self._told:
            self._told = decision
            self._since = int(time.time())
            remedy = "; " + decision.remedy if decision.remedy else ""
            log("%s: %s (%s%s)" % (decision.phase, decision.next, decision.why, remedy))
        self._write_status(decision)

    def _decide(self) -> Decision:
        try:
            card = importer.import_card(self._layout)
        except CardError as error:
            return Decision("BLOCKED", "look again", str(error), remedy=error.remedy)
        self._config = card.config
        self._tell_left(card)
        return decide(card.config, permit=card.permit)

    def _tell_left(self, card: Card) -> None:
        if card.left:
            self._complain("identity still on the boot partition: " + ", ".join(card.left))

    def _write_status(self, decision: Decision) -> None:
        text = status.render(Status(self._config, decision, self._since))
        try:
            status.write(self._layout.status_txt, text)
        except OSError as error:
            self._complain("%s: %s" % (self._layout.status_txt, error.strerror))

    def _complain(self, trouble: str) -> None:
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            log(trouble)
