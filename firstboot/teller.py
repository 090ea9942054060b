"""Says what the node does: lines to the journal, status.txt to the card. Shell.

Each write wears the card: status.txt changes with the phase, else at most once a minute.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
import traceback
from typing import Optional, Set, Tuple

from firstboot import status
from firstboot.model import Decision
from firstboot.nodeconfig import NodeConfig
from firstboot.status import Status

REWRITE = 60.0  # seconds
SETTLE = 3.0  # a phase that lasts for less is not worth a write


def log(line: str) -> None:
    """One line to the journal, which adds the time. A journal that is gone stops nobody."""
    with contextlib.suppress(OSError):
        sys.stderr.write("piflash: " + line + "\n")
        sys.stderr.flush()


class Teller:
    """Tells what changed since the last time, and nothing twice."""

    def __init__(self, status_txt: str) -> None:
        self._status_txt = status_txt
        self._told: Tuple[str, ...] = ()
        self._phase: Tuple[str, str] = ("", "")
        self._since = 0
        self._written = -REWRITE
        self._due = False
        self._complaints: Set[str] = set()
        self._trouble = ""

    def tell(self, decision: Decision, *, config: Optional[NodeConfig], epoch: int) -> None:
        """Log the decision and write the status, if either says something new."""
        remedy = status.remedy(decision.reason, config=config) if decision.reason else ""
        phase = (decision.phase, decision.reason)
        moved = phase != self._phase
        if moved:
            self._phase, self._since = phase, int(time.time())
        # Without its numbers: what counts down is one line, not thirty.
        gist = (*phase, re.sub(r"\d+", "#", decision.why))
        if gist != self._told:
            self._told = gist
            name = "BLOCKED (%s)" % decision.reason if decision.reason else decision.phase
            log("%s: %s%s" % (name, decision.why, "; " + remedy if remedy else ""))
        now = time.monotonic()
        self._due = self._due or moved
        if now - self._written > (SETTLE if self._due else REWRITE):
            self._due, self._written = False, now
            self._write(status.render(Status(config, decision, self._since, epoch)))

    def complain(self, trouble: str) -> None:
        """Log a trouble that stands beside the decision; each text once."""
        if trouble not in self._complaints:
            self._complaints.add(trouble)
            log(trouble)

    def trouble(self, why: str) -> None:
        """Log why an action failed; the same failure in a row once."""
        if why != self._trouble:
            self._trouble = why
            log(why)

    def fault(self, error: Exception) -> None:
        """Log an error that nobody expected, with its traceback the first time."""
        text = "%s: %s" % (type(error).__name__, error)
        if text not in self._complaints:
            log(traceback.format_exc().rstrip())
        self.complain(text)

    def _write(self, text: str) -> None:
        try:
            status.write(self._status_txt, text)
        except OSError as error:
            self.complain("%s: %s" % (self._status_txt, error.strerror))
