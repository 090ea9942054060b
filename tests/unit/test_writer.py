"""The writer onto card files: order, patches, failures. Block devices are in tests/contract."""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import writer
from flasher.broadcast import Broadcast
from flasher.cardjob import CardJob
from flasher.errors import ImageError, InterruptedJobError, PiflashError, WorkspaceError
from flasher.model import MIB, Image, ImageFile, Phase, Run
from flasher.plan import CardPlan
from tests.support import loopdev

SIZE = 9 * MIB + 512
LIMIT = 10.0  # seconds; a job that is not done then waits for ever
DATA = loopdev.image_bytes(SIZE)


@dataclass
class Log:
    """A Progress that remembers, and may act when something happens."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    on_start: Callable[[str, Phase], None] = lambda what, phase: None
    on_advance: Callable[[str, Phase], None] = lambda what, phase: None

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        self.events.append(("start", what, phase, total))
        self.on_start(what, phase)

    def advance(self, what: str, phase: Phase, count: int) -> None:
        self.events.append(("advance", what, phase, count))
        self.on_advance(what, phase)

    def finish(self, what: str, phase: Phase) -> None:
        self.events.append(("finish", what, phase))

    def say(self, line: str) -> None:
        self.events.append(("say", line))

    def total(self, what: str, phase: Phase) -> int:
        return sum(
            int(str(event[3]))
            for event in self.events
            if event[0] == "advance" and event[1:3] == (what, phase)
        )


def nothing(plan: CardPlan) -> None:
    """Accept every card."""


def write(
    *plans: CardPlan,
    progress: Log | None = None,
    stop: threading.Event | None = None,
    before: Callable[[CardPlan], None] = nothing,
) -> tuple[writer.Outcome, ...]:
    stop = stop or threading.Event()
    watchdog = threading.Timer(LIMIT, stop.set)
    watchdog.start()
    try:
        return writer.write(plans, progress=progress or Log(), stop=stop, before_bootable=before)
    finally:
        watchdog.cancel()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return loopdev.make_image(tmp_path, DATA)


def file_plan(tmp_path: Path, image: Image, *patch: Run, node: str = "pi1") -> CardPlan:
    return loopdev.make_plan(
        ImageFile(tmp_path / f"{node}.img", None), image, node=node, patch=patch
    )


def test_card_file_is_the_image_with_the_patch_and_its_holes(tmp_path: Path, image: Image) -> None:
    patch = (Run(MIB + 5, b"seed"), Run(5 * MIB - 3, b"across two chunks"), Run(SIZE - 1, b"!"))
    plan = file_plan(tmp_path, image, *patch)
    progress = Log()
    (outcome,) = write(plan, progress=progress)
    assert outcome.error is None
    assert outcome.result
    assert outcome.result.bytes_written == outcome.result.bytes_verified == SIZE
    card = tmp_path / "pi1.img"
    assert card.read_bytes() == loopdev.patched(DATA, patch)
    assert card.stat().st_mode & 0o777 == 0o600  # it holds the node's key
    assert card.stat().st_blocks * 512 < SIZE - MIB  # zeros are holes
    assert not list(tmp_path.glob("*.piflash-partial"))
    assert progress.total("pi1", Phase.WRITE) == SIZE


RUNS = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=3 * 4096)), max_size=12
)


def sorted_runs(drawn: list[tuple[int, bytes]]) -> tuple[Run, ...]:
    """Make a plan's patch of anything: sorted, not overlapping, inside the image."""
    runs: list[Run] = []
    for offset, data in sorted(drawn):
        begin = max(offset, runs[-1].end if runs else 0)
        data = data[: SIZE - begin]
        if data:
            runs.append(Run(begin, data))
    return tuple(runs)


