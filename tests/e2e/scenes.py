"""What the virtual Pis live through, each scene on a machine and a card of its own. Shell."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.e2e import lan as net
from tests.e2e.cards import Node, Stage, boot_partition, fsck, read_boot, write_boot
from tests.e2e.machine import Machine

PROBE = (Path(__file__).parent / "probe.py").read_text()
FIRST_BOOT, NEXT_BOOT = 600.0, 400.0  # seconds, on a busy machine
ROUTER_IS_BACK = 600.0  # dhclient asks again every 300 s of the guest's
FINISHED = r"Cloud-init v\. \S+ finished at"
AGAIN = "piflash: the first boot was cut off; it starts again"


@dataclass(frozen=True)
class Sight:
    """A guest at one moment: what the probe found, and what was seen from outside.

    `boot` counts the boots of the finished system: init_resize's own is none. `rtc`: what the
    machine's clock said when it was turned on.
    """

    node: Node
    boot: int
    found: Mapping[str, Any] = field(repr=False)
    login: str
    rtc: str
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


# --- looking ----------------------------------------------------------------------------------


def look(stage: Stage, machine: Machine, node: Node, *, begun: float) -> Sight:
    """Wait until the boot has settled, then take in everything."""
    patience = stage.patience(FIRST_BOOT)
    machine.run(_SETTLED.replace("{seconds}", str(SETTLES)), seconds=patience + SETTLES)
    seconds = time.monotonic() - begun
    found = json.loads(machine.run(PROBE, seconds=patience, program="python3").splitlines()[-1])
    login = _login(stage, node)
    if login.startswith(NO_ANSWER):
        login += machine.run(_WHY_NO_ANSWER, seconds=patience)
    boot = machine.starts - 1
    return Sight(node, boot, found, login, machine.rtc, machine.console, seconds)


# systemd has no job left, the node service has said in this boot where it stands, and what was
# secret in the user-data is gone. The seed founds its swarm after it has waited 90 s for the time,
# and is ready; its engine makes docker_gwbridge a moment later, with the swarm's ingress network.
# The others see no manager here. A damaged card has no service to wait for.
_SETTLED = r"""
timeout 300 systemctl is-system-running --wait >/dev/null
said=/boot/piflash/status.txt
started() { systemctl show -p ExecMainStartTimestamp --value piflash.service; }
for i in $(seq {seconds}); do
  case $(systemctl is-active piflash.service) in inactive|failed|unknown) break ;; esac
  goal='PROBE|BLOCKED'
  [ -e /var/lib/piflash/identity/permit.json ] && goal=READY
  since=$(sed -n 's/^since: *//p' $said)
  grep -Eq "^phase: *($goal)" $said && [ -e /var/lib/piflash/scrubbed ] &&
    [ "$(date -d "$since" +%s)" -ge "$(date -d "$(started)" +%s)" ] &&
    { [ "$goal" != READY ] || ip -4 -o addr show docker_gwbridge | grep -q inet; } && break
  sleep 1
done
"""
SETTLES = 400


NO_ANSWER = "no answer"
_WHY_NO_ANSWER = """
uptime; ps -eo pid,stat,wchan:20,etime,time,args --sort=-etime | grep -v '\\]$' | tail -40; ss -tn
systemctl list-jobs; journalctl -m -b -n 40 --no-pager
"""


def _login(stage: Stage, node: Node) -> str:
    """What a person gets who logs in over ssh from the home network: names, or the refusal."""
    address = node.lan.partition("/")[0] or node.dhcp
    if not address:
        return "no address"
    log = stage.directory / f"ssh-{address}.log"
    log.unlink(missing_ok=True)
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    command = [
        *("ssh", "-v", "-E", str(log), "-i", str(stage.key), "-o", "ConnectTimeout=30"),
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
        return f"{NO_ANSWER}; ssh said:\n{log.read_text()[-1500:]}\n"
    return " ".join((done.stdout + done.stderr).split())


def first_boot(stage: Stage, machine: Machine, node: Node) -> Sight:
    """Power on a fresh card and wait for cloud-init's last word."""
    begun = time.monotonic()
    machine.power_on()
    machine.wait_for(FINISHED, seconds=stage.patience(FIRST_BOOT))
    return look(stage, machine, node, begun=begun)


def reboot(stage: Stage, machine: Machine, node: Node, *, watch: bool = True) -> Sight | None:
    """Reboot from inside; take everything in if asked to."""
    begun, position = time.monotonic(), len(machine.console)
    machine.tell("systemctl reboot")
    machine.wait_for(FINISHED, seconds=stage.patience(NEXT_BOOT), start=position)
    return look(stage, machine, node, begun=begun) if watch else None


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


# A service that still runs may say something else before the power is off.
_LAST_SAID = "systemctl stop piflash.service; cat /boot/piflash/status.txt"


