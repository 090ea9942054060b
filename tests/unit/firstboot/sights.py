"""Observations to decide by: a healthy node of `card.config()`, and what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from firstboot.model import (
    Ask,
    Claim,
    Clock,
    Contact,
    Engine,
    Entry,
    Hello,
    Memory,
    Notes,
    Observation,
    Swarm,
)
from tests.support.identity import NOW

BEGUN = 1000.0  # monotonic: the service's start
THEN = BEGUN + 5.0  # the moment of deciding


def engine(state: str = "inactive", **more: Any) -> Engine:
    return Engine(state, since=more.pop("since", BEGUN), **more)


def seen(**more: Any) -> Observation:
    """An engine outside of a swarm, nobody answers, the clock is right."""
    return replace(
        Observation(
            clock=Clock(time=float(NOW), quality="ntp", floor=float(NOW)),
            begun=BEGUN,
            address_up=True,
            engine=engine(),
            engine_since=BEGUN,
            swarm=None,
            peers={},
            memory=Memory(epoch=0),
            notes=Notes(token_is_out=False),
        ),
        **more,
    )


def hello(name: str = "pi1", **more: Any) -> Hello:
    """The leader's, that lets nodes in."""
    return replace(
        Hello(
            name=name,
            role="manager",
            generation=1,
            epoch=1,
            charter="",
            phase="READY",
            engine="active",
            node_id="id-" + name,
            swarm_id="swarm-1",
            swarm_epoch=1,
            was_member=True,
            quorum=True,
            leader=name,
            grants=True,
            ca="ca-1",
            time=float(NOW),
            quality="ntp",
        ),
        **more,
    )


def outsider(name: str) -> Hello:
    """The hello of a node that never was in a swarm."""
    return hello(
        name,
        engine="inactive",
        phase="PROBE",
        node_id="",
        swarm_id="",
        swarm_epoch=0,
        epoch=0,
        was_member=False,
        quorum=False,
        leader="",
        grants=False,
        ca="",
    )


def heard(*hellos: Hello, at: float = THEN) -> dict[str, Contact]:
    return {one.name: Contact(one, at) for one in hellos}


def entry(name: str = "pi1", *, bound: bool = True, generation: int = 1, **more: Any) -> Entry:
    """A ready worker that a certificate vouched for, unless said otherwise."""
    role = more.get("role", "worker")
    labels = {
        "piflash.name": name,
        "piflash.generation": str(generation),
        "piflash.role": more.pop("wanted", role),
    }
    number = {"pi1": 11, "pi9": 12}.get(name, 99)
    plain = Entry("id-" + name, name, f"198.18.0.{number}", "worker", ready=True)
    return replace(plain, **{"labels": labels if bound else {}, **more})


def leading(*others: Entry, **more: Any) -> Observation:
    """pi1 leads a swarm that was founded properly; `others` are in it too."""
    mine = more.pop("mine", entry(role="manager", leader=True, reachable=True))
    swarm = Swarm(
        id="swarm-1",
        labels={"piflash.epoch": "1", **more.pop("labels", {})},
        rotations=more.pop("rotations", 1),
        rotating=more.pop("rotating", False),
        ca_since=more.pop("ca_since", NOW - 300.0),
        entries=(mine, *others),
    )
    memory = Memory(epoch=1, founding=1, founded=1, swarm_epoch=1, seen={"pi1": 1})
    return seen(
        **{
            "engine": engine("active", node_id="id-pi1", manager=True, ca="ca-1"),
            "swarm": swarm,
            "memory": memory,
            **more,
        }
    )


def ask(name: str = "pi9", *, kind: str = "join", **more: Any) -> Ask:
    claim = Claim("home", more.pop("role", "worker"), name, more.pop("generation", 1))
    return Ask(1, kind, claim, at=THEN, **more)
