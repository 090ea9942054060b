"""SIGKILL at a hundred moments of a write: never a card that looks bootable and is not whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash

from flasher import devices
from flasher.model import MIB, ImageFile, Run
from flasher.plan import CardPlan
from tests.support import loopdev
from tests.support.tools import need, need_root
from tests.unit.test_writer import write

SIZE = 24 * MIB
CARD = 28 * MIB
DATA = loopdev.image_bytes(SIZE)
PATCH = (Run(MIB, b"seed" * 5000), Run(SIZE - 100, b"end"))
WHOLE = loopdev.patched(DATA, PATCH)

KILLS = 100

pytestmark = [
    pytest.mark.root,
    # Python 3.12 warns of forks beside threads; the child starts its own and touches no others.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _tools() -> None:
    need_root()
    need("losetup")


@dataclass(frozen=True)
class Death:
    """How a writing process ended. `bootable_soon`: it had come to the last step."""

    killed: bool
    bootable_soon: bool


def write_and_kill(plan: CardPlan, *, after: float, from_last_step: bool) -> Death:
    """Write in a child; kill it that many seconds after its start or after the last step's."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            (outcome,) = write(plan, before=lambda plan: os.write(writing, b"!") and None)
            os._exit(0 if outcome.error is None else 1)
        finally:
            os._exit(2)
    os.close(writing)
    try:
        if from_last_step:
            os.read(reading, 1)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.set_blocking(reading, False)
        soon = from_last_step or _has_byte(reading)
    finally:
        os.close(reading)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
    return Death(os.WIFSIGNALED(status), soon)


def _has_byte(fd: int) -> bool:
    try:
        return bool(os.read(fd, 1))
    except BlockingIOError:
        return False


def measure(plan: CardPlan, *, before: Callable[[], None] = int) -> tuple[float, float]:
    """Give the seconds of a whole write, and of its last step (the best of three)."""
    totals, lasts = [], []
    for _ in range(3):
        before()
        began = time.monotonic()
        last: list[float] = []
        (outcome,) = write(plan, before=lambda plan, seen=last: seen.append(time.monotonic()))
        assert outcome.error is None
        totals.append(time.monotonic() - began)
        lasts.append(time.monotonic() - last[0])
    return min(totals), min(lasts)


def moment(number: int, *, total: float, last: float) -> tuple[float, bool]:
    """Give a random moment for a kill: of the whole write, or (3 of 10) of its last step."""
    if number % 10 < 7:
        return random.random() * total * 1.1, False
    return random.random() * last, True


def digest(path: str | Path, size: int) -> bytes:
    return xxhash.xxh3_128_digest(loopdev.read_card(path, size))


def test_a_hundred_kills_leave_no_card_that_boots_half_written(tmp_path: Path) -> None:
    image = loopdev.make_image(tmp_path, DATA)
    old = tmp_path / "old"
    old.write_bytes(loopdev.image_bytes(CARD, seed=2))
    old_digest, whole_digest = digest(old, CARD), xxhash.xxh3_128_digest(WHOLE)
    deaths: list[Death] = []
    states = {"no MBR": 0, "the old card": 0, "the whole new card": 0}
    began = time.monotonic()
    with loopdev.card(tmp_path, size=CARD) as device:
        plan = loopdev.make_plan(devices.examine(device), image, patch=PATCH)
        total, last = measure(plan)
        # A child that was done before its kill came proves nothing, and is not counted.
        while (killed := sum(death.killed for death in deaths)) < KILLS:
            after, from_last_step = moment(killed, total=total, last=last)
            shutil.copyfile(old, tmp_path / "card")
            deaths.append(write_and_kill(plan, after=after, from_last_step=from_last_step))
            states[_state(device, old=old_digest, whole=whole_digest)] += 1
            if len(deaths) % 10 == 0:
                (outcome,) = write(plan)
                assert outcome.error is None
                assert digest(device, SIZE) == whole_digest
            assert time.monotonic() - began < 150, (len(deaths), states)
    assert sum(death.killed and death.bootable_soon for death in deaths) >= KILLS * 3 // 10
    assert states["no MBR"] >= 30, states
    sys.stdout.write(f"killed {KILLS} of {len(deaths)}: {states}\n")


def _state(device: str, *, old: bytes, whole: bytes) -> str:
    """Tell what a card is; fails if it has an MBR and is neither the old nor the new card."""
    if loopdev.read_card(device, 2, offset=510) != b"\x55\xaa":
        return "no MBR"
    if digest(device, SIZE) == whole:
        return "the whole new card"
    assert digest(device, CARD) == old, "a card with an MBR is half written"
    return "the old card"


def test_kills_leave_no_card_file_that_is_half_written(tmp_path: Path) -> None:
    image = loopdev.make_image(tmp_path, DATA)
    card = tmp_path / "pi1.img"
    plan = loopdev.make_plan(ImageFile(card, None), image, patch=PATCH)
    total, last = measure(plan, before=lambda: card.unlink(missing_ok=True))
    kills = [(random.random() * total, False) for _ in range(10)]
    kills += [(random.random() * last * 1.2, True) for _ in range(5)]
    for after, from_last_step in kills:
        card.unlink(missing_ok=True)
        write_and_kill(plan, after=after, from_last_step=from_last_step)
        if card.exists():
            assert card.read_bytes() == WHOLE
    card.unlink(missing_ok=True)
    assert write(plan)[0].error is None
    assert card.read_bytes() == WHOLE
    assert not list(tmp_path.glob("*.piflash-partial"))
