"""cloud-init beside the system, by version: Debian's own packages, and a source tree of the user's.

Kept in the user's cache directory. Its Python dependencies go into a venv of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs
import pytest

from tests.support import debian, tools

# A source tree that is tried beside Debian's versions, and the Python that runs it (by default the
# one that runs the tests): cloud-init 18.3 wants Python 3.7 and a PyYAML of its time.
TREE, TREE_PYTHON = "PIFLASH_TEST_CLOUD_INIT", "PIFLASH_TEST_CLOUD_INIT_PYTHON"

REQUIREMENTS = (
    "configobj",
    "jinja2",
    "jsonpatch",
    "jsonschema",
    "oauthlib",
    "PyYAML",
    "requests",
    "six",  # for trees older than 20.1
)


@dataclass(frozen=True)
class CloudInit:
    """An unpacked cloud-init and a Python that can run it."""

    library: Path
    python: Path

    @property
    def schemas(self) -> Path:
        """The directory of its JSON schemas (not in old versions)."""
        return self.library / "cloudinit" / "config" / "schemas"

    @property
    def version(self) -> str:
        """The version that its sources say, as in 18.3."""
        found = re.search(r'__VERSION__ = "([^"]+)"', self._version_file.read_text())
        assert found
        return found[1]

    @property
    def _version_file(self) -> Path:
        return self.library / "cloudinit" / "version.py"

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the `cloud-init` command."""
        return self.execute("-m", "cloudinit.cmd.main", *argv, stdin=stdin)

    def execute(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run its Python, with cloudinit on the path."""
        return subprocess.run(
            [str(self.python), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(self.library),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )


def cloud_init(suite: str) -> CloudInit:
    """Give a Debian suite's, cached after the first time. Skips, or fails in CI, without."""
    try:
        return CloudInit(_package(suite) / "usr/lib/python3/dist-packages", _python())
    except debian.UnavailableError as error:
        tools.absent(f"no cloud-init of Debian {suite}: {error}")


def trees() -> tuple[str, ...]:
    """Give the source tree that the user names: one or none."""
    named = os.environ.get(TREE)
    return (named,) if named else ()


def from_tree(directory: str) -> CloudInit:
    """Give the cloud-init of a source tree. It is the user's: what is wrong with it fails."""
    library = Path(directory).resolve()
    if not (library / "cloudinit" / "version.py").is_file():
        pytest.fail(f"{TREE}={directory}: holds no cloudinit/version.py", pytrace=False)
    named = os.environ.get(TREE_PYTHON)
    if named and shutil.which(named) is None:
        pytest.fail(f"{TREE_PYTHON}={named}: is no program", pytrace=False)
    return CloudInit(library, Path(named) if named else _python())


@cache
def _package(suite: str) -> Path:
    return _once(f"{suite}-cloud-init", lambda path: debian.unpack("cloud-init", path, suite=suite))


@cache
def _python() -> Path:
    wanted = hashlib.sha256(" ".join(REQUIREMENTS).encode()).hexdigest()[:8]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _once(f"cloud-init-python-{version}-{wanted}", _make_venv) / "bin/python"


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """Make a directory whole or not at all; a venv must be made where it stays."""
    path = Path(platformdirs.user_cache_dir("piflash-tests")) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path / ".complete"
    with path.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            make(path)
            done.touch()
    return path


def _make_venv(path: Path) -> None:
    debian.run(sys.executable, "-m", "venv", str(path))
    pip = (str(path / "bin/python"), "-m", "pip", "--disable-pip-version-check")
    debian.run(*pip, "install", "--quiet", *REQUIREMENTS)
