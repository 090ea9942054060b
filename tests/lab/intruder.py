"""Somebody in the home network who is no node: sockets whose cable ends at the switch. Shell."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from firstboot.wire import PORT
from tests.lab import switch as net
from tests.lab.switch import BRIDGE, Switch

_NEWNET = 0x40000000  # sched.h


@contextmanager
def inside(switch: Switch) -> Iterator[None]:
    """Have sockets that this thread makes meanwhile be in the home network; they stay there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(namespace: int) -> None:
        if libc.setns(namespace, _NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    # Of the thread: /proc/self is that of the process's first one.
    mine = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    theirs = os.open(f"/proc/{switch.pid}/ns/net", os.O_RDONLY)
    try:
        enter(theirs)
        yield
    finally:
        enter(mine)
        os.close(mine)
        os.close(theirs)


def address(switch: Switch, number: int) -> str:
    """Give the intruder one more address: who is refused is told once a source and minute."""
    made = f"{net.SUBNET}.{number}"
    switch.ip("addr", "replace", f"{made}/{net.PREFIX}", "dev", BRIDGE)
    return made


def flood(target: str, *, sources: Sequence[str], count: int, say: bytes) -> list[socket.socket]:
    """Open connections that say the beginning of something and then wait."""
    made = []
    for number in range(count):
        one = socket.socket()
        one.bind((sources[number % len(sources)], 0))
        one.setblocking(False)
        one.connect_ex((target, PORT))
        made.append(one)
    for one in made:
        with suppress(OSError):
            one.send(say)
    return made
