"""The lab itself: nodes, power, network, clocks; and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab import byhand, cards, clocks, engine, judge, secrets
from tests.lab.capture import Wire
from tests.lab.cards import Cluster
from tests.lab.clocks import YEAR
from tests.lab.conftest import MakeLab
from tests.lab.engine import SilentError
from tests.lab.lab import Lab, NotFormedError
from tests.lab.node import Node
from tests.lab.switch import Switch, child

PATIENCE = 180.0  # on a machine that has nothing else to do it is a second


def machine_clock() -> float:
    """The machine's time of day less its monotonic clock: it changes when somebody sets it."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def reach(node: Node, address: str) -> bool:
    """Say whether a TCP connection to dockerd's swarm port of another node comes to an end."""
    script = f"import socket; socket.create_connection(('{address}', 9), 1)"
    try:
        node.run("python3", "-c", script)
    except RuntimeError as error:
        # A refusal comes from the other node's kernel: the packet got there.
        return "ConnectionRefusedError" in str(error)
    return True


@pytest.fixture
def lab(make_lab: MakeLab, four: Cluster) -> Lab:
    """A lab whose nodes run dockerd and not the service."""
    lab = make_lab(four)
    lab.power_on(by_hand=True)
    return lab


def answered(lab: Lab) -> None:
    deadline = time.monotonic() + PATIENCE
    while not lab.answered():
        assert time.monotonic() < deadline, lab.last_words("an engine does not answer")
        time.sleep(0.05)


def test_hand_made_swarm_passes_the_judge_and_a_drained_node_does_not(lab: Lab) -> None:
    with pytest.raises(NotFormedError):
        lab.wait_formed(seconds=0)
    byhand.form(lab)
    assert judge.settled(lab.all, lab.cluster.members) == []
    assert judge.listed(lab.all[0])[0] == ("pi1", "Ready", "Leader")
    # The service does not run: nothing may say otherwise.
    assert len(judge.told(lab.all, lab.cluster.members)) == 4
    lab.all[0].run("docker", "node", "update", "--availability", "drain", "pi3")
    assert judge.formed(lab.all, lab.cluster.members) == ["pi3: drain"]


def test_dockerd_and_python_of_a_node_run_by_its_own_clock(lab: Lab) -> None:
    answered(lab)
    node = lab.all[0]
    before = machine_clock()
    node.clock.shift(-7 * YEAR)
    for command in (
        ("date", "-u", "+%Y"),
        ("python3", "-c", "import time; print(time.gmtime().tm_year)"),
        ("docker", "info", "--format", "{{.SystemTime}}"),
    ):
        year = node.run(*command)[:4]
        assert int(year) == time.gmtime(time.time() - 7 * YEAR).tm_year, command
    assert lab.all[1].run("date", "-u", "+%Y").strip() == str(time.gmtime().tm_year)
    assert abs(machine_clock() - before) < 0.5


@pytest.mark.parametrize(
    "command",
    [
        ("date", "-u", "-s", "@86400"),
        ("python3", "-c", "import time; time.clock_settime(time.CLOCK_REALTIME, 86400)"),
    ],
    ids=["date", "python"],
)
def test_a_node_that_sets_its_clock_sets_only_its_own(lab: Lab, command: tuple[str, ...]) -> None:
    answered(lab)
    before = machine_clock()
    lab.all[0].run(*command)
    assert lab.all[0].clock.time == pytest.approx(86400, abs=20)
    assert engine.get(lab.all[0], "/info")["SystemTime"].startswith("1970-01-02T00:00")
    assert lab.all[1].clock.offset == 0
    assert abs(machine_clock() - before) < 0.5


def test_a_program_that_the_library_cannot_catch_may_not_set_the_clock(lab: Lab) -> None:
    # Statically linked, so nothing is loaded into it. One second ahead is the harm if it works.
    script = f"busybox date -s @{int(time.time()) + 1} 2>&1; grep CapBnd /proc/1/status"
    told = lab.all[0].run("sh", "-c", script)
    assert "can't set date: Operation not permitted" in told
    sys_time = 1 << 25
    assert not int(told.split("CapBnd:")[1], 16) & sys_time


