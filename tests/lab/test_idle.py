"""What the service costs a node that has nothing to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.lab.cards import Cluster
from tests.lab.conftest import MakeLab, note
from tests.lab.node import Node
from tests.lab.orders import LONG

QUIET = 12.0  # seconds until nothing is left to do after the forming
WATCHED = 600.0 if LONG else 30.0
MOST_MB, MOST_SHARE = 25.0, 0.005


def test_idle_service_is_small_and_sleeps(make_lab: MakeLab, five: Cluster) -> None:
    lab = make_lab(five)
    lab.power_on()
    lab.wait_settled(seconds=240)
    time.sleep(QUIET)
    services = {node.name: node.service() for node in lab.all}
    assert all(services.values()), services
    before = {node.name: _seconds(node, services[node.name]) for node in lab.all}
    begun = time.monotonic()
    time.sleep(WATCHED)
    lasted = time.monotonic() - begun
    shares, sizes = {}, {}
    for node in lab.all:
        pid = services[node.name]
        shares[node.name] = (_seconds(node, pid) - before[node.name]) / lasted
        sizes[node.name] = _megabytes(node, pid)
        note(
            f"{node.name} ({node.status().get('role')}) idle for {lasted:.0f} s: "
            f"{shares[node.name]:.2%} of a core, {sizes[node.name]:.1f} MB"
        )
    assert max(sizes.values()) < MOST_MB
    assert max(shares.values()) < MOST_SHARE


def _proc(node: Node, pid: int, name: str) -> str:
    return node.inside(f"/proc/{pid}/{name}").read_text()


def _seconds(node: Node, pid: int) -> float:
    """Processor time of a process and of the programs that it ran and that have ended."""
    fields = _proc(node, pid, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _megabytes(node: Node, pid: int) -> float:
    lines = dict(line.split(":", 1) for line in _proc(node, pid, "status").splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024 / 1e6


def test_processor_time_counts_the_programs_that_were_run(tmp_path: Path) -> None:
    own = os.times()
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    told = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    counted = own.user + own.system + own.children_user + own.children_system
    assert abs(told - counted) < 0.5
