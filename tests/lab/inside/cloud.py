"""cloud-init of a node, as far as a card of piflash asks for it. Standard library only.

Like cloud-init 18.3 it marks a module as done before it runs it (cloudinit/helpers.py), so that a
power cut leaves here what it leaves there.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path("/var/lib/cloud")
INSTANCE = HOME / "instance"
KNOWN = HOME / "data/instance-id"
RESULT = Path("/run/cloud-init/result.json")
LOG = Path("/lab/log/cloud-init.log")


class Cloud:
    """`seed`: what stands in the files of the boot partition, see tests/lab/card.py."""

    def __init__(self, seed: Mapping[str, Any]) -> None:
        self._seed = seed
        self._config: Mapping[str, Any] = seed["user_data"]

    def begin(self) -> None:
        """Take the instance as known, keep copies of the user-data, set the host's name."""
        place = HOME / "instances" / self._seed["instance"]
        (place / "sem").mkdir(parents=True, exist_ok=True)
        KNOWN.parent.mkdir(parents=True, exist_ok=True)
        KNOWN.write_text(self._seed["instance"] + "\n")
        INSTANCE.unlink(missing_ok=True)
        INSTANCE.symlink_to(place)
        for copy in ("user-data.txt", "user-data.txt.i", "cloud-config.txt", "obj.pkl"):
            _write(place / copy, self._seed["text"].encode(), mode=0o600)
        name = self._config["hostname"]
        _write(Path("/etc/hostname"), f"{name}\n".encode(), mode=0o644)
        hosts = f"127.0.1.1 {name}\n127.0.0.1 localhost\n"
        _write(Path("/etc/hosts"), hosts.encode(), mode=0o644)

    def every_boot(self) -> None:
        """Run bootcmd."""
        _script(Path("/run/bootcmd"), self._config.get("bootcmd", []))

    def write_files(self) -> None:
        """Write the files of write_files, once."""
        if not self._first("write_files"):
            return
        for file in self._config.get("write_files", []):
            content = file.get("content", "").encode()
            if file.get("encoding") in ("b64", "base64"):
                content = base64.b64decode(content)
            mode = int(str(file.get("permissions", "0644")), 8)
            _write(Path(file["path"]), content, mode=mode)

    def end(self) -> None:
        """Run runcmd, once, and tell that all is over."""
        if self._first("runcmd"):
            _script(INSTANCE / "scripts/runcmd", self._config.get("runcmd", []))
        _write(RESULT, json.dumps({"v1": {"errors": []}}).encode(), mode=0o644)

    def _first(self, module: str) -> bool:
        mark = INSTANCE / "sem" / f"config_{module}"
        if mark.exists():
            return False
        mark.touch()
        return True


def _script(path: Path, commands: Sequence[str | Sequence[str]]) -> None:
    lines = [line if isinstance(line, str) else shlex.join(map(str, line)) for line in commands]
    _write(path, "\n".join(["#!/bin/sh", *lines, ""]).encode(), mode=0o700)
    environment = {**os.environ, "INSTANCE_ID": KNOWN.read_text().strip()}
    with LOG.open("ab") as log:
        subprocess.run(["/bin/sh", str(path)], stdout=log, stderr=log, env=environment, check=False)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(content)
    path.chmod(mode)
