"""Debian trixie's cloud-init beside the system: its `schema` command is the oracle for user-data.

The package comes from the mirror that this machine's own apt is set to, through an apt state of
its own; nothing of the system's is touched. Its Python dependencies go into a venv of their own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

from tests.support import tools

SUITE = "trixie"
REQUIREMENTS = ("configobj", "jinja2", "jsonpatch", "jsonschema", "oauthlib", "PyYAML", "requests")


class UnavailableError(Exception):
    """The package cannot be had on this machine."""


@dataclass(frozen=True)
class CloudInit:
    """An unpacked cloud-init and a Python that can run it."""

    library: Path
    python: Path

    @property
    def schemas(self) -> Path:
        """The directory of its JSON schemas."""
        return self.library / "cloudinit" / "config" / "schemas"

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
            env={**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(self.library)},
        )


def cloud_init() -> CloudInit:
    """Give it, cached after the first time. Skips, or fails in CI, where it can't be had."""
    try:
        return _cached()
    except UnavailableError as error:
        tools.absent(f"no cloud-init of Debian {SUITE}: {error}")


@cache
def _cached() -> CloudInit:
    root = Path(platformdirs.user_cache_dir("piflash-tests"))
    root.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with (root / f"{SUITE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = _once(root / f"{SUITE}-cloud-init", _unpack)
        venv = _once(root / f"cloud-init-python-{version}", _make_venv)
    return CloudInit(unpacked / "usr/lib/python3/dist-packages", venv / "bin/python")


def _once(path: Path, make: object) -> Path:
    """Make a directory whole or not at all; a venv must be made where it stays."""
    done = path / ".complete"
    if not done.exists():
        shutil.rmtree(path, ignore_errors=True)
        make(path)  # type: ignore[operator]
        done.touch()
    return path


def _make_venv(path: Path) -> None:
    _run(sys.executable, "-m", "venv", str(path))
    pip = (str(path / "bin/python"), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", *REQUIREMENTS)


def _unpack(path: Path) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not installed")
    mirror = debian_mirror(Path("/etc/apt"), release=_codename())
    if mirror is None:
        raise UnavailableError("/etc/apt names no Debian mirror")
    with tempfile.TemporaryDirectory() as scratch:
        _download(Path(scratch), mirror)
        (package,) = Path(scratch).glob("cloud-init_*.deb")
        _run("dpkg-deb", "-x", str(package), str(path))


def _download(scratch: Path, mirror: Mirror) -> None:
    options = f"[signed-by={mirror.signed_by}] " if mirror.signed_by else ""
    (scratch / "sources.list").write_text(f"deb {options}{mirror.uri} {SUITE} main\n")
    (scratch / "status").touch()
    for name in ("state/lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    settings = {
        "Dir::State": scratch / "state",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in settings.items())]
    _run(*apt, "update")
    _run(*apt, "download", "cloud-init", cwd=scratch)


def _run(*argv: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UnavailableError(f"{Path(argv[0]).name} {argv[1]}: {' '.join(last)}")


# --- the machine's own mirror -------------------------------------------------------------------


@dataclass(frozen=True)
class Mirror:
    """A Debian archive as apt knows it. `signed_by`: the keyring's path, or empty."""

    uri: str
    signed_by: str


def debian_mirror(directory: Path, *, release: str) -> Mirror | None:
    """Give the archive from which this machine has `main` of its own release, if it is Debian."""
    lists = sorted([directory / "sources.list", *directory.glob("sources.list.d/*.list")])
    for mirror, suites, components in (
        *(
            entry
            for path in sorted(directory.glob("sources.list.d/*.sources"))
            for entry in _deb822(path)
        ),
        *(entry for path in lists if path.is_file() for entry in _one_line(path)),
    ):
        if release in suites and "main" in components and "security" not in mirror.uri:
            return mirror
    return None


def _deb822(path: Path) -> Iterator[tuple[Mirror, list[str], list[str]]]:
    for paragraph in re.split(r"\n\s*\n", path.read_text()):
        text = re.sub(r"(?m)^#.*\n?", "", paragraph)
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"(?m)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", text)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
            continue
        keyring = fields.get("signed-by", [""])[0]
        for uri in fields.get("uris", []):
            signed_by = keyring if keyring.startswith("/") else ""
            yield Mirror(uri, signed_by), fields.get("suites", []), fields.get("components", [])


def _one_line(path: Path) -> Iterator[tuple[Mirror, list[str], list[str]]]:
    for line in path.read_text().splitlines():
        found = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if found:
            options, uri, suite, components = found.groups()
            keyring = re.search(r"signed-by=(/\S+)", options or "")
            yield Mirror(uri, keyring[1] if keyring else ""), [suite], components.split()


def _codename() -> str:
    text = Path("/etc/os-release").read_text()
    if not re.search(r"(?m)^ID=debian$", text):
        return ""
    found = re.search(r"(?m)^VERSION_CODENAME=(\S+)", text)
    return found[1] if found else ""
