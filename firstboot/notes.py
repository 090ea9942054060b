"""(Notes, action, outcome) -> Notes: what a node keeps until it is turned off. Pure.

The service and the simulator share it, so that both remember the same things.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from firstboot.model import (
    Action,
    Answer,
    Ask,
    AskJoin,
    Demote,
    Failing,
    Grant,
    Granted,
    Join,
    Leave,
    Notes,
    ReportJoined,
    RestartDocker,
    RotateToken,
)

SUPERSEDED = "superseded"
MOST_GRANTED = 256  # names at a time


@dataclass(frozen=True)
class Outcome:
    """What came of an action. `status`: of an answer received. `failure`: why it failed.

    `disk`: because the node's own file system is full, or cannot be written.
    """

    status: str = ""
    why: str = ""
    grant: Optional[Grant] = None
    failure: str = ""
    disk: bool = False


def after(
    notes: Notes, action: Action, outcome: Outcome, *, now: float, ask: Optional[Ask] = None
) -> Notes:
    """Give the notes after an action; `ask` is the one that an Answer answered."""
    notes = replace(notes, failing=_failing(notes.failing, action, outcome, now))
    if isinstance(action, AskJoin):
        if outcome.status == "granted" and outcome.grant:
            return replace(
                notes, grant=outcome.grant, refusal="", refused_since=None, refused_first=None
            )
        return _refused(notes, outcome, now)
    if isinstance(action, ReportJoined):
        if outcome.status == "bound":
            return replace(notes, refusal="", refused_since=now, refused_first=None, strangers=0)
        strangers = notes.strangers + 1 if outcome.status == "unknown" else notes.strangers
        return replace(_refused(notes, outcome, now), strangers=strangers)
    if isinstance(action, (Join, Leave)):
        # A token is good for one try: a second one with it could only repeat the first.
        return replace(notes, grant=None, strangers=0)
    if isinstance(action, RestartDocker):
        return replace(notes, restarted=now)
    if isinstance(action, Demote):
        return replace(notes, demoted=now)
    if isinstance(action, RotateToken):
        return notes if outcome.failure else replace(notes, token_is_out=False, granted=())
    if isinstance(action, Answer) and action.status == "granted" and ask and not outcome.status:
        return _granted(notes, Granted(ask.claim.name, ask.claim.generation, now))
    return notes


def _failing(
    before: Optional[Failing], action: Action, outcome: Outcome, now: float
) -> Optional[Failing]:
    kind = type(action).__name__
    same = before is not None and before.action == kind
    if not outcome.failure:
        return None if same else before
    since = before.since if before is not None and same else now
    return Failing(kind, since, outcome.failure, outcome.disk)


def _refused(notes: Notes, outcome: Outcome, now: float) -> Notes:
    refusal = outcome.why or outcome.failure
    if outcome.status == "refused" and refusal.startswith(SUPERSEDED):
        refusal = SUPERSEDED
    first = now if notes.refused_first is None else notes.refused_first
    refused = outcome.status == "refused"
    return replace(notes, refusal=refusal, refused_since=now, refused_first=first, refused=refused)


def _granted(notes: Notes, granted: Granted) -> Notes:
    others = tuple(one for one in notes.granted if one.name != granted.name)
    return replace(notes, granted=(*others, granted)[-MOST_GRANTED:], token_is_out=True)
