"""Broken, lying, slow, hanging and pulled cards: nbdkit's filters behind a loop device."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flasher import devices
from flasher.errors import InterruptedJobError, VerifyError, WriteError
from flasher.model import MIB, Image, Phase
from flasher.plan import CardPlan
from tests.support import loopdev
from tests.support.tools import need, need_file, need_root
from tests.unit.test_writer import Log, fail, write

SIZE = 16 * MIB
CARD = 64 * MIB
DATA = loopdev.image_bytes(SIZE)

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _tools() -> None:
    need_root()
    need("losetup", "nbdkit", "nbdfuse", "umount")
    need_file("/dev/fuse")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return loopdev.make_image(tmp_path, DATA)


@dataclass(frozen=True)
class Faulty:
    """A card behind nbdkit. `trigger`: while it exists, the error filter fails requests."""

    device: str
    server: subprocess.Popen[bytes]
    trigger: Path
    memory: Path

    def raw(self, size: int, *, offset: int = 0) -> bytes:
        """Give what the card's memory holds, whatever the device says."""
        with self.memory.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def faulty(tmp: Path, *argv: str, filters: tuple[str, ...] = ("error",)) -> Iterator[Faulty]:
    """Serve a memory file with nbdkit, mount it as a file with nbdfuse, attach a loop device."""
    memory = tmp / "memory"
    if not memory.exists():
        memory.write_bytes(b"\xa5" * CARD)
    socket, point = tmp / "nbd.sock", tmp / "disk"
    point.touch()
    chain = [f"--filter={name}" for name in filters]
    plugin = argv if argv[:1] == ("eval",) else ("file", str(memory), *argv)
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(["nbdkit", "-f", "-U", socket, *chain, *plugin])
        )
        stack.callback(server.kill)
        stack.callback(server.send_signal, signal.SIGCONT)
        wait_for(socket.exists)
        fuse = stack.enter_context(subprocess.Popen(["nbdfuse", point, "--unix", socket]))
        stack.callback(fuse.kill)
        stack.callback(subprocess.run, ["umount", "--lazy", point], timeout=30, check=False)
        wait_for(lambda: point.stat().st_size == CARD)
        # Without direct I/O the loop device would answer from the page cache of the FUSE file.
        device = stack.enter_context(loopdev.loop(point, "--direct-io=on"))
        yield Faulty(device, server, tmp / "trigger", memory)


def error_filter(tmp: Path, *, on: str, kind: str = "EIO") -> tuple[str, ...]:
    return (f"error-{on}={kind}", f"error-{on}-rate=100%", f"error-{on}-file={tmp / 'trigger'}")


def plan_for(device: str, image: Image, node: str = "pi1") -> CardPlan:
    return loopdev.make_plan(devices.examine(device), image, node=node)


def after(phase: Phase, count: int, act: Callable[[], object], node: str = "pi1") -> Log:
    """Give a Progress that acts once `count` bytes of a phase are done."""
    progress = Log()
    acted: list[bool] = []

    def on_advance(what: str, now: Phase) -> None:
        if not acted and (what, now) == (node, phase) and progress.total(node, phase) >= count:
            acted.append(True)
            act()

    progress.on_advance = on_advance
    return progress


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "on", "text"),
    [(Phase.WRITE, "pwrite", "writing at offset"), (Phase.VERIFY, "pread", "reading back")],
    ids=["write", "verify"],
)
def test_io_error_of_one_card_leaves_it_unbootable_and_the_other_right(
    phase: Phase, on: str, text: str, tmp_path: Path, image: Image
) -> None:
    with (
        loopdev.card(tmp_path) as good,
        faulty(tmp_path, *error_filter(tmp_path, on=on)) as bad,
    ):
        progress = after(phase, 6 * MIB, bad.trigger.touch)
        outcomes = write(
            plan_for(bad.device, image), plan_for(good, image, "pi2"), progress=progress
        )
        assert isinstance(outcomes[0].error, WriteError)
        assert text in outcomes[0].error.message
        assert "Input/output error; it does not boot now" in outcomes[0].error.message
        assert f"piflash --node pi1 {bad.device}" in outcomes[0].error.hint
        assert bad.raw(MIB) == bytes(MIB)
        assert outcomes[1].error is None
        assert loopdev.read_card(good, SIZE) == DATA


def test_io_error_of_the_first_write_does_not_claim_that_the_card_is_dead(
    tmp_path: Path, image: Image
) -> None:
    with faulty(tmp_path, *error_filter(tmp_path, on="pwrite")) as bad:
        bad.trigger.touch()
        (outcome,) = write(plan_for(bad.device, image), before=fail)
        assert isinstance(outcome.error, WriteError)
        assert "may be damaged" in outcome.error.message


def test_io_error_of_the_last_write_says_that_the_card_is_not_to_be_used(
    tmp_path: Path, image: Image
) -> None:
    with faulty(tmp_path, *error_filter(tmp_path, on="pwrite")) as bad:
        plan = plan_for(bad.device, image)
        (outcome,) = write(plan, before=lambda plan: bad.trigger.touch())
        assert isinstance(outcome.error, WriteError)
        assert "may or may not boot now: do not use it" in outcome.error.message
        assert bad.raw(4096) == bytes(4096)


def test_io_error_of_the_last_reading_erases_the_mbr_again(tmp_path: Path, image: Image) -> None:
    with faulty(tmp_path, *error_filter(tmp_path, on="pread")) as bad:
        plan = plan_for(bad.device, image)
        (outcome,) = write(plan, before=lambda plan: bad.trigger.touch())
        assert isinstance(outcome.error, WriteError)
        assert "it does not boot now" in outcome.error.message
        assert bad.raw(4096) == bytes(4096)