@settings(max_examples=6, deadline=None)
@given(RUNS, st.integers(0, 3), st.binary(min_size=1, max_size=7))
def test_any_patch_is_applied_to_its_own_card_only(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[int, bytes]],
    blocks: int,
    odd: bytes,
) -> None:
    tmp_path = tmp_path_factory.mktemp("cards")
    image = loopdev.make_image(tmp_path, DATA)
    edge = Run(MIB - 1 + blocks * 4 * MIB, odd)  # around the chunks' borders
    first, second = sorted_runs(drawn), sorted_runs([(edge.offset, edge.data)])
    outcomes = write(
        file_plan(tmp_path, image, *first, node="a"), file_plan(tmp_path, image, *second, node="b")
    )
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert (tmp_path / "a.img").read_bytes() == loopdev.patched(DATA, first)
    assert (tmp_path / "b.img").read_bytes() == loopdev.patched(DATA, second)
    for path in tmp_path.iterdir():
        path.unlink()


@pytest.mark.parametrize("size", [512, 4096, MIB - 512, MIB, MIB + 512, 5 * MIB, 5 * MIB + 512])
def test_images_of_every_size_are_whole(size: int, tmp_path: Path) -> None:
    image = loopdev.make_image(tmp_path, DATA[:size])
    plan = loopdev.make_plan(ImageFile(tmp_path / "pi1.img", None), image)
    (outcome,) = write(plan)
    assert outcome.error is None
    assert (tmp_path / "pi1.img").read_bytes() == DATA[:size]


def test_image_that_ends_in_zeros_keeps_its_size(tmp_path: Path) -> None:
    data = DATA[: 2 * MIB] + bytes(6 * MIB)
    plan = file_plan(tmp_path, loopdev.make_image(tmp_path, data))
    assert write(plan)[0].error is None
    assert (tmp_path / "pi1.img").read_bytes() == data


def test_delivery_is_recorded_after_the_verification_and_before_the_mbr(
    tmp_path: Path, image: Image
) -> None:
    seen: list[bytes] = []
    progress = Log()

    def before(plan: CardPlan) -> None:
        with (tmp_path / "pi1.img.piflash-partial").open("rb") as card:
            seen.append(card.read(MIB))
        assert progress.events[-1] == ("finish", "pi1", Phase.VERIFY)

    assert write(file_plan(tmp_path, image), progress=progress, before=before)[0].error is None
    assert seen == [bytes(MIB)]


def test_card_stays_unmade_when_the_delivery_cannot_be_recorded(
    tmp_path: Path, image: Image
) -> None:
    def before(plan: CardPlan) -> None:
        raise WorkspaceError("disk full", hint="make room")

    (outcome,) = write(file_plan(tmp_path, image), before=before)
    assert isinstance(outcome.error, WorkspaceError)
    assert str(outcome.error) == "disk full; no file was made\n  make room"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.img"]


def test_delivery_is_recorded_for_one_card_at_a_time(tmp_path: Path, image: Image) -> None:
    inside: list[str] = []

    def before(plan: CardPlan) -> None:
        assert not inside
        inside.append(plan.node)
        threading.Event().wait(0.005)
        inside.remove(plan.node)

    plans = [file_plan(tmp_path, image, node=f"pi{n}") for n in range(4)]
    assert [outcome.error for outcome in write(*plans, before=before)] == [None] * 4


def test_wrong_hash_of_the_stored_image_makes_no_card(tmp_path: Path, image: Image) -> None:
    wrong = replace(image, sha256=hashlib.sha256(b"another").hexdigest())
    outcomes = write(
        file_plan(tmp_path, wrong, node="a"), file_plan(tmp_path, wrong, node="b"), before=fail
    )
    for outcome in outcomes:
        assert isinstance(outcome.error, ImageError)
        assert outcome.error.message.endswith("no file was made")
    assert not list(tmp_path.glob("?.img*"))


def fail(plan: CardPlan) -> None:
    pytest.fail("a bad card was declared good")


def test_right_hash_of_the_stored_image_makes_a_card(tmp_path: Path, image: Image) -> None:
    right = replace(image, sha256=hashlib.sha256(DATA).hexdigest())
    assert write(file_plan(tmp_path, right))[0].error is None


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
def test_image_cut_short_since_the_plan_makes_no_card(
    known: bool, tmp_path: Path, image: Image
) -> None:
    plan = file_plan(tmp_path, image if known else replace(image, size=None), Run(SIZE - 2, b"x"))
    os.truncate(image.path, SIZE - MIB)
    (outcome,) = write(plan, before=fail)
    assert isinstance(outcome.error, ImageError)
    assert not (tmp_path / "pi1.img").exists()


