"""Packages of any Debian suite beside the system: downloaded and unpacked, never installed.

They come from the mirror that this machine's own apt is set to, through an apt state of its own;
nothing of the system's is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class UnavailableError(Exception):
    """What is wanted cannot be had on this machine."""


def unpack(package: str, into: Path, *, suite: str) -> None:
    """Unpack the suite's newest version of a package (of `main`) into a directory."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not installed")
    mirror = debian_mirror(Path("/etc/apt"), release=codename())
    if mirror is None:
        raise UnavailableError("/etc/apt names no Debian mirror")
    with tempfile.TemporaryDirectory() as scratch:
        _download(package, Path(scratch), mirror=mirror, suite=suite)
        (found,) = Path(scratch).glob(f"{package}_*.deb")
        run("dpkg-deb", "-x", str(found), str(into))


def _download(package: str, scratch: Path, *, mirror: Mirror, suite: str) -> None:
    options = f"[signed-by={mirror.signed_by}] " if mirror.signed_by else ""
    (scratch / "sources.list").write_text(f"deb {options}{mirror.uri} {suite} main\n")
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
    run(*apt, "update")
    run(*apt, "download", package, cwd=scratch)


def run(*argv: str, cwd: Path | None = None) -> None:
    """Run a program; UnavailableError with its last words if it fails."""
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


def codename() -> str:
    """Give the name of this machine's own release, empty if it is not Debian."""
    text = Path("/etc/os-release").read_text()
    if not re.search(r"(?m)^ID=debian$", text):
        return ""
    found = re.search(r"(?m)^VERSION_CODENAME=(\S+)", text)
    return found[1] if found else ""
