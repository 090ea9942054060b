"""What the virtual Pis live through, each scene on a machine and a card of its own. Shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.e2e import lan as net
from tests.e2e.base import Base
from tests.e2e.lan import Lan
from tests.e2e.machine import Machine, grow
from tests.support import baseimage
from tests.support.fileserver import serve

PROBE = (Path(__file__).parent / "probe.py").read_text()
SCALE = {"amd64": 1.0, "armhf": 8.0}  # how patient to be
FIRST_BOOT, NEXT_BOOT = 600.0, 400.0  # seconds, on a busy machine
ROUTER_IS_BACK = 400.0  # dhclient asks again every 300 s
FINISHED = r"Cloud-init v\. \S+ finished at"

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
class Sight:
    """A guest at one moment: what the probe found, and what was seen from outside."""

    node: Node
    boot: int
    found: Mapping[str, Any] = field(repr=False)
    login: str
    console: str = field(repr=False)
    seconds: float


@dataclass
class Story:
    """What a scene saw, in order."""

    sights: list[Sight] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict, repr=False)
    console: str = field(default="", repr=False)

    @property
    def first(self) -> Sight:
        return self.sights[0]


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


# --- the cards --------------------------------------------------------------------------------


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


# --- looking ----------------------------------------------------------------------------------


def look(stage: Stage, machine: Machine, node: Node, *, boot: int, begun: float) -> Sight:
    """Wait until the boot has settled, then take in everything."""
    patience = stage.patience(FIRST_BOOT)
    machine.run(_SETTLED, seconds=patience)
    seconds = time.monotonic() - begun
    found = json.loads(machine.run(PROBE, seconds=patience, program="python3").splitlines()[-1])
    login = _login(stage, node)
    return Sight(node, boot, found, login, machine.console, seconds)


# systemd has no job left, and the node service has had its first turn.
_SETTLED = """
timeout 300 systemctl is-system-running --wait >/dev/null
for i in $(seq 60); do
  grep -q ^phase: /boot/piflash/status.txt && break
  sleep 1
done
"""


def _login(stage: Stage, node: Node) -> str:
    """What a person gets who logs in over ssh from the home network: names, or the refusal."""
    address = node.lan.partition("/")[0] or node.dhcp
    if not address:
        return "no address"
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    command = [
        *("ssh", "-i", str(stage.key), "-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR"),
        *(part for option in options for part in ("-o", option)),
        f"{node.user}@{address}",
        "id -un; hostname; sudo -n id -un; docker version --format '{{.Client.Version}}' | wc -l",
    ]
    try:
        done = subprocess.run(
            stage.lan.inside(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=stage.patience(90),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    return " ".join((done.stdout + done.stderr).split())


def first_boot(stage: Stage, machine: Machine, node: Node) -> Sight:
    """Power on a fresh card and wait for cloud-init's last word."""
    begun = time.monotonic()
    machine.power_on()
    machine.wait_for(FINISHED, seconds=stage.patience(FIRST_BOOT))
    return look(stage, machine, node, boot=1, begun=begun)


def reboot(stage: Stage, machine: Machine, node: Node, *, boot: int, watch: bool) -> Sight | None:
    """Reboot from inside; take everything in if asked to."""
    begun, position = time.monotonic(), len(machine.console)
    machine.tell("systemctl reboot")
    machine.wait_for(FINISHED, seconds=stage.patience(NEXT_BOOT), start=position)
    return look(stage, machine, node, boot=boot, begun=begun) if watch else None


def turn_off(stage: Stage, machine: Machine) -> None:
    """Shut down as a person would, with the command."""
    machine.tell("systemctl poweroff")
    machine.wait_off(stage.patience(120))


# --- the scenes -------------------------------------------------------------------------------

CRASH = """
pid() { systemctl show -p MainPID --value piflash.service; }
old=$(pid)
kill -KILL "$old"
for i in $(seq 60); do
  new=$(pid)
  [ "$new" != 0 ] && [ "$new" != "$old" ] && break
  sleep 1
done
sleep 3
echo "$old $new $(systemctl is-active piflash.service)"
"""


