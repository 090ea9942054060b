"""The service on a root file system that is full or cannot be written: a real one, and a real turn.

Each turn runs in a network of its own, so that the join service's port is free.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstboot.importer import import_card
from firstboot.layout import Layout
from tests.support.tools import need, need_root
from tests.unit.firstboot.card import insert

ROOT = Path(__file__).parents[2]
TURN = """
import os, sys
from firstboot.layout import Layout
from firstboot.service import Service
service = Service(
    Layout(boot=sys.argv[1], root=sys.argv[2]), wake=lambda: None, interrupt=os.pipe()[0]
)
for _ in range(2):
    service.turn()
service.close()
"""


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Layout]:
    """A card at its first boot, whose root is a small file system."""
    need_root()
    need("mount", "umount", "unshare")
    layout = insert(tmp_path)
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", layout.root)
    try:
        yield layout
    finally:
        subprocess.run(["umount", layout.root], check=True, timeout=30)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=30)


def freeze(layout: Layout) -> None:
    mount("-o", "remount,ro", layout.root)


def fill(layout: Layout) -> Path:
    filler = Path(layout.root, "filler")
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 20))
    return filler


def turns(layout: Layout) -> tuple[list[str], dict[str, str]]:
    """Take two turns; give what was logged, and status.txt."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", TURN, layout.boot, layout.root],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    told = [line.partition(":") for line in Path(layout.status_txt).read_text().splitlines()]
    return done.stderr.splitlines(), {key: value.strip() for key, _, value in told}


def blocked_by_the_disk(layout: Layout, why: str) -> None:
    logged, status = turns(layout)
    assert (status["node"], status["role"], status["reason"]) == ("pi1", "manager", "disk")
    assert status["why"] == why
    assert len(logged) == 1, "without a traceback, and once"
    assert logged[0].startswith(f"piflash: BLOCKED (disk): {why}; the card is full")


def test_a_full_disk_at_the_first_boot_is_told_as_such_and_tried_again(card: Layout) -> None:
    filler = fill(card)
    blocked_by_the_disk(card, f"{card.node_json}.new: No space left on device")
    filler.unlink()
    assert turns(card)[1]["phase"] == "DOCKER"


def test_a_root_that_cannot_be_written_at_the_first_boot_is_told_as_such(card: Layout) -> None:
    freeze(card)
    blocked_by_the_disk(card, f"{card.root}/var: Read-only file system")


def test_a_root_that_cannot_be_written_later_keeps_no_node_from_its_work(card: Layout) -> None:
    import_card(card)
    freeze(card)
    logged, status = turns(card)
    assert (status["node"], status["phase"]) == ("pi1", "DOCKER")
    assert not any("BLOCKED" in line or "Traceback" in line for line in logged)


def test_a_memory_that_can_be_neither_read_nor_written_is_told_as_the_disks_fault(
    card: Layout,
) -> None:
    import_card(card)
    Path(card.memory).unlink()
    freeze(card)
    blocked_by_the_disk(card, f"{card.memory}.new: Read-only file system")


def test_without_any_node_json_nobody_is_named(card: Layout) -> None:
    freeze(card)
    Path(card.card_node_json).unlink()
    _, status = turns(card)
    assert (status.get("node"), status["reason"]) == (None, "disk")
