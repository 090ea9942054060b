"""Whole cards on loop devices: written, verified past the page cache, unbootable when not right."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flasher import devices
from flasher.cardio import CardIO
from flasher.errors import DeviceRefusedError, ImageError, WorkspaceError, WriteError
from flasher.model import MIB, Image, ImageFile, Phase, Run
from flasher.plan import CardPlan
from tests.support import baseimage, loopdev
from tests.support.tools import need, need_root
from tests.unit.test_writer import Log, fail, write

SIZE = 24 * MIB
CARD = 40 * MIB
DATA = loopdev.image_bytes(SIZE)
DIRT = bytes([0xA5]) * MIB

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _tools() -> None:
    need_root()
    need("losetup", "blockdev")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return loopdev.make_image(tmp_path, DATA)


@contextmanager
def dirty_card(
    directory: Path, *options: str, size: int = CARD, name: str = "card"
) -> Iterator[str]:
    """A card that was in use before: an MBR, a GPT copy at the end, dirt in between."""
    file = directory / name
    with file.open("wb") as out:
        for _ in range(size // MIB):
            out.write(DIRT)
        out.write(DIRT[: size % MIB])
        out.seek(510)
        out.write(b"\x55\xaa")
        out.seek(512)
        out.write(b"EFI PART")
        out.seek(size - 512)
        out.write(b"EFI PART")
    with loopdev.loop(file, *options) as device:
        yield device


def plan_for(device: str, image: Image, *patch: Run, node: str = "pi1") -> CardPlan:
    return loopdev.make_plan(devices.examine(device), image, node=node, patch=patch)


@contextmanager
def warmed(device: str) -> Iterator[Callable[[], None]]:
    """Keep the device open, so that its page cache stays; gives what fills the cache."""
    with open(device, "rb") as card:

        def warm() -> None:
            card.seek(0)
            while card.read(MIB):
                pass

        yield warm


@pytest.mark.parametrize("sector", ["512", "4096"])
def test_dirty_card_becomes_the_image_with_its_patch(
    sector: str, tmp_path: Path, image: Image
) -> None:
    patch = (Run(MIB, b"seed" * 999), Run(5 * MIB - 1, b"ab"), Run(SIZE - 1, b"!"))
    with dirty_card(tmp_path, "--sector-size", sector) as device, warmed(device) as warm:
        warm()
        (outcome,) = write(plan_for(device, image, *patch))
        assert outcome.error is None
        card = loopdev.read_card(device, CARD)
    assert card[:SIZE] == loopdev.patched(DATA, patch)
    assert card[-MIB:] == bytes(MIB)  # no stale GPT
    between = card[SIZE:-MIB]
    assert set(between) <= {0, 0xA5}  # the probes are gone again


@pytest.mark.parametrize("tail", [512, 4096 - 512, MIB + 512])
def test_image_that_ends_inside_a_sector_of_4096_bytes(tail: int, tmp_path: Path) -> None:
    data = loopdev.image_bytes(6 * MIB + tail)
    image = loopdev.make_image(tmp_path, data)
    with dirty_card(tmp_path, "--sector-size", "4096") as device:
        (outcome,) = write(plan_for(device, image))
        assert outcome.error is None
        assert loopdev.read_card(device, len(data)) == data


def test_card_of_exactly_the_image_size_is_filled_to_its_end(tmp_path: Path, image: Image) -> None:
    with dirty_card(tmp_path, size=SIZE) as device:
        (outcome,) = write(plan_for(device, image))
        assert outcome.error is None
        assert loopdev.read_card(device, SIZE) == DATA


def test_several_cards_and_a_file_from_one_zip(tmp_path: Path, image: Image) -> None:
    packed = replace(image, path=baseimage.zip_image(image.path, tmp_path / "base.zip"))
    with ExitStack() as stack:
        cards = [stack.enter_context(dirty_card(tmp_path, name=name)) for name in "ab"]
        plans = [
            plan_for(card, packed, Run(2 * MIB, node.encode()), node=node)
            for card, node in zip(cards, ("pi1", "pi2"), strict=True)
        ]
        plans.append(loopdev.make_plan(ImageFile(tmp_path / "c.img", None), packed, node="pi3"))
        outcomes = write(*plans)
        assert [outcome.error for outcome in outcomes] == [None] * 3
        for plan, card in zip(plans, [*cards, tmp_path / "c.img"], strict=True):
            assert loopdev.read_card(card, SIZE) == loopdev.patched(DATA, plan.patch)


def test_mbr_is_zero_until_all_else_is_verified_and_recorded(tmp_path: Path, image: Image) -> None:
    looks: list[bytes] = []

    with dirty_card(tmp_path) as device:

        def look(*_: object) -> None:
            looks.append(loopdev.read_card(tmp_path / "card", MIB))

        progress = Log(on_start=look, on_advance=look)
        (outcome,) = write(plan_for(device, image), progress=progress, before=look)
        assert outcome.error is None
        assert looks
        assert set(looks) == {bytes(MIB)}
        assert loopdev.read_card(device, MIB) == DATA[:MIB]


# --- verification -------------------------------------------------------------------------------


def flipper(file: Path, at: int) -> Callable[[str, Phase], None]:
    """Give what flips a bit behind the device when the reading back begins."""

    def flip(what: str, phase: Phase) -> None:
        if phase is not Phase.VERIFY:
            return
        with file.open("r+b") as out:
            out.seek(at)
            byte = out.read(1)[0]
            out.seek(at)
            out.write(bytes([byte ^ (1 << random.randrange(8))]))

    return flip


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("round_", range(4))
def test_flipped_bit_is_found(cache: str, round_: int, tmp_path: Path, image: Image) -> None:
    at = random.Random(f"{cache} {round_}").choice(
        [MIB, SIZE - 1, CARD - 1, random.randrange(MIB, SIZE)]
    )
    with dirty_card(tmp_path) as device, warmed(device) as warm:
        flip = flipper(tmp_path / "card", at)

        def on_start(what: str, phase: Phase) -> None:
            if cache == "warm" and phase is Phase.VERIFY:
                warm()
            flip(what, phase)

        (outcome,) = write(plan_for(device, image), progress=Log(on_start=on_start), before=fail)
        assert outcome.error
        assert outcome.error.exit_code == 7
        # Blocks of 64 KiB from the start of the stretch (1 MiB, or the last MiB).
        assert f"offset {at // 65536 * 65536};" in outcome.error.message
        assert "does not boot" in outcome.error.message
        assert loopdev.read_card(device, MIB) == bytes(MIB)


def test_warm_cache_would_have_hidden_it(tmp_path: Path, image: Image) -> None:
    """The test above is worth something only if a cached read does not see the flip."""
    with dirty_card(tmp_path) as device, warmed(device) as warm, open(device, "rb") as cached:
        warm()
        flipper(tmp_path / "card", 3 * MIB)("", Phase.VERIFY)
        cached.seek(3 * MIB)
        assert cached.read(1) == b"\xa5"
        assert (tmp_path / "card").read_bytes()[3 * MIB] != 0xA5


def test_flipped_bit_is_found_without_direct_io(tmp_path: Path) -> None:
    """The way back for devices that refuse O_DIRECT: BLKFLSBUF and the kernel's advice."""
    data = memoryview(mmap.mmap(-1, MIB))
    with dirty_card(tmp_path) as device, warmed(device) as warm:
        fd = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            card = CardIO(fd, sector=512, direct=False, sparse=False)
            for number in range(20):
                card.write(number * MIB, data)
            card.sync()
            warm()
            flipper(tmp_path / "card", 3 * MIB)("", Phase.VERIFY)
            card.read(3 * MIB, data)
            assert not any(data[:1])  # from the cache
            card.forget_cache()
            card.read(3 * MIB, data)
            assert any(data[:1])
        finally:
            os.close(fd)


