"""What the service costs a node that has nothing to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.lab import figures, measure
from tests.lab.cards import Cluster
from tests.lab.conftest import MakeLab
from tests.lab.orders import LONG

QUIET = 12.0  # seconds until nothing is left to do after the forming
WATCHED = 600.0 if LONG else 60.0
MOST_MB, MOST_SHARE = 25.0, 0.005


def test_idle_service_is_small_and_sleeps(make_lab: MakeLab, five: Cluster, python: str) -> None:
    lab = make_lab(five)
    lab.power_on()
    lab.wait_settled(seconds=240)
    time.sleep(QUIET)
    services = {node.name: node.service() for node in lab.all}
    assert all(services.values()), services
    before = {node.name: measure.seconds(node, services[node.name]) for node in lab.all}
    begun = time.monotonic()
    time.sleep(WATCHED)
    lasted = time.monotonic() - begun
    shares, sizes = {}, {}
    for node in lab.all:
        pid = services[node.name]
        shares[node.name] = (measure.seconds(node, pid) - before[node.name]) / lasted
        sizes[node.name] = measure.megabytes(node, pid)
        role = "leader" if node is lab.all[0] else node.status()["role"]
        figures.note(
            f"3+2, {node.name} ({role}) idle for {lasted:.0f} s under {Path(python).name}",
            f"{shares[node.name]:.2%} of a core, {sizes[node.name]:.1f} MB",
        )
    assert lab.wait_settled(seconds=10), "it was not idle but broken"
    assert max(sizes.values()) < MOST_MB
    assert max(shares.values()) < MOST_SHARE


def test_processor_time_counts_the_programs_that_were_run() -> None:
    own = os.times()
    told = measure.processor_time(Path("/proc/self/stat").read_text())
    counted = own.user + own.system + own.children_user + own.children_system
    assert abs(told - counted) < 0.5
