"""What must be right in a booted guest: each check takes a sight of it and asserts one thing."""

from __future__ import annotations

import calendar
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.e2e import lan as net
from tests.e2e.base import SAME_MACHINE_ID
from tests.e2e.scenes import Sight

Check = Callable[[Sight], None]
DAY = 86400
ALONE = (("PROBE", "no-leader"), ("BLOCKED", "no-leader"))
NOTHING = hashlib.sha256(b"").hexdigest()  # the content of an empty file


def probe_saw_everything(sight: Sight) -> None:
    """What was not seen must not pass for what did not change."""
    found = sight.found.items()
    assert {k: v for k, v in found if isinstance(v, dict) and set(v) == {"failed"}} == {}
    assert len(sight.found["files"]) > 50
    assert len(sight.found["boot"]) > 10


def hostname(sight: Sight) -> None:
    found = sight.found
    assert found["hostname"] == found["etc_hostname"] == sight.node.name
    assert found["own_name"], "the node's own name does not resolve"


def user_and_key(sight: Sight) -> None:
    user = sight.found["users"][sight.node.user]
    assert user["keys"].strip() == sight.node.key
    assert user["shell"] == "/bin/bash"
    assert {"docker", "users"} <= set(user["groups"])
    assert user["password"] in ("!", "*", "!*"), "a password that was never asked for"
    assert "NOPASSWD: ALL" in user["sudo"]


def login_over_ssh(sight: Sight) -> None:
    assert sight.login == f"{sight.node.user} {sight.node.name} root 1"


def lan_address(sight: Sight) -> None:
    expected = sight.node.lan or f"{sight.node.dhcp}/24"
    found = sorted(f"{ip}/{n}" for dev, _, ip, n in sight.found["addresses"] if dev == "eth0")
    assert found == sorted([expected, f"{sight.node.cluster}/24"])
    (route,) = sight.found["routes"].splitlines()
    assert route.startswith(f"default via {net.ROUTER} dev eth0")
    assert f"nameserver {net.ROUTER}" in sight.found["resolv"]


def cluster_address(sight: Sight) -> None:
    assert ["eth0", "eth0:1", sight.node.cluster, 24] in sight.found["addresses"]


def time_zone(sight: Sight) -> None:
    name, localtime, offset = sight.found["timezone"]
    assert (name, offset) == ("Europe/Berlin", "+0200")
    assert localtime.endswith("/Europe/Berlin")


def clock_floor(sight: Sight) -> None:
    """Docker and the node service never saw a time before the card was written."""
    woken = re.findall(r"setting system clock to (\S+) UTC", sight.console)
    assert woken[-1][:10] == sight.rtc[:10], "the machine's clock was not what it should be"
    assert sight.node.flashed <= sight.found["now"] < sight.node.flashed + DAY
    assert sight.found["docker"]["started"] >= sight.node.flashed
    assert sight.found["units"]["piflash_started"] >= sight.node.flashed


def daemon_json_before_docker(sight: Sight) -> None:
    docker = sight.found["docker"]
    assert len(docker["daemons"]) == 1, "not one dockerd in this boot"
    # systemd tells whole seconds.
    assert int(docker["daemon_json_written"]) <= docker["started"]
    assert '"max-size": "1m"' in docker["daemon_json"]
    assert docker["info"]["LoggingDriver"] == "json-file"
    assert (
        "name=seccomp,profile=/etc/docker/seccomp-allow-all.json"
        in (docker["info"]["SecurityOptions"])
    )


def cgroup_v1(sight: Sight) -> None:
    """As HypriotOS has it; a guest with cgroup v2 would prove nothing about limits there."""
    assert sight.found["docker"]["info"]["CgroupVersion"] == "1"
    assert not [w for w in sight.found["docker"]["warnings"] if "limit" in w]


def firstboot_installed(sight: Sight) -> None:
    unit = sight.found["units"]["piflash"]
    assert unit["LoadState"] == "loaded"
    assert (unit["UnitFileState"], unit["ActiveState"]) == ("enabled", "active")
    on_card, installed = sight.found["pyz"]
    assert installed[:3] == ["0o755", 0, 0] or installed[:3] == ["0o644", 0, 0]
    assert on_card[3] == installed[3] != NOTHING


