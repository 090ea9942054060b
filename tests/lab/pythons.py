"""The Python that the nodes' service runs on. Shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support import baseimage

VERSIONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def oldest() -> str:
    """The Python that comes nearest to HypriotOS's 3.7: that one, or the oldest there is."""
    for version in VERSIONS:
        found = _python(version)
        if found:
            return found
    raise RuntimeError("no Python 3 that runs the service")


def _python(version: str) -> str:
    candidates = [shutil.which(f"python{version}") or ""]
    root = os.environ.get("PYENV_ROOT") or _pyenv_root()
    if root:
        installed = Path(root).glob(f"versions/{version}.*/bin/python{version}")
        candidates = [*(str(path) for path in sorted(installed, reverse=True)), *candidates]
    for path in candidates:
        # A shim of pyenv is there for every version, and fails for those that are not active.
        works = path and subprocess.run([path, "-c", ""], capture_output=True, check=False)
        if works and works.returncode == 0 and "/shims/" not in path:
            return os.path.realpath(path)
    return ""


def _pyenv_root() -> str:
    pyenv = shutil.which("pyenv")
    return baseimage.run(pyenv, "root").decode().strip() if pyenv else ""