def test_failing_card_does_not_stop_the_others(tmp_path: Path, image: Image) -> None:
    missing = loopdev.make_plan(
        ImageFile(tmp_path / "gone" / "a.img", None), image, node="a", patch=()
    )
    good = [file_plan(tmp_path, image, node=name) for name in "bc"]
    outcomes = write(missing, *good)
    assert [outcome.plan.node for outcome in outcomes] == ["a", "b", "c"]
    assert [outcome.error is None for outcome in outcomes] == [False, True, True]
    assert "cannot be made" in str(outcomes[0].error)
    assert (tmp_path / "c.img").read_bytes() == DATA


def test_all_cards_failing_ends_the_job(tmp_path: Path, image: Image) -> None:
    plan = loopdev.make_plan(ImageFile(tmp_path / "gone" / "a.img", None), image)
    (outcome,) = write(plan)
    assert outcome.error


def test_flipped_byte_is_found_with_its_place(tmp_path: Path, image: Image) -> None:
    at = 7 * MIB + 70_000

    def flip(what: str, phase: Phase) -> None:
        if phase is Phase.VERIFY:
            with (tmp_path / "pi1.img.piflash-partial").open("r+b") as card:
                card.seek(at)
                byte = card.read(1)[0]
                card.seek(at)
                card.write(bytes([byte ^ 1]))

    (outcome,) = write(file_plan(tmp_path, image), progress=Log(on_start=flip), before=fail)
    assert outcome.error
    assert outcome.error.exit_code == 7
    assert f"offset {at // 65536 * 65536};" in outcome.error.message
    assert not list(tmp_path.glob("pi1*"))


def test_without_verification_nothing_is_read_back(tmp_path: Path, image: Image) -> None:
    progress = Log()
    plan = replace(file_plan(tmp_path, image), verify=False)
    (outcome,) = write(plan, progress=progress)
    assert outcome.result
    assert outcome.result.bytes_verified == 0
    assert Phase.VERIFY not in {event[2] for event in progress.events if len(event) > 2}


@pytest.mark.parametrize("phase", [Phase.WRITE, Phase.VERIFY])
def test_interrupt_leaves_an_existing_card_file_as_it_was(
    phase: Phase, tmp_path: Path, image: Image
) -> None:
    stop = threading.Event()
    old = tmp_path / "pi1.img"
    old.write_bytes(b"the card of yesterday")

    def interrupt(what: str, now: Phase) -> None:
        if now is phase:
            stop.set()

    plan = replace(file_plan(tmp_path, image), target=ImageFile(old, 21))
    (outcome,) = write(plan, progress=Log(on_advance=interrupt), stop=stop, before=fail)
    assert isinstance(outcome.error, InterruptedJobError)
    assert outcome.error.message.endswith("interrupted; pi1.img as it was before is kept")
    assert "piflash --node pi1" in outcome.error.hint
    assert old.read_bytes() == b"the card of yesterday"
    assert not list(tmp_path.glob("*.piflash-partial"))


def test_every_error_says_what_the_card_is_and_what_to_type(tmp_path: Path, image: Image) -> None:
    stop = threading.Event()
    stop.set()
    (outcome,) = write(file_plan(tmp_path, image), stop=stop)
    assert isinstance(outcome.error, PiflashError)
    assert "no file was made" in outcome.error.message
    assert outcome.error.hint


@pytest.mark.parametrize(
    ("replaces", "says"),
    [(None, "no file was made"), (21, "my card.img as it was before is kept")],
)
def test_file_system_that_hangs_is_not_called_a_card(
    replaces: int | None, says: str, tmp_path: Path, image: Image
) -> None:
    target = ImageFile(tmp_path / "my card.img", replaces)
    stop = threading.Event()
    job = CardJob(
        plan=loopdev.make_plan(target, image),
        feed=Broadcast(stop=stop).feed(),
        progress=Log(),
        stop=stop,
        before_bootable=fail,
    )
    error = job.interrupted()
    assert "the file system does not answer (opening)" in error.message
    assert error.message.endswith(f"; {says}")
    assert shlex.split(error.hint)[-1] == str(target.path)
