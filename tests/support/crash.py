"""Kills a child at any chosen step of its work on files: a crash that no `finally` softens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

Announce = Callable[[str], None]

_CHANGING = {
    "open", "write", "flush", "fsync", "replace", "rename", "mkdir", "rmdir", "unlink", "chown",
    "fchown", "chmod", "fchmod", "ftruncate", "close", "flock", "listdir",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a child announced, in order, and whether it was killed before its end."""

    said: tuple[str, ...]
    killed: bool


def run_and_kill(job: Callable[[Announce], None], *, at: int) -> Run:
    """Run the job in a forked child; SIGKILL it before or after its changing call number at // 2.

    The child's announcements are heard even if it dies at once after them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_child(job, writing, at)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = tuple(pipe.read().splitlines())
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, f"the child failed at {at}: {said}"
    return Run(said, killed)


def _be_the_child(job: Callable[[Announce], None], pipe: int, at: int) -> None:
    passed = 0

    def count(_frame: object, event: str, called: object) -> None:
        nonlocal passed
        if event in ("c_call", "c_return") and getattr(called, "__name__", "") in _CHANGING:
            if passed == at:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

    def announce(line: str) -> None:
        sys.setprofile(None)
        os.write(pipe, (line + "\n").encode())
        sys.setprofile(count)

    code = 1
    try:
        sys.setprofile(count)
        job(announce)
        code = 0
    finally:
        sys.setprofile(None)
        os._exit(code)
