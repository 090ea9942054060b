"""The cards of the virtual Pis: the real `piflash` writes them, mtools damages them. Shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.e2e import lan as net
from tests.e2e.base import Base
from tests.e2e.lan import Lan
from tests.e2e.machine import Machine, grow
from tests.support import baseimage
from tests.support.fileserver import serve

SCALE = {"amd64": 1.0, "armhf": 8.0}  # how patient to be

CLUSTER = """\
name: home
image: {{url: {url}, profile: hypriotos}}
timezone: Europe/Berlin
user:
  name: pirate
  ssh_authorized_keys: ["{key}"]
network:
  cluster_subnet: 198.18.42.0/24
  lan: {{gateway: {router}}}
  wifi: {{ssid: "Käpt'n \\"Blaubär\\"", psk: "correct horse battery", country: DE}}
nodes:
  pi1: {{role: manager, lan: {subnet}.11/24}}
  pi2: {{role: worker, cloud_config: own.yaml}}
  pi3: {{role: worker, wifi: true, ethernet: false}}
  pi4: {{role: worker}}
"""

OWN = """\
#cloud-config
locale: en_US.UTF-8
users:
  - name: helm
    gecos: the second one
    groups: [users]
    shell: /bin/bash
    lock_passwd: true
    ssh_authorized_keys: ["{key}"]
write_files:
  - path: /etc/motd
    permissions: '0644'
    content: |
      Ahoi — welcome aboard
  - path: /etc/secret.bin
    permissions: '0600'
    encoding: b64
    content: AAECA//+/Q==
  - path: /usr/local/bin/hoist
    permissions: '0755'
    content: |
      #!/bin/sh
      echo "$1" >>/var/log/hoisted
runcmd:
  - [hoist, first]
  - hoist second
  - [sh, -c, 'hoist "third after $(systemctl is-enabled piflash.service)"']
  - 'hoist "fourth: $(cat /etc/hostname) $(id -un helm)"'
