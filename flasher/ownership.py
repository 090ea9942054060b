"""Who the person at the keyboard is, also under sudo: what is made for them should be theirs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def operator() -> tuple[int, int]:
    """Give the user and group id of whoever ran the command, behind sudo if need be."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and user.isdecimal() and group.isdecimal():
        return int(user), int(group)
    return os.geteuid(), os.getegid()


def give(target: Path | int) -> None:
    """Give a file that root made to the operator; nothing happens where there is no sudo.

    `target`: a path or an open file. A file system without owners (FAT, NFS) is no error.
    """
    if os.name == "posix" and os.geteuid() == 0 and operator() != (0, 0):
        with suppress(OSError):
            if isinstance(target, int):
                os.fchown(target, *operator())
            else:
                os.lchown(target, *operator())


def give_inside(directory: Path, target: Path | int) -> None:
    """Give a file that root made in a directory; in one that is not the operator's, it stays."""
    with suppress(OSError):
        if directory.stat().st_uid == operator()[0]:
            give(target)


def make_directories(directory: Path) -> None:
    """Make a directory and those above it; what is made in the operator's is the operator's."""
    if not directory.is_dir():
        make_directories(directory.parent)
        directory.mkdir(exist_ok=True)
        give_inside(directory.parent, directory)