def static(stage: Stage) -> Story:
    """The manager with a static LAN address; its clock says 1970; ten boots."""
    node = stage.nodes["pi1"]
    machine = stage.machine("pi1", number=1, rtc="1970-01-01T00:00:10")
    with _kept(machine, story := Story()):
        story.sights.append(first_boot(stage, machine, node))
        story.notes["crash"] = machine.run(CRASH, seconds=stage.patience(120)).split()
        for boot in range(2, 11):
            sight = reboot(stage, machine, node, boot=boot, watch=boot in (2, 10))
            if sight:
                story.sights.append(sight)
        turn_off(stage, machine)
        story.notes["status.txt"] = read_boot(machine.card, "piflash/status.txt").decode()
        story.notes["fsck"] = fsck(machine.card)
    return story


def dhcp(stage: Stage) -> Story:
    """A worker with DHCP and a cloud-config of its owner's; its clock says 2019; two boots."""
    node = replace(stage.nodes["pi2"], dhcp=net.leased(2))
    machine = stage.machine("pi2", number=2, rtc="2019-06-01T12:00:00")
    with _kept(machine, story := Story()):
        story.sights.append(first_boot(stage, machine, node))
        story.notes["own"] = machine.run(_OWN_FILES)
        story.notes["helm"] = _login(stage, replace(node, user="helm"))
        sight = reboot(stage, machine, node, boot=2, watch=True)
        assert sight is not None
        story.sights.append(sight)
        story.notes["own again"] = machine.run(_OWN_FILES)
        turn_off(stage, machine)
        story.notes["fsck"] = fsck(machine.card)
    return story


_OWN_FILES = """
cat /etc/motd; stat -c '%a %U %G' /etc/motd /etc/secret.bin /usr/local/bin/hoist
od -An -tx1 /etc/secret.bin; cat /var/log/hoisted
"""


def wifi(stage: Stage) -> Story:
    """A node that has Wi-Fi only; the machine has none, so only its files can be judged."""
    node = stage.nodes["pi3"]
    machine = stage.machine("pi3", number=3)
    with _kept(machine, story := Story()):
        story.sights.append(first_boot(stage, machine, node))
        story.notes["wifi"] = machine.run(_WIFI)
        story.notes["asked"] = net.requests(stage.lan.log, mac=net.mac(3))
        turn_off(stage, machine)
    return story


# wpa_supplicant itself reads its file, with no driver behind it, and says what it understood.
_WIFI = """
stat -c '%a %U %G' /etc/wpa_supplicant/wpa_supplicant.conf /etc/network/interfaces.d/wlan0
cat /etc/wpa_supplicant/wpa_supplicant.conf
echo ---
ifquery wlan0
echo ---
timeout 5 wpa_supplicant -dd -D none -i lo -c /etc/wpa_supplicant/wpa_supplicant.conf
"""


def late_router(stage: Stage) -> Story:
    """After a power failure the Pi is up before the router: no DHCP during its first boot."""
    node = replace(stage.nodes["pi4"], dhcp=net.leased(4))
    machine = stage.machine("pi4", number=4, scene="late-router")
    stage.lan.switch(machine.cable, connected=False)
    with _kept(machine, story := Story()):
        begun = time.monotonic()
        machine.power_on()
        machine.wait_for(FINISHED, seconds=stage.patience(FIRST_BOOT))
        story.sights.append(look(stage, machine, node, boot=1, begun=begun))
        stage.lan.switch(machine.cable, connected=True)
        connected = time.monotonic()
        while _login(stage, node) != f"{node.user} {node.name} root 1":
            if time.monotonic() - connected > stage.patience(ROUTER_IS_BACK):
                break
            time.sleep(5)
        story.notes["seconds"] = time.monotonic() - connected
        story.sights.append(look(stage, machine, node, boot=1, begun=begun))
    return story