"""


@dataclass(frozen=True)
class Node:
    """What a card is meant to become: the cluster file in the words of the checks."""

    name: str
    role: str
    cluster: str
    instance: str
    flashed: float
    key: str
    lan: str = ""
    dhcp: str = ""
    user: str = "pirate"
    seed: str = "pi1"


@dataclass(frozen=True)
class Stage:
    """What the scenes share: the network, and one written card per node, never booted itself."""

    lan: Lan
    directory: Path
    key: Path
    nodes: Mapping[str, Node]
    arch: str = "amd64"
    machines: list[Machine] = field(default_factory=list)

    def machine(self, node: str, *, number: int, scene: str = "", **how: Any) -> Machine:
        """A machine with a copy of the node's card in it."""
        place = self.directory / (scene or node)
        place.mkdir()
        card = place / "card.img"
        baseimage.run("cp", "--sparse=always", self.directory / f"{node}.img", card)
        grow(card)
        machine = Machine(node, card, self.lan, self.lan.plug(number), arch=self.arch, **how)
        self.machines.append(machine)
        return machine

    def patience(self, seconds: float) -> float:
        return seconds * SCALE[self.arch]

    def piflash(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the real command in the cluster's directory."""
        return subprocess.run(
            [sys.executable, "-m", "flasher", *argv],
            cwd=self.directory,
            env={**os.environ, "PIFLASH_CACHE": str(self.directory / "cache")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def write_cards(directory: Path, base: Base, lan: Lan) -> Stage:
    """Write the cards with the `piflash` command, from the base image over HTTP."""
    key = directory / "id_ed25519"
    baseimage.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", key)
    public = key.with_suffix(".pub").read_text().strip()
    (directory / "own.yaml").write_text(OWN.format(key=public))
    stage = Stage(lan, directory, key, {}, base.arch)
    names = ("pi1", "pi2", "pi3", "pi4")
    with serve(base.directory) as server:
        text = CLUSTER.format(
            url=server.url(base.archive.name), key=public, router=net.ROUTER, subnet=net.SUBNET
        )
        (directory / "cluster.yaml").write_text(text)
        flashed = int(time.time())
        targets = [part for name in names for part in ("--node", name, f"{name}.img")]
        done = stage.piflash("--yes", *targets)
        asked = [request.name for request in server.requests]
    if done.returncode:
        raise RuntimeError(f"piflash: exit {done.returncode}\n{done.stderr}")
    assert f"{base.archive.name}.sha256" in asked, f"the checksum was not asked for: {asked}"
    nodes = {
        name: Node(
            name=name,
            role="manager" if name == "pi1" else "worker",
            cluster=f"198.18.42.{11 + number}",
            instance=_instance(directory / f"{name}.img"),
            flashed=flashed,
            key=public,
            lan=f"{net.SUBNET}.11/24" if name == "pi1" else "",
        )
        for number, name in enumerate(names)
    }
    shutil.rmtree(directory / "cache")
    return replace(stage, nodes=nodes)


def _instance(card: Path) -> str:
    text = read_boot(card, "meta-data").decode()
    found = re.search(r'(?m)^instance-id: "?([^"\n]+)', text)
    if not found:
        raise RuntimeError(f"{card.name}: no instance-id in its meta-data: {text!r}")
    return found[1]


def read_boot(card: Path, name: str) -> bytes:
    """Read a file of a card's boot partition with mtools."""
    at = baseimage.BOOT_START * baseimage.SECTOR
    return baseimage.run("mtype", "-i", f"{card}@@{at}", f"::{name}")


def write_boot(card: Path, name: str, content: bytes | None) -> None:
    """Replace a file of a card's boot partition with mtools, or delete it."""
    at = f"{card}@@{baseimage.BOOT_START * baseimage.SECTOR}"
    baseimage.run("mdel", "-i", at, f"::{name}")
    if content is not None:
        local = card.parent / "replacement"
        local.write_bytes(content)
        baseimage.run("mcopy", "-i", at, local, f"::{name}")


def boot_partition(card: Path) -> bytes:
    """Every byte of a card's boot partition, of files and of what once was one."""
    start, size = _partition(card, 0)
    with card.open("rb") as image:
        image.seek(start)
        return image.read(size)


# After a power cut: clusters that belong to no file, and what fsck.vfat says of any volume.
_NO_DAMAGE = re.compile(
    r"fsck\.fat .*|.*: \d+ files, .* clusters|Reclaimed \d+ unused clusters? .*"
    r"|Leaving file ?system unchanged\.|"
)


def fsck(card: Path, *, cut: bool = False) -> str:
    """What e2fsck and fsck.vfat find wrong on a card that was turned off; empty if nothing.

    After a power cut (`cut`) FAT may have lost clusters, and the mark of a missing unmount.
    """
    found = []
    for number, program in ((0, ("fsck.vfat", "-n")), (1, ("e2fsck", "-fn"))):
        start, size = _partition(card, number)
        part = card.with_name(f"part{number + 1}")
        skip = (f"skip={start}", f"count={size}", "iflag=skip_bytes,count_bytes")
        baseimage.run("dd", f"if={card}", f"of={part}", "bs=1M", "conv=sparse", *skip)
        os.truncate(part, size)
        if cut and number == 0:
            _forget_unmount(part)
        done = subprocess.run(
            [*program, str(part)], capture_output=True, text=True, timeout=300, check=False
        )
        part.unlink()
        lines = done.stdout.splitlines() if done.returncode else []
        harmless = cut and number == 0 and all(map(_NO_DAMAGE.fullmatch, lines))
        if lines and not harmless:
            found.append(f"{program[0]}: {done.stdout}")
    return "\n".join(found)


def _partition(card: Path, number: int) -> tuple[int, int]:
    """Offset and size in bytes, of the MBR's entry."""
    with card.open("rb") as image:
        entry = image.read(512)[446 + 16 * number : 462 + 16 * number]
    start, count = (int.from_bytes(entry[at : at + 4], "little") for at in (8, 12))
    return start * baseimage.SECTOR, count * baseimage.SECTOR


def _forget_unmount(part: Path) -> None:
    """Clear the mark of a file system that was not unmounted; Linux keeps it after a power cut.

    Bit 0 of the state byte at 0x25 of a FAT16's boot sector (Linux, fs/fat/inode.c, fat_set_state).
    """
    with part.open("r+b") as volume:
        volume.seek(0x25)
        state = volume.read(1)[0]
        volume.seek(0x25)
        volume.write(bytes([state & ~1]))
