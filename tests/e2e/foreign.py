"""Runs a program that starts others of a foreign architecture: qemu-user in a private binfmt_misc.

Shell. The registration lives in a user and mount namespace of its own (Linux 6.7 or later), so the
machine's own configuration is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.support import tools

TIMEOUT = 5400.0
NATIVE = "amd64"
# Magic and mask of a 32-bit little-endian ARM ELF, as qemu's own binfmt configuration has them.
_ARM = (
    r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00",
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
)


def run(arch: str, *argv: str) -> None:
    """Run a program to its end; RuntimeError with the last of its talk if it fails."""
    command = list(argv) if arch == NATIVE else [*_namespace(), *argv]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1593648000"},
    ) as process:
        if arch != NATIVE:
            _map_everyone(process.pid)
        talk, _ = process.communicate("\n", timeout=TIMEOUT)
    if process.returncode:
        last = "\n".join(talk.splitlines()[-30:])
        raise RuntimeError(f"{argv[0]}: exit {process.returncode}:\n{last}")


def _namespace() -> list[str]:
    tools.need("qemu-arm-static", "unshare")
    magic, mask = _ARM
    interpreter = shutil.which("qemu-arm-static")
    # F: the kernel opens the interpreter now, so that it need not lie inside the new root.
    register = (
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && "
        f"printf '%s' ':qemu-arm:M::{magic}:{mask}:{interpreter}:OCF' "
        '>/proc/sys/fs/binfmt_misc/register && exec "$@"'
    )
    # A program that starts before its user is mapped has no rights; the second one has.
    wait = 'read _ && exec sh -c "$0" sh "$@"'
    return ["unshare", "--user", "--mount", "sh", "-c", wait, register]


def _map_everyone(pid: int) -> None:
    """Give the namespace the machine's own users: the root's files belong to many of them."""
    own, deadline = os.readlink("/proc/self/ns/user"), time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/user") == own:
        if time.monotonic() > deadline:
            raise RuntimeError("no user namespace can be made here")
        time.sleep(0.02)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text("0 0 4294967295\n")