def firstboot_did_not_crash(sight: Sight) -> None:
    unit = sight.found["units"]["piflash"]
    assert (unit["NRestarts"], unit["Result"], unit["SubState"]) == ("0", "success", "running")
    told = sight.found["units"]["piflash_told"]
    assert [
        line for line in told if re.search(r"Traceback|identity still|\((fault|card)\)", line)
    ] == []
    assert told, "the service never said anything"


def no_ordering_cycle(sight: Sight) -> None:
    assert sight.found["units"]["told"] > 50, "too few lines of systemd to judge by"
    assert sight.found["units"]["cycles"] == []
    assert not re.search(r"(?i)ordering cycle", sight.console)


def no_failed_unit(sight: Sight) -> None:
    units = sight.found["units"]
    assert (units["failed"], units["jobs"], units["state"]) == ([], [], "running")


def status_txt(sight: Sight) -> None:
    lines = dict(line.split(":", 1) for line in sight.found["status_txt"].splitlines())
    said = {key: value.strip() for key, value in lines.items()}
    since = calendar.timegm(time.strptime(said["since"], "%Y-%m-%d %H:%M:%S UTC"))
    assert since >= sight.found["units"]["piflash_started"], "status.txt is of another boot"
    assert (said["node"], said["cluster"]) == (sight.node.name, "home")
    assert (said["role"], said["generation"]) == (sight.node.role, "1")
    if sight.node.name == sight.node.seed:
        assert said["phase"] == "READY"
    elif not sight.node.lan and not sight.node.dhcp:
        assert (said["phase"], said["reason"]) == ("BLOCKED", "stuck")
        assert 'Cannot find device "wlan0"' in said["why"]
    else:
        # No machine sees another one here: the seed of a worker does not answer.
        assert (said["phase"], said.get("reason", "no-leader")) in ALONE


def identity_moved(sight: Sight) -> None:
    assert not [path for path in sight.found["boot"] if "/identity" in path]
    state = {Path(path).name: entry for path, entry in sight.found["state"].items()}
    expected = {"identity", "node.json", "node.key", "node.pem", "ca.pem"}
    if sight.node.name == sight.node.seed:
        expected |= {"permit.json", "charter.json", "memory"}
    assert expected <= set(state) <= expected | {"memory", "memory.old", "scrubbed", "tick"}
    files = [state[name] for name in expected - {"identity"}]
    assert all(entry[:3] == ["0o600", 0, 0] and entry[3] != NOTHING for entry in files)
    assert state["identity"][:3] == ["0o700", 0, 0]


def cloud_init_done(sight: Sight) -> None:
    told = sight.found["cloud_init"]
    assert (told["status"], told["code"]) == ("status: done", 0)
    assert told["result"]["v1"]["errors"] == []
    # NoCloudNet: cloud-init-local was there before /boot, and the network stage found the seed
    # (decision 0004). Nothing else may be another for it.
    source = r"DataSourceNoCloud(Net)? \[seed=/var/lib/cloud/seed/nocloud-net\].*"
    assert re.fullmatch(source, told["result"]["v1"]["datasource"])


def cloud_init_complains_of_nothing(sight: Sight) -> None:
    assert [
        line for lines in sight.found["cloud_init"]["complaints"].values() for line in lines
    ] == []
    assert min(sight.found["cloud_init"]["log_lines"].values()) > 10, "a log is missing"


def network_config_is_bare(sight: Sight) -> None:
    """18.3 crashes on a `network:` wrapper; the guest's 20.4 takes it, so only a look helps."""
    assert sight.found["network_config"] == ["config", "version"]


def instance_id(sight: Sight) -> None:
    told = sight.found["cloud_init"]
    assert told["instance"] == sight.node.instance
    assert told["instances"] == [sight.node.instance]
    assert told["done"] == ["piflash-begun", "piflash-done", "piflash-ran"]