def test_a_node_does_not_believe_the_machine_to_be_its_ntp_server(lab: Lab) -> None:
    script = "import ctypes; print(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))"
    time_error = 5
    assert int(lab.all[0].run("python3", "-c", script)) == time_error


def test_waiting_until_a_time_of_day_is_by_the_node_clock(lab: Lab) -> None:
    lab.all[0].clock.shift(3 * YEAR)
    script = (
        "import threading, time; begun = time.monotonic(); threading.Event().wait(0.5); "
        "print(time.monotonic() - begun)"
    )
    assert float(lab.all[0].run("python3", "-c", script)) == pytest.approx(0.5, abs=0.4)


def test_a_pulled_plug_ends_everything_and_the_card_stays(lab: Lab) -> None:
    answered(lab)
    node = lab.all[0]
    node.run("docker", "swarm", "init", "--advertise-addr", node.lan)
    was = engine.get(node, "/info")["Swarm"]["NodeID"]
    node.run("sh", "-c", "echo here >/etc/marked")
    outside = [int(line) for line in _processes_of(node)]
    assert len(outside) >= 4  # tini, init, dockerd, containerd
    node.pull_the_plug()
    assert not [pid for pid in outside if Path(f"/proc/{pid}").exists()]
    with pytest.raises(SilentError):
        engine.get(node, "/info")
    node.power_on(masked=["piflash.service"])
    answered(lab)
    deadline = time.monotonic() + PATIENCE
    while not _is(node, was):
        assert time.monotonic() < deadline, node.last_words()
        time.sleep(0.1)
    assert node.run("cat", "/etc/marked") == "here\n"
    node.pull_the_plug()
    node.insert(lab.cluster.boot("pi1"))
    node.power_on(masked=["piflash.service"])
    answered(lab)
    assert not _is(node, was)
    assert node.run("cat", "/etc/marked", check=False) == ""


def _is(node: Node, node_id: str) -> bool:
    try:
        return bool(engine.get(node, "/info")["Swarm"]["NodeID"] == node_id)
    except SilentError:
        return False


def _processes_of(node: Node) -> list[str]:
    mine = os.readlink(f"/proc/{node.pid}/ns/pid")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/pid") == mine:
                found.append(path.name)
        except OSError:
            continue
    return found


def test_a_container_dies_with_its_node_and_leaves_no_control_group(lab: Lab) -> None:
    answered(lab)
    node = lab.all[0]
    node.run("sh", "-c", "tar -C / -c usr/bin/busybox | docker import - busybox")
    command = ("/usr/bin/busybox", "sleep", "12345")
    node.run("docker", "run", "--detach", "--net=none", "busybox", *command)
    groups = list(Path("/sys/fs/cgroup").glob(f"**/{lab.switch.group}"))
    assert groups
    assert _sleepers() == 1
    node.pull_the_plug()
    assert _sleepers() == 0
    lab.__exit__()
    assert not [group for group in groups if group.exists()]


def _sleepers() -> int:
    line = "\0".join(("/usr/bin/busybox", "sleep", "12345", ""))
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += path.read_text(errors="replace") == line
    return found


def test_partitions_and_cables_cut_and_heal(lab: Lab) -> None:
    one, two, three, _ = lab.all
    answered(lab)
    assert reach(one, two.lan)
    lab.switch.partition(["pi1", "pi3"], ["pi2", "pi4"])
    assert reach(one, three.lan)
    assert not reach(one, two.lan)
    lab.switch.heal()
    assert reach(one, two.lan)
    lab.switch.unplug("pi2")
    assert not reach(one, two.lan)
    lab.switch.plug("pi2")
    assert reach(one, two.lan)


def test_two_labs_at_once_do_not_see_each_other(make_lab: MakeLab, four: Cluster) -> None:
    labs = [make_lab(four), make_lab(four)]
    for lab in labs:
        lab.power_on(by_hand=True)
    for lab in labs:
        byhand.form(lab)
    swarms = {engine.get(lab.all[0], "/info")["Swarm"]["Cluster"]["ID"] for lab in labs}
    assert len(swarms) == 2
    for lab in labs:
        assert judge.settled(lab.all, four.members) == []