def power_cut(stage: Stage, *, number: int, marker: str, delay: float, cache: str) -> Story:
    """The power goes during the first boot, `delay` seconds after the console said the marker."""
    node = replace(stage.nodes["pi4"], dhcp=net.leased(number))
    machine = stage.machine("pi4", number=number, scene=f"cut-{number}", cache=cache)
    with _kept(machine, story := Story()):
        begun = time.monotonic()
        machine.power_on()
        grown = machine.wait_for("init_resize: p2 fills", seconds=stage.patience(120))
        machine.wait_for(marker, seconds=stage.patience(FIRST_BOOT), start=grown)
        time.sleep(delay)
        machine.pull_the_plug()
        story.notes["finished before"] = bool(re.search(FINISHED, machine.console))
        story.notes["cut"] = position = len(machine.console)
        story.notes["cut after"] = machine.last_words(1)
        machine.power_on()
        machine.wait_for(FINISHED, seconds=stage.patience(FIRST_BOOT), start=position)
        story.sights.append(look(stage, machine, node, boot=2, begun=begun))
        story.notes["starts"] = machine.starts
        turn_off(stage, machine)
        story.notes["fsck"] = fsck(machine.card)
    return story


def broken(
    stage: Stage, *, number: int, name: str, damage: Callable[[bytes], bytes | None]
) -> Story:
    """A seed that is damaged on purpose, after piflash wrote it."""
    node = replace(stage.nodes["pi4"], dhcp=net.leased(number))
    machine = stage.machine("pi4", number=number, scene=f"broken-{number}")
    write_boot(machine.card, name, damage(read_boot(machine.card, name)))
    with _kept(machine, story := Story()):
        begun = time.monotonic()
        machine.power_on()
        machine.wait_for("Reached target.*Login Prompts", seconds=stage.patience(FIRST_BOOT))
        story.sights.append(look(stage, machine, node, boot=1, begun=begun))
    return story


def fsck(card: Path) -> str:
    """What e2fsck and fsck.vfat find wrong on a card that was turned off; empty if nothing."""
    found = []
    with card.open("rb") as image:
        sector = image.read(512)
    for number, program in ((0, ("fsck.vfat", "-n")), (1, ("e2fsck", "-fn"))):
        entry = sector[446 + 16 * number : 462 + 16 * number]
        start, count = (int.from_bytes(entry[at : at + 4], "little") for at in (8, 12))
        part = card.with_name(f"part{number + 1}")
        skip = (f"skip={start * 512}", f"count={count * 512}", "iflag=skip_bytes,count_bytes")
        baseimage.run("dd", f"if={card}", f"of={part}", "bs=1M", "conv=sparse", *skip)
        os.truncate(part, count * 512)
        if number == 0:
            _forget_unmount(part)
        done = subprocess.run(
            [*program, str(part)], capture_output=True, text=True, timeout=300, check=False
        )
        part.unlink()
        if done.returncode:
            found.append(f"{program[0]}: {done.stdout}")
    return "\n".join(found)


def _forget_unmount(part: Path) -> None:
    """Clear the mark of a file system that was not unmounted; Linux keeps it after a power cut.

    Bit 0 of the state byte at 0x25 of a FAT16's boot sector (Linux, fs/fat/inode.c, fat_set_state).
    """
    with part.open("r+b") as volume:
        volume.seek(0x25)
        state = volume.read(1)[0]
        volume.seek(0x25)
        volume.write(bytes([state & ~1]))


class _kept:
    """Power off at the end of a scene, and keep its console; the card goes if all went well."""

    def __init__(self, machine: Machine, story: Story) -> None:
        self._machine, self._story = machine, story

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._machine.is_on:
            self._machine.pull_the_plug()
        self._story.console = self._machine.console
        self._machine.lan.unplug(self._machine.cable)
        self._machine.card.unlink()
