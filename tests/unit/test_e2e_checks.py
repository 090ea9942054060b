"""Every check of the virtual machines can fail: a recorded guest, and one lie at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import checks
from tests.e2e.cards import Node
from tests.e2e.scenes import Sight

RECORDED = json.loads((Path(__file__).parent / "cases" / "e2e-guest.json").read_text())
CONSOLE = "rtc_cmos 00:03: setting system clock to 1970-01-01T00:00:11 UTC (11)\n"

Found = dict[str, Any]


def sight(found: Found | None = None, **other: Any) -> Sight:
    found = found or RECORDED["found"]
    node = Node(
        name="pi1",
        role="manager",
        cluster="198.18.42.11",
        instance=found["cloud_init"]["instance"],
        flashed=RECORDED["found"]["docker"]["started"] - 60,
        key=RECORDED["found"]["users"]["pirate"]["keys"].strip(),
        lan="192.168.77.11/24",
    )
    told = {"login": RECORDED["login"], "rtc": "1970-01-01T00:00:10", "console": CONSOLE, **other}
    return Sight(node, boot=1, found=found, seconds=60.0, **told)


def set_to(value: Any, *path: str | int) -> Callable[[Found], None]:
    def lie(found: Found) -> None:
        place: Any = found
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return lie


def state(name: str, *, entry: list[Any] | None) -> Callable[[Found], None]:
    """A file below /var/lib/piflash that is another, or gone."""

    def lie(found: Found) -> None:
        found["state"] = {p: e for p, e in found["state"].items() if not p.endswith("/" + name)}
        if entry:
            found["state"]["/var/lib/piflash/identity/" + name] = entry

    return lie


def added(value: Any, *path: str | int) -> Callable[[Found], None]:
    def lie(found: Found) -> None:
        place: Any = found
        for key in path:
            place = place[key]
        place.append(value)

    return lie


def replaced(old: str, new: str, *path: str) -> Callable[[Found], None]:
    def lie(found: Found) -> None:
        place: Any = found
        for key in path[:-1]:
            place = place[key]
        assert old in place[path[-1]]
        place[path[-1]] = place[path[-1]].replace(old, new)

    return lie


UNIT = ("units", "piflash")
CLOUD = "cloud_init"
OUTPUT = "/var/log/cloud-init-output.log"
ETH0 = ["eth0", "eth0", "192.168.77.11", 24]
ALIAS = ["eth0", "eth0:1", "198.18.42.11", 24]
KEY = ["0o600", 0, 0, "ab"]

LIES: list[tuple[str, Callable[[Found], None]]] = [
    ("probe_saw_everything", set_to({"failed": "OSError"}, "files")),
    ("probe_saw_everything", set_to({}, "boot")),
    ("hostname", set_to("black-pearl", "hostname")),
    ("hostname", set_to("black-pearl", "etc_hostname")),
    ("hostname", set_to([], "own_name")),
    ("user_and_key", set_to("ssh-ed25519 AAAA", "users", "pirate", "keys")),
    ("user_and_key", set_to("/bin/sh", "users", "pirate", "shell")),
    ("user_and_key", set_to(["users"], "users", "pirate", "groups")),
    ("user_and_key", set_to("$6$x", "users", "pirate", "password")),
    ("user_and_key", set_to("no", "users", "pirate", "sudo")),
    ("lan_address", set_to([ALIAS], "addresses")),
    ("lan_address", set_to([ETH0, ALIAS, ["eth0", "eth0:9", "10.0.0.1", 8]], "addresses")),
    ("lan_address", set_to("", "routes")),
    ("lan_address", replaced("nameserver", "#", "resolv")),
    ("cluster_address", set_to([ETH0], "addresses")),
    ("cluster_address", set_to([ETH0, [*ALIAS[:1], "eth0", *ALIAS[2:]]], "addresses")),
    ("time_zone", set_to("UTC", "timezone", 0)),
    ("time_zone", set_to("/usr/share/zoneinfo/UTC", "timezone", 1)),
    ("clock_floor", set_to(1.5e9, "docker", "started")),
    ("clock_floor", set_to(1.5e9, "units", "piflash_started")),
    ("daemon_json_before_docker", set_to(["1", "2"], "docker", "daemons")),
    ("daemon_json_before_docker", set_to(2e10, "docker", "daemon_json_written")),
    ("daemon_json_before_docker", set_to("{}", "docker", "daemon_json")),
    ("daemon_json_before_docker", set_to("journald", "docker", "info", "LoggingDriver")),
    ("daemon_json_before_docker", set_to([], "docker", "info", "SecurityOptions")),
    ("cgroup_v1", set_to("2", "docker", "info", "CgroupVersion")),
    ("cgroup_v1", added("WARNING: No swap limit support", "docker", "warnings")),
    ("firstboot_installed", set_to("not-found", *UNIT, "LoadState")),
    ("firstboot_installed", set_to("disabled", *UNIT, "UnitFileState")),
    ("firstboot_installed", set_to("failed", *UNIT, "ActiveState")),
    ("firstboot_installed", set_to(["0o644", 0, 0, "ab"], "pyz", 1)),
    ("firstboot_installed", set_to([["0o644", 0, 0, checks.NOTHING]] * 2, "pyz")),
    ("firstboot_did_not_crash", set_to("1", *UNIT, "NRestarts")),
    ("firstboot_did_not_crash", set_to("exit-code", *UNIT, "Result")),
    ("firstboot_did_not_crash", set_to("auto-restart", *UNIT, "SubState")),
    ("firstboot_did_not_crash", added("piflash: identity still on", "units", "piflash_told")),
    ("firstboot_did_not_crash", set_to([], "units", "piflash_told")),
    ("no_ordering_cycle", added("Found ordering cycle", "units", "cycles")),
    ("no_ordering_cycle", set_to(3, "units", "told")),
    ("no_failed_unit", added("ssh.service", "units", "failed")),
    ("no_failed_unit", added("docker.service", "units", "jobs")),
    ("no_failed_unit", set_to("degraded", "units", "state")),
    ("status_txt", set_to("!No such file or directory", "status_txt")),
    ("status_txt", replaced("pi1", "pi2", "status_txt")),
    ("status_txt", replaced("READY", "MEMBER", "status_txt")),
    ("status_txt", replaced("since:      20", "since:      19", "status_txt")),
    ("identity_moved", set_to(["0o644", 0, 0, "ab"], "boot", "/boot/piflash/identity/node.key")),
    ("identity_moved", state("node.key", entry=None)),
    ("identity_moved", state("node.key", entry=["0o644", 0, 0, "ab"])),
    ("identity_moved", state("node.key", entry=["0o600", 0, 0, checks.NOTHING])),
    ("identity_moved", state("permit.json", entry=None)),
    ("identity_moved", state("identity.new", entry=KEY)),
    ("cloud_init_done", set_to("status: error", CLOUD, "status")),
    ("cloud_init_done", set_to(1, CLOUD, "code")),
    ("cloud_init_done", added("modules failed", CLOUD, "result", "v1", "errors")),
    ("cloud_init_done", set_to("DataSourceNone", CLOUD, "result", "v1", "datasource")),
    ("cloud_init_complains_of_nothing", added("WARNING: so", CLOUD, "complaints", OUTPUT)),
    ("cloud_init_complains_of_nothing", added("cp: no", CLOUD, "complaints", "runcmd")),
    ("cloud_init_complains_of_nothing", set_to(0, CLOUD, "log_lines", OUTPUT)),
    ("network_config_is_bare", set_to(["network"], "network_config")),
    ("instance_id", set_to(["nocloud"], CLOUD, "instances")),
    ("instance_id", set_to(["piflash-begun"], CLOUD, "done")),
    ("card_is_filled", set_to(1e9, "disk", "root_bytes")),
    ("card_is_filled", set_to("ro,noatime", "disk", "root", 0, 3)),
    ("card_is_filled", set_to("ro,noatime", "disk", "boot", 0, 3)),
    ("no_delayed_allocation", set_to("rw,noatime", "disk", "root", 0, 3)),
    ("user_data_is_scrubbed", added("write_files", "user_data", "keys")),
    ("user_data_is_scrubbed", added("/var/lib/cloud/instances/a/obj.pkl", "user_data", "copies")),
    ("own_machine_id", set_to("0123456789abcdef0123456789abcdef", "machine_id")),
    ("own_machine_id", set_to("", "machine_id")),
    ("package_sources_mended", replaced("legacy.raspbian", "raspbian.raspberrypi", "sources")),
    ("no_secret_readable", set_to(["0o640", 0, 0, "ab"], "state", "/var/lib/piflash/node.json")),
]
# Those whose lie is not about what the probe found.
OTHERWISE = {
    "login_over_ssh": sight(login="Permission denied (publickey)."),
    "clock_floor": sight(console=CONSOLE.replace("1970", "2026")),
    "no_ordering_cycle": sight(console=CONSOLE + "[ SKIP ] Ordering cycle found, skipping"),
}


def test_the_recorded_guest_passes_every_check() -> None:
    assert checks.failing(sight(), checks.EVERY_BOOT) == {}


@pytest.mark.parametrize(("name", "lie"), LIES)
def test_a_lie_is_noticed(name: str, lie: Callable[[Found], None]) -> None:
    found = copy.deepcopy(RECORDED["found"])
    lie(found)
    assert name in checks.failing(sight(found), checks.EVERY_BOOT)


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_lie_about_what_was_seen_from_outside_is_noticed(name: str) -> None:
    assert name in checks.failing(OTHERWISE[name], checks.EVERY_BOOT)


def test_every_check_has_its_lie() -> None:
    assert {name for name, _ in LIES} | set(OTHERWISE) == set(checks.EVERY_BOOT)


CHANGES: list[tuple[str, Callable[[Found], None]]] = [
    ("users", set_to("/bin/sh", "users", "pirate", "shell")),
    ("addresses", set_to([ETH0], "addresses")),
    ("machine_id", set_to("f" * 32, "machine_id")),
    ("packages", set_to("0", "packages")),
    ("files", set_to(["0o644", 0, 0, "ab"], "files", "/etc/new")),
    ("state", state("node.key", entry=KEY)),
    ("boot", set_to(["0o755", 0, 0, "ab"], "boot", "/boot/user-data")),
    ("cloud_init.modules_run", added("config_new", CLOUD, "modules_run")),
    ("status_txt", replaced("pi1", "pi2", "status_txt")),
]


def test_nothing_changed_where_nothing_did() -> None:
    assert checks.changes(sight(), sight()) == {}


@pytest.mark.parametrize(("what", "lie"), CHANGES)
def test_a_change_from_boot_to_boot_is_noticed(what: str, lie: Callable[[Found], None]) -> None:
    found = copy.deepcopy(RECORDED["found"])
    lie(found)
    assert what in checks.changes(sight(), sight(found))
