"""What happened in how many stories: a simulator without faults would pass anything. Pure."""

from __future__ import annotations

from collections import Counter

from tests.sim.effects import APPLY

FAULTS = (
    "power cut before an action",
    "power cut in an action",
    "power cut after an action",
    "power cut at some time",
    "power cut of who gave a token",
    "dockerd restarted of who gave a token",
    "no power in the house",
    "network divided",
    "packets lost",
    "network slow",
    "dockerd restarted",
    "dockerd takes 40 s",
    "card replaced",
    "card replaced after a write that failed",
    "rebuild in a divided network",
    "rebuild of a swarm that lives",
    "replaced card in another Pi",
    "one card in two Pis",
    "state of dockerd damaged",
    "certificates of dockerd damaged",
    "memory of a node lost",
    "worker lies in its hello",
    "worker claims another's node id",
    "clock years behind",
    "clock minutes to months behind",
    "clock ahead",
    "time server late",
    "no time server",
    "cards 300 days old",
    "permit that is not the card's",
    "founding cut off before its labels",
    "100 days later",
)
QUIRKS = (
    "S2: join hangs and ends in error",
    "S2: join fails",
    "S5: CA made anew for ten years",
    "S7, S15: orphan that seems active",
    "S9: torn state file repaired",
    "S9: engine starts in error without a certificate",
    "a member's engine looks for its leader for a minute",
    "S11: entry of a try that was cut off",
    "S17: dockerd stopped in a join",
    "S18: two entries of one name",
    "S18: ghost that seems reachable",
    "S22: leader lost, another one elected",
)
# What the rules keep away: a story with such a thing is none of a whole set of rules, most of
# the time; the mutants meet them.
AVOIDED = (
    "S1, S16: joiner does not believe the certificates",
    "S3: engine starts in error by its clock",
    "S6: command that dockerd refuses",
    "S14: promotion that gets stuck",
    "S16: root certificate from the future",
    "a person mends the time",
)
ACTIONS = ("AskJoin", "ReportJoined", "Answer", *(kind.__name__ for kind in APPLY))
REMEDIES = ("a person flashes with --rebuild", "a person flashes again")

KINDS = (
    *FAULTS,
    *QUIRKS,
    *(f"power cut at {action}" for action in ACTIONS),
    *(f"does {action}" for action in ACTIONS),
    *REMEDIES,
)
# A kind is in at least one story of so many.
RAREST = 3000


def check(stories: Counter[str], *, told: int) -> list[str]:
    """Give what happened too seldom in the stories that were told, or is no kind at all."""
    unknown = [f"unknown: {kind}" for kind in sorted(set(stories) - {*KINDS, *AVOIDED})]
    return unknown + [kind for kind in KINDS if stories[kind] * RAREST < told]


def table(stories: Counter[str]) -> str:
    """Give a line for each kind."""
    return "\n".join(f"{stories[kind]:7} {kind}" for kind in (*KINDS, *AVOIDED))