# --- pulled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.WRITE, Phase.VERIFY])
def test_pulled_card_fails_alone_and_has_no_mbr(phase: Phase, tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as good, faulty(tmp_path) as bad:
        progress = after(phase, 6 * MIB, bad.server.kill)
        began = time.monotonic()
        outcomes = write(
            plan_for(bad.device, image), plan_for(good, image, "pi2"), progress=progress
        )
        assert time.monotonic() - began < 20
        assert isinstance(outcomes[0].error, WriteError)
        assert "it does not boot now" in outcomes[0].error.message
        assert "pulled out" in outcomes[0].error.hint
        assert outcomes[1].error is None
        assert loopdev.read_card(good, SIZE) == DATA
        assert bad.raw(MIB) == bytes(MIB)


# --- fake capacity ------------------------------------------------------------------------------

# nbdkit-eval runs a shell script per request: $3 is the count, $4 the offset.


def fake(memory: Path, *, real: int, beyond: str) -> tuple[str, ...]:
    """Give a card of CARD bytes that has `real` of them; `beyond`: what happens to the rest."""
    dd_in = f"dd if={memory} skip=$at count=$3 iflag=skip_bytes,count_bytes status=none"
    dd_out = f"dd of={memory} seek=$at oflag=seek_bytes conv=notrunc status=none"
    lost = {
        "wraps": (f"at=$(($4 % {real}))", f"at=$(($4 % {real}))"),
        "vanishes": (
            f"at=$4; if [ $4 -ge {real} ]; then cat >/dev/null; exit 0; fi",
            f"at=$4; if [ $4 -ge {real} ]; then head -c $3 /dev/zero; exit 0; fi",
        ),
        "fails": (
            f"at=$4; if [ $4 -ge {real} ]; then echo ENOSPC no room >&2; exit 1; fi",
            "at=$4",
        ),
    }[beyond]
    return (
        "eval",
        "get_size=echo " + str(CARD),
        "can_write=exit 0",
        "can_flush=exit 0",
        "flush=exit 0",
        f"pwrite={lost[0]}; {dd_out}",
        f"pread={lost[1]}; {dd_in}",
    )


@pytest.mark.parametrize("beyond", ["wraps", "vanishes"])
@pytest.mark.parametrize("real", [32 * MIB, 8 * MIB], ids=["holds the image", "does not"])
def test_card_of_fake_capacity_is_found(
    real: int, beyond: str, tmp_path: Path, image: Image
) -> None:
    with faulty(tmp_path, *fake(tmp_path / "memory", real=real, beyond=beyond), filters=()) as bad:
        (outcome,) = write(plan_for(bad.device, image), before=fail)
        assert isinstance(outcome.error, VerifyError)
        assert "it is a fake, or broken" in outcome.error.message
        assert "it does not boot now" in outcome.error.message
        assert bad.raw(2, offset=510) == bytes(2)


def test_card_that_fails_behind_its_real_size_is_found(tmp_path: Path, image: Image) -> None:
    with faulty(
        tmp_path, *fake(tmp_path / "memory", real=32 * MIB, beyond="fails"), filters=()
    ) as bad:
        (outcome,) = write(plan_for(bad.device, image), before=fail)
        assert isinstance(outcome.error, WriteError)
        assert "it does not boot now" in outcome.error.message
        assert bad.raw(2, offset=510) == bytes(2)


# --- slow and hanging ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "delay"), [(Phase.WRITE, "wdelay=100ms"), (Phase.VERIFY, "rdelay=100ms")]
)
def test_interrupt_of_a_slow_card_takes_less_than_two_seconds(
    phase: Phase, delay: str, tmp_path: Path, image: Image
) -> None:
    stop = threading.Event()
    stopped: list[float] = []

    def interrupt() -> None:
        stopped.append(time.monotonic())
        stop.set()

    with faulty(tmp_path, delay, filters=("delay",)) as slow:
        progress = after(phase, 2 * MIB, interrupt)
        (outcome,) = write(plan_for(slow.device, image), progress=progress, stop=stop, before=fail)
        took = time.monotonic() - stopped[0]
        assert took < 2
        assert isinstance(outcome.error, InterruptedJobError)
        assert "it does not boot now" in outcome.error.message
        assert slow.raw(MIB) == bytes(MIB)


def test_interrupt_does_not_wait_for_a_card_that_hangs(tmp_path: Path, image: Image) -> None:
    stop = threading.Event()
    with faulty(tmp_path) as hung:

        def hang() -> None:
            hung.server.send_signal(signal.SIGSTOP)
            threading.Timer(0.5, stop.set).start()

        began = time.monotonic()
        progress = after(Phase.WRITE, 6 * MIB, hang)
        (outcome,) = write(plan_for(hung.device, image), progress=progress, stop=stop, before=fail)
        assert time.monotonic() - began < 10
        assert isinstance(outcome.error, InterruptedJobError)
        assert "does not answer (writing at offset" in outcome.error.message
        assert "it does not boot now" in outcome.error.message
        hung.server.send_signal(signal.SIGCONT)
        wait_for(lambda: not [t for t in threading.enumerate() if t.name == "card-pi1"])
        assert hung.raw(MIB) == bytes(MIB)


def test_slow_card_gets_there_beside_a_fast_one(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as fast, faulty(tmp_path, "wdelay=5ms", filters=("delay",)) as slow:
        outcomes = write(plan_for(slow.device, image), plan_for(fast, image, "pi2"))
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert slow.raw(SIZE) == DATA
        assert loopdev.read_card(fast, SIZE) == DATA