def test_flipped_bit_under_a_card_file_is_found(tmp_path: Path, image: Image) -> None:
    """The file's own pages are in the cache after the writing: they must not be compared."""
    need("mkfs.ext4", "mount", "umount")
    disk, point = loopdev.make_file(tmp_path / "disk", size=64 * MIB), tmp_path / "mnt"
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True, timeout=60)

    def flip(what: str, phase: Phase) -> None:
        if phase is Phase.VERIFY:
            os.sync()
            at = disk.read_bytes().index(DATA[8 * MIB : 8 * MIB + 64])
            flipper(disk, at)(what, phase)

    with loopdev.loop(disk) as device:
        subprocess.run(["mount", device, point], check=True, timeout=60)
        try:
            plan = loopdev.make_plan(ImageFile(point / "pi1.img", None), image)
            (outcome,) = write(plan, progress=Log(on_start=flip), before=fail)
        finally:
            subprocess.run(["umount", point], check=True, timeout=60)
    assert outcome.error
    assert outcome.error.exit_code == 7
    assert f"offset {8 * MIB};" in outcome.error.message


def test_flip_in_the_first_mib_after_it_was_written_is_found(tmp_path: Path, image: Image) -> None:
    """The last step is verified too: a thread flips a byte of the first MiB again and again."""
    done = threading.Event()

    def spoil() -> None:
        # Past the cache: the loop device reads the file with direct I/O, and a buffered write at
        # the same time would fail that instead of being read.
        block = mmap.mmap(-1, 4096)
        block.write(b"\x77" * 4096)
        out = os.open(tmp_path / "card", os.O_WRONLY | os.O_DIRECT)
        while not done.is_set():
            os.pwrite(out, block, 598_016)
        os.close(out)

    with dirty_card(tmp_path) as device:
        thread = threading.Thread(target=spoil)

        def before(plan: CardPlan) -> None:
            thread.start()

        try:
            (outcome,) = write(plan_for(device, image), before=before)
        finally:
            done.set()
            thread.join()
        assert outcome.error
        assert outcome.error.exit_code == 7
        assert "does not boot now" in outcome.error.message
        assert loopdev.read_card(device, 4096) == bytes(4096)