def test_systemctl_restarts_docker_and_a_service_that_dies_comes_again(lab: Lab) -> None:
    answered(lab)
    node = lab.all[0]
    first = node.run("pgrep", "dockerd").split()
    node.run("systemctl", "restart", "docker")
    second = node.run("pgrep", "dockerd").split()
    assert first != second
    engine.get(node, "/info")
    node.run("systemctl", "kill", "docker.service")
    deadline = time.monotonic() + PATIENCE
    while not _is(node, "") or node.run("pgrep", "dockerd", check=False).split() == second:
        assert time.monotonic() < deadline, node.last_words()
        time.sleep(0.1)
    assert node.run("systemctl", "is-active", "docker").strip() == "active"


def test_nothing_outlives_a_lab_whose_process_is_killed(tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from tests.lab.switch import Switch\n"
        "switch = Switch()\n"
        "print(switch._holder.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout
    with owner.stdout:
        holder = int(owner.stdout.readline())
    first = child(holder)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{first}/ns/net").exists():
        assert time.monotonic() < deadline, "the network outlives the lab"
        time.sleep(0.05)


def test_closing_a_switch_ends_what_runs_in_it() -> None:
    with Switch() as switch:
        pid = switch.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_the_clock_of_a_program_outside_is_shifted_too(library: Path, tmp_path: Path) -> None:
    clock = clocks.Clock(tmp_path / "clock")
    clock.shift(-5 * YEAR)
    told = subprocess.run(
        ["date", "+%s"],
        env=clock.environment(library),
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    assert float(told) == pytest.approx(time.time() - 5 * YEAR, abs=5)


def test_the_card_sets_a_clock_without_battery_to_its_flash_time(
    make_lab: MakeLab, four: Cluster
) -> None:
    lab = make_lab(four)
    node = lab.all[0]
    node.power_on(offset=-time.time(), masked=["piflash.service"])
    _booted(node)
    flashed = json.loads((four.boot("pi1") / "piflash/node.json").read_text())["flashed_at"]
    assert node.clock.time == pytest.approx(flashed, abs=30)


def test_a_first_boot_that_was_cut_off_begins_again(make_lab: MakeLab, four: Cluster) -> None:
    node = make_lab(four).all[0]
    node.power_on(masked=["piflash.service"])
    _booted(node)
    node.pull_the_plug()
    ends = list((node.root / "var/lib/cloud/instances").glob("*/piflash-[rd]*"))
    assert {mark.name for mark in ends} == {"piflash-ran", "piflash-done"}
    for mark in ends:
        mark.unlink()
    (node.root / "etc/docker/daemon.json").unlink()
    node.power_on(masked=["piflash.service"])
    _booted(node)
    assert [what for _, what in node.events()][:3] == ["boot", "reboot", "boot"]
    assert "the first boot was cut off" in node.log("cloud-init")
    assert (node.root / "etc/docker/daemon.json").exists()


def _booted(node: Node) -> None:
    deadline = time.monotonic() + PATIENCE
    while "booted" not in [what for _, what in node.events()]:
        assert time.monotonic() < deadline, node.last_words()
        time.sleep(0.05)


def test_cards_of_years_ago_say_so(base: Path, library: Path, tmp_path: Path) -> None:
    clock = clocks.Clock(tmp_path / "clock")
    clock.shift(-8 * YEAR)
    cluster = cards.describe(tmp_path / "cluster", base, managers=1, workers=1)
    cluster.flash("pi1", environment=clock.environment(library))
    flashed = json.loads((cluster.boot("pi1") / "piflash/node.json").read_text())["flashed_at"]
    assert flashed == pytest.approx(clock.time, abs=120)


def test_the_listener_hears_what_nodes_say_and_no_token_of_a_join(lab: Lab, tmp_path: Path) -> None:
    with Wire(lab.switch, tmp_path / "frames") as wire:
        byhand.form(lab)
        script = "import socket; s = socket.socket(type=2); s.sendto(b'SWMTKN', ('{}', 9))"
        lab.all[3].run("python3", "-c", script.format(lab.all[0].lan))
        heard = wire.stop()
    assert b"SWMTKN" in heard, "the listener is deaf"
    assert secrets.found_in(heard, {}) == []
