"""What a test needs from the machine: absent tools skip at home and fail in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

_SBIN = "/usr/sbin:/sbin"


def absent(what: str) -> NoReturn:
    """Skip, or fail in CI, because something is not here; `what` says it."""
    if os.environ.get("PIFLASH_REQUIRE_TOOLS") == "1":
        pytest.fail(f"PIFLASH_REQUIRE_TOOLS=1, but {what}", pytrace=False)
    pytest.skip(what)


def need(*programs: str) -> None:
    """Skip, or fail in CI, unless every program is on PATH or in the sbin directories."""
    path = os.environ.get("PATH", "") + ":" + _SBIN
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        absent(f"not installed: {', '.join(missing)} (run: .ci/tools test)")


def need_root() -> None:
    """Skip, or fail in CI, unless this is root (loop devices)."""
    if os.geteuid() != 0:
        absent("needs root")


def need_file(path: str) -> None:
    """Skip, or fail in CI, unless the path exists."""
    if not os.path.exists(path):
        absent(f"not there: {path}")
