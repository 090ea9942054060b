"""Fixtures and the fence for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("piflash", deadline=None)
settings.load_profile("piflash")

_FENCED = {"active": False}
_FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.bind",
)


def _fence(event: str, args: tuple[object, ...]) -> None:
    if not _FENCED["active"]:
        return
    if event in _FORBIDDEN:
        raise RuntimeError(f"a unit test tried {event} {args!r}: that belongs in tests/contract")
    if event == "open" and str(args[0]).startswith("/dev/") and "/dev/shm/" not in str(args[0]):
        mode, flags = args[1], args[2]
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if args[0] != "/dev/null" and (
            writing or (isinstance(mode, str) and set(mode) & set("wa+"))
        ):
            raise RuntimeError(f"a unit test tried to write {args[0]}")


sys.addaudithook(_fence)


@pytest.fixture(autouse=True)
def _unit_fence(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process, no socket, no write to /dev from tests/unit."""
    _FENCED["active"] = "unit" in request.path.parts
    yield
    _FENCED["active"] = False