def static(stage: Stage) -> Story:
    """The manager with a static LAN address; its clock says 1970; ten boots."""
    node = stage.nodes["pi1"]
    machine = stage.machine("pi1", number=1, rtc="1970-01-01T00:00:10")
    with _kept(machine, story := Story()):
        story.sights.append(first_boot(stage, machine, node))
        story.notes["crash"] = machine.run(CRASH, seconds=stage.patience(120)).split()
        for boot in range(2, 11):
            sight = reboot(stage, machine, node, watch=boot in (2, 10))
            if sight:
                story.sights.append(sight)
        story.notes["last said"] = machine.run(_LAST_SAID)
        turn_off(stage, machine)
        story.notes["keys"] = [
            boot_partition(card).count(b"PRIVATE KEY")
            for card in (stage.directory / "pi1.img", machine.card)
        ]
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
        story.notes["container"] = machine.run(_CONTAINER, seconds=stage.patience(240)).split()
        sight = reboot(stage, machine, node)
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


# An image of the guest's own shell. The engine's default network and log driver, a limit of memory.
_CONTAINER = """
cd /
tar -chf - bin/dash bin/cat $(ldd /bin/dash /bin/cat | grep -o '/lib[^ ]*' | sort -u | cut -c2-) |
  docker import - own:1 >/dev/null
docker run --name own -m 32m own:1 /bin/dash -c \\
  'cat /sys/fs/cgroup/memory/memory.limit_in_bytes; echo aye' 2>/dev/null
docker logs own | tail -1
docker inspect own -f \\
  '{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config "max-size"}}'
docker rm own >/dev/null; docker rmi own:1 >/dev/null
"""


def wifi(stage: Stage) -> Story:
    """A node that has Wi-Fi only; the machine has none, so only its files can be judged."""
    node = stage.nodes["pi3"]
    machine = stage.machine("pi3", number=3)
    with _kept(machine, story := Story()):
        story.sights.append(first_boot(stage, machine, node))
        story.notes["wifi"] = machine.run(_WIFI)
        sight = reboot(stage, machine, node)
        assert sight is not None
        story.sights.append(sight)
        story.notes["asked"] = net.requests(stage.lan.log, mac=net.mac(3))
        turn_off(stage, machine)
    return story


# wpa_supplicant itself reads its file, with no driver behind it, and says what it understood.
_WIFI = """
stat -c '%a %U %G' /etc/wpa_supplicant/wpa_supplicant.conf /etc/network/interfaces.d/wlan0
cat /etc/wpa_supplicant/wpa_supplicant.conf
echo ---
cat /etc/network/interfaces.d/wlan0
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
        story.sights.append(look(stage, machine, node, begun=begun))
        stage.lan.switch(machine.cable, connected=True)
        connected = time.monotonic()
        while _login(stage, node) != f"{node.user} {node.name} root 1":
            if time.monotonic() - connected > stage.patience(ROUTER_IS_BACK):
                break
            time.sleep(5)
        story.notes["seconds"] = time.monotonic() - connected
        story.sights.append(look(stage, machine, node, begun=begun))
    return story


def power_cut(stage: Stage, *, number: int, marker: str, delay: float, cache: str) -> Story:
    """The power goes during the first boot, `delay` seconds after the console said the marker."""
    node = replace(stage.nodes["pi4"], dhcp=net.leased(10 + number))
    machine = stage.machine("pi4", number=10 + number, scene=f"cut-{number}", cache=cache)
    with _kept(machine, story := Story()):
        begun = time.monotonic()
        machine.power_on()
        grown = machine.wait_for("init_resize: p2 fills", seconds=stage.patience(120))
        machine.wait_for(marker, seconds=stage.patience(FIRST_BOOT), start=grown)
        time.sleep(delay)
        machine.pull_the_plug()
        story.notes["cut"] = position = len(machine.console)
        story.notes["cut after"] = machine.last_words(1)
        machine.power_on()
        machine.wait_for(FINISHED, seconds=stage.patience(FIRST_BOOT), start=position)
        story.sights.append(look(stage, machine, node, begun=begun))
        story.notes["again"] = machine.console.count(AGAIN)
        turn_off(stage, machine)
        story.notes["fsck"] = fsck(machine.card, cut=True)
    return story


def broken(
    stage: Stage, *, number: int, name: str, damage: Callable[[bytes], bytes | None]
) -> Story:
    """A seed that is damaged on purpose, after piflash wrote it."""
    node = replace(stage.nodes["pi4"], dhcp=net.leased(30 + number))
    machine = stage.machine("pi4", number=30 + number, scene=f"broken-{number}")
    write_boot(machine.card, name, damage(read_boot(machine.card, name)))
    with _kept(machine, story := Story()):
        begun = time.monotonic()
        machine.power_on()
        machine.wait_for("Reached target.*Login Prompts", seconds=stage.patience(FIRST_BOOT))
        story.sights.append(look(stage, machine, node, begun=begun))
    return story


class _kept:
    """Power off at the end of a scene and keep its console, but not its card: they are large."""

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