# --- failures -----------------------------------------------------------------------------------


def test_delivery_that_cannot_be_recorded_leaves_the_card_unbootable(
    tmp_path: Path, image: Image
) -> None:
    def before(plan: CardPlan) -> None:
        raise WorkspaceError("disk full", hint="make room")

    with dirty_card(tmp_path) as device:
        (outcome,) = write(plan_for(device, image), before=before)
        assert isinstance(outcome.error, WorkspaceError)
        assert "does not boot now" in outcome.error.message
        assert loopdev.read_card(device, MIB) == bytes(MIB)


def test_damaged_image_leaves_every_card_unbootable(tmp_path: Path, image: Image) -> None:
    packed = baseimage.zip_image(image.path, tmp_path / "base.zip")
    with packed.open("r+b") as out:
        out.seek(packed.stat().st_size // 2)
        out.write(b"\0\1\2\3\4\5\6\7")
    with ExitStack() as stack:
        cards = [stack.enter_context(dirty_card(tmp_path, name=name)) for name in "ab"]
        plans = [plan_for(card, replace(image, path=packed), node=card) for card in cards]
        for card, outcome in zip(cards, write(*plans, before=fail), strict=True):
            assert isinstance(outcome.error, ImageError)
            assert "does not boot now" in outcome.error.message
            assert loopdev.read_card(card, MIB) == bytes(MIB)


def test_image_larger_than_the_card_is_refused_before_anything_is_written(
    tmp_path: Path, image: Image
) -> None:
    with dirty_card(tmp_path, size=SIZE - MIB) as device:
        (outcome,) = write(plan_for(device, image))
        assert isinstance(outcome.error, DeviceRefusedError)
        assert "nothing was written" in outcome.error.message
        assert loopdev.read_card(device, MIB)[510:512] == b"\x55\xaa"


def test_image_that_turns_out_larger_than_the_card_leaves_it_unbootable(
    tmp_path: Path, image: Image
) -> None:
    with dirty_card(tmp_path, size=SIZE - MIB) as device:
        short = loopdev.make_plan(
            devices.examine(device), replace(image, size=None), size=SIZE - 2 * MIB
        )
        (outcome,) = write(short, before=fail)
        assert isinstance(outcome.error, WriteError)
        assert "longer than the card" in outcome.error.message
        assert loopdev.read_card(device, MIB) == bytes(MIB)


def test_card_named_twice_is_written_once(tmp_path: Path, image: Image) -> None:
    with dirty_card(tmp_path) as device:
        plans = [plan_for(device, image, node="a"), plan_for(device, image, node="b")]
        outcomes = write(*plans)
        assert sorted(outcome.error is None for outcome in outcomes) == [False, True]
        assert any(isinstance(outcome.error, DeviceRefusedError) for outcome in outcomes)
        assert loopdev.read_card(device, SIZE) == DATA


def test_full_disk_leaves_no_card_file(tmp_path: Path, image: Image) -> None:
    need("mount", "umount")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True, timeout=30
    )
    try:
        plan = loopdev.make_plan(ImageFile(small / "pi1.img", None), image)
        (outcome,) = write(plan, before=fail)
        assert isinstance(outcome.error, WriteError)
        assert "No space left" in outcome.error.message
        assert "no file was made" in outcome.error.message
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True, timeout=30)


@pytest.mark.parametrize("phase", [Phase.WRITE, Phase.VERIFY])
def test_interrupt_stops_all_cards_and_says_what_they_are(
    phase: Phase, tmp_path: Path, image: Image
) -> None:
    stop = threading.Event()

    def interrupt(what: str, now: Phase) -> None:
        if now is phase:
            stop.set()

    with ExitStack() as stack:
        cards = [stack.enter_context(dirty_card(tmp_path, name=name)) for name in "ab"]
        plans = [plan_for(card, image, node=card) for card in cards]
        began = time.monotonic()
        outcomes = write(*plans, progress=Log(on_advance=interrupt), stop=stop)
        assert time.monotonic() - began < 2
        # In the verify phase the other card may just have been finished: then it is complete.
        assert any(outcome.error for outcome in outcomes)
        for card, outcome in zip(cards, outcomes, strict=True):
            if outcome.error:
                assert outcome.error.exit_code == 130
                assert f"piflash --node {card} {card}" in outcome.error.hint
                # One of them may not even have been begun.
                untouched = "nothing was written" in outcome.error.message
                assert untouched or "does not boot now" in outcome.error.message
                assert loopdev.read_card(card, 2, offset=510) == (
                    b"\x55\xaa" if untouched else bytes(2)
                )