def card_is_filled(sight: Sight) -> None:
    assert sight.found["disk"]["root_bytes"] > 3.5 * 2**30
    (boot,) = sight.found["disk"]["boot"]
    assert boot[2] == "vfat"
    (root,) = sight.found["disk"]["root"]
    assert "rw" in boot[3].split(",")
    assert "rw" in root[3].split(",")


def no_delayed_allocation(sight: Sight) -> None:
    """Decision 0008: it has to last through the remount that fstab asks for."""
    (root,) = sight.found["disk"]["root"]
    assert root[2] == "ext4"
    assert "nodelalloc" in root[3].split(",")


def user_data_is_scrubbed(sight: Sight) -> None:
    """What every boot needs is left of it, on FAT and in cloud-init's copies."""
    assert sight.found["user_data"]["keys"] == ["bootcmd", "hostname", "manage_etc_hosts"]
    assert sight.found["user_data"]["copies"] == []


def own_machine_id(sight: Sight) -> None:
    assert re.fullmatch("[0-9a-f]{32}", sight.found["machine_id"])
    assert sight.found["machine_id"] != SAME_MACHINE_ID.strip()


def package_sources_mended(sight: Sight) -> None:
    assert sight.found["sources"] == "deb http://legacy.raspbian.org/raspbian/ buster main\n"


def no_secret_readable(sight: Sight) -> None:
    """What the service keeps is root's alone."""
    loose = [
        path
        for path, (mode, *_) in sight.found["state"].items()
        if int(mode, 8) & 0o077 and not path.endswith(("/piflash", "/tick"))
    ]
    assert loose == []


EVERY_BOOT: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        probe_saw_everything,
        hostname,
        user_and_key,
        login_over_ssh,
        lan_address,
        cluster_address,
        time_zone,
        clock_floor,
        daemon_json_before_docker,
        cgroup_v1,
        firstboot_installed,
        firstboot_did_not_crash,
        no_ordering_cycle,
        no_failed_unit,
        status_txt,
        identity_moved,
        cloud_init_done,
        cloud_init_complains_of_nothing,
        network_config_is_bare,
        instance_id,
        card_is_filled,
        no_delayed_allocation,
        user_data_is_scrubbed,
        own_machine_id,
        package_sources_mended,
        no_secret_readable,
    )
}
WITHOUT_NETWORK: Mapping[str, Check] = {
    name: check
    for name, check in EVERY_BOOT.items()
    if check not in (login_over_ssh, lan_address, cluster_address)
}


def failing(sight: Sight, checks: Mapping[str, Check]) -> dict[str, str]:
    """Run them all; give the ones that fail, with their reason's first line."""
    reasons = {}
    for name, check in checks.items():
        try:
            check(sight)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            reasons[name] = (str(error).splitlines() or [type(error).__name__])[0]
    return reasons


# --- from one boot to the next ------------------------------------------------------------------

_GOES_ON = re.compile(r"(?m)^(since|phase|why|reason|remedy):.*\n")
_MAY_CHANGE = (
    "/boot/fake-hwclock.data",
    "/boot/piflash/status.txt",
    "/var/lib/piflash/memory",
    "/var/lib/piflash/memory.old",
    "/var/lib/piflash/tick",
)


def changes(before: Sight, after: Sight) -> dict[str, object]:
    """What is another than it was: nothing should be."""
    found: dict[str, object] = {}
    for key in ("users", "addresses", "routes", "machine_id", "packages", "sources", "hosts"):
        if before.found[key] != after.found[key]:
            found[key] = (before.found[key], after.found[key])
    for key in ("files", "state", "boot"):
        old, new = before.found[key], after.found[key]
        paths = {p for p in {*old, *new} if old.get(p) != new.get(p)} - {*_MAY_CHANGE}
        if paths:
            found[key] = sorted(paths)
    for key in ("instance", "instances", "modules_run", "done"):
        if before.found["cloud_init"][key] != after.found["cloud_init"][key]:
            found[f"cloud_init.{key}"] = after.found["cloud_init"][key]
    texts = [_GOES_ON.sub("", sight.found["status_txt"]) for sight in (before, after)]
    if texts[0] != texts[1]:
        found["status_txt"] = texts
    return found
