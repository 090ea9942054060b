"""A cluster directory and its cards, written by the real `piflash` command. Shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import baseimage
from tests.support.baseimage import Geometry
from tests.support.card import BOOT_OFFSET
from tests.support.cluster import SSH_KEY

NAME = "lab"
SUBNET = "198.18.42"
# Small, for the lab writes many.
GEOMETRY = Geometry(boot_mib=20, root_mib=8)
# It is the hash of nothing; a secret of the user-data as far as the scrubbing is concerned.
PASSWORD_HASH = "$6$piflashlab$" + "Qz7/" * 21 + "Qz"

CLUSTER = """\
name: {name}
image: {{path: {image}}}
timezone: Europe/Berlin
user:
  ssh_authorized_keys: ["{key}"]
  password_hash: "{password}"
network: {{cluster_subnet: {subnet}.0/24}}
nodes:
"""


@dataclass(frozen=True)
class Member:
    """A node as the cluster file describes it."""

    name: str
    role: str
    address: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """A directory with a cluster file; the first member is the seed."""

    directory: Path
    members: tuple[Member, ...]

    @property
    def seed(self) -> Member:
        return self.members[0]

    def card(self, name: str) -> Path:
        """The card's image, as it was written."""
        return self.directory / f"{name}.img"

    def boot(self, name: str) -> Path:
        """The files of its boot partition, as they were written."""
        return self.directory / "boot" / name

    def flash(self, *names: str, environment: Mapping[str, str] | None = None) -> None:
        """Write cards, all if none are named, with the real command; take their files out.

        `environment`: of the command, such as that of a clock.
        """
        names = names or tuple(member.name for member in self.members)
        for name in names:
            self.card(name).unlink(missing_ok=True)
        targets = [part for name in names for part in ("--node", name, f"{name}.img")]
        done = subprocess.run(
            [sys.executable, "-m", "flasher", "--yes", *targets],
            cwd=self.directory,
            env={
                **(environment or os.environ),
                "PIFLASH_CACHE": str(self.directory / "cache"),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"piflash: exit {done.returncode}\n{done.stderr}")
        for name in names:
            self._take_out(name)

    def _take_out(self, name: str) -> None:
        target = self.boot(name)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        image = f"{self.card(name)}@@{BOOT_OFFSET}"
        baseimage.run("mcopy", "-s", "-n", "-Q", "-i", image, "::*", target)


def base_image(directory: Path) -> Path:
    """Build the image that the cards are made from, zipped as it is published."""
    raw = baseimage.build(directory / "base.img", geometry=GEOMETRY)
    archive = baseimage.zip_image(raw, directory / "base.img.zip", level=1)
    raw.unlink()
    return archive


def describe(directory: Path, image: Path, *, managers: int, workers: int) -> Cluster:
    """Write a cluster file: pi1 is the seed, managers come first, every node has labels."""
    directory.mkdir(parents=True)
    members = tuple(
        Member(
            name=f"pi{number}",
            role="manager" if number <= managers else "worker",
            address=f"{SUBNET}.{10 + number}",
            labels={"shelf": f"s{number % 3}", "edge": "true" if number == 2 else "false"},
        )
        for number in range(1, managers + workers + 1)
    )
    text = CLUSTER.format(
        name=NAME, image=image, key=SSH_KEY, password=PASSWORD_HASH, subnet=SUBNET
    )
    for one in members:
        labels = ", ".join(f'{key}: "{value}"' for key, value in one.labels.items())
        text += f"  {one.name}: {{role: {one.role}, labels: {{{labels}}}}}\n"
    (directory / "cluster.yaml").write_text(text)
    return Cluster(directory, members)
