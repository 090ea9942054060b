"""One card, from the claim to the release: the order that keeps it unbootable until it is right.

erase the MBR, write all but the first MiB, read it back, record the delivery, write the first MiB.
"""

from __future__ import annotations

import enum
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from shlex import quote

import xxhash

from flasher.broadcast import BUFFER, Chunk, End, Feed, StoppedError
from flasher.capacity import PROBE, probe_block, probe_offsets
from flasher.cardio import GONE
from flasher.claim import Claimed, claim
from flasher.errors import (
    DeviceRefusedError,
    InterruptedJobError,
    PiflashError,
    VerifyError,
    WriteError,
)
from flasher.model import MIB, BlockDevice, Phase, Progress
from flasher.plan import CardPlan, target_name

FIRST = MIB
# The MBR's own block is the very last to be written: one block is there or not.
_MBR = 4096
# Small enough to name the place of a difference, large enough to cost nothing.
_DIGESTED = 64 << 10
_ZEROS = mmap.mmap(-1, MIB)


@dataclass(frozen=True)
class WriteResult:
    """What was done to a card that is now complete. Sizes in bytes."""

    bytes_written: int
    bytes_verified: int
    seconds_write: float
    seconds_verify: float


class State(enum.Enum):
    """What a card is at a moment, in words for its owner."""

    UNTOUCHED = "nothing was written to it"
    ERASING = "what was on it may be damaged"
    UNBOOTABLE = "it does not boot now"
    UNKNOWN = "it may or may not boot now: do not use it"
    COMPLETE = "it is complete"


@dataclass(frozen=True)
class _Written:
    """A stretch that was written, by the digests of its blocks."""

    offset: int
    size: int
    digests: tuple[bytes, ...]


class _Pace:
    """How much to hand to the card at once: enough for speed, little enough to stop soon."""

    def __init__(self) -> None:
        self.step = 256 << 10

    def took(self, seconds: float) -> None:
        if seconds > 0.25:
            self.step = max(self.step // 2, 64 << 10)
        elif seconds < 0.05:
            self.step = min(self.step * 2, BUFFER)


@dataclass
class CardJob:
    """The writing of one card; run() once, in a thread of its own. `state` can be read any time."""

    plan: CardPlan
    feed: Feed
    progress: Progress
    stop: threading.Event
    before_bootable: Callable[[CardPlan], None]
    state: State = State.UNTOUCHED
    _doing: str = "opening"
    _written: list[_Written] = field(default_factory=list)
    _pace: _Pace = field(default_factory=_Pace)
    _own: memoryview = field(default_factory=lambda: memoryview(mmap.mmap(-1, BUFFER)))
    _first: memoryview = field(default_factory=lambda: memoryview(b""))
    _next_run: int = 0

    def run(self) -> WriteResult:
        """Write the card. A PiflashError says what the card is now."""
        try:
            with claim(self.plan) as card:
                return self._run(card)
        except StoppedError:
            raise self._told(InterruptedJobError(f"{self._who}: interrupted")) from None
        except OSError as error:
            raise self._told(self._write_error(error)) from None
        except PiflashError as error:
            raise self._told(error) from None

    def interrupted(self) -> InterruptedJobError:
        """Give the error of a card that no longer answers and cannot be waited for."""
        what = "card" if isinstance(self.plan.target, BlockDevice) else "file system"
        doing = f"{self._who}: interrupted, and the {what} does not answer ({self._doing})"
        error = self._told(InterruptedJobError(doing))
        assert isinstance(error, InterruptedJobError)  # noqa: S101 - for the type checker
        return error

    def died(self) -> PiflashError:
        """Give the error of a card whose thread ended by a bug, or for want of memory."""
        what = f"{self._who}: the writing broke off while {self._doing}; see the lines above"
        return self._told(WriteError(what))

    def _run(self, card: Claimed) -> WriteResult:
        began = time.monotonic()
        self._refuse_too_small(card)
        self._erase(card)
        probes = self._place_probes(card) if self.plan.verify else {}
        size = self._stream(card)
        wrote = time.monotonic()
        if self.plan.verify:
            self._check_probes(card, probes, size=size)
            self._verify(card)
        checked = time.monotonic()
        self._doing = "recording the delivery"
        self.before_bootable(self.plan)
        if self.stop.is_set():  # it may have waited long for another card's turn
            raise StoppedError
        self._make_bootable(card)
        if card.size is None:
            os.ftruncate(card.io.fd, size)
        card.keep()
        self.state = State.COMPLETE
        return WriteResult(
            bytes_written=size,
            bytes_verified=size if self.plan.verify else 0,
            seconds_write=wrote - began,
            seconds_verify=checked - wrote,
        )

    # --- before the stream ----------------------------------------------------------------------

    def _refuse_too_small(self, card: Claimed) -> None:
        if card.size is not None and card.size < self.plan.size:
            raise DeviceRefusedError(
                f"{card.name}: has {card.size} bytes, the image needs {self.plan.size}",
                hint="use a larger card",
            )

    def _erase(self, card: Claimed) -> None:
        """From here on there is no MBR, and no GPT that a tool could revive from its copy."""
        if card.size is None:
            return
        if self.stop.is_set():
            raise StoppedError
        self._doing = "erasing the old partition table"
        self.state = State.ERASING
        zeros = memoryview(_ZEROS)
        card.io.write(0, zeros[:_MBR])
        card.io.sync()
        self.state = State.UNBOOTABLE
        self._put(card, _MBR, zeros[: min(FIRST, card.size) - _MBR])
        last = max(FIRST, card.size - MIB)
        self._put(card, last, zeros[: max(0, card.size - last)])
        card.io.sync()

    def _place_probes(self, card: Claimed) -> dict[int, bytes]:
        if card.size is None:
            return {}
        self._doing = "probing the card's size"
        nonce = os.urandom(8)
        offsets = probe_offsets(max(self.plan.size, FIRST), card.size - MIB)
        probes = {offset: probe_block(nonce, offset) for offset in offsets}
        for offset, block in probes.items():
            self._own[:PROBE] = block
            self._put(card, offset, self._own[:PROBE])
        return probes

    # --- the stream -----------------------------------------------------------------------------

    def _stream(self, card: Claimed) -> int:
        self.progress.start(self.plan.node, Phase.WRITE, self.plan.size)
        try:
            while not isinstance(got := self.feed.take(), End):
                try:
                    self._take(card, got)
                finally:
                    self.feed.release(got)
            self._written += self._last_zeros(card, image_end=got.size)
            self._doing = "waiting until the card has it all"
            if card.size is None:  # the image may end in holes
                os.ftruncate(card.io.fd, -(-got.size // card.io.sector) * card.io.sector)
            card.io.sync()
            return got.size
        finally:
            self.progress.finish(self.plan.node, Phase.WRITE)

    def _take(self, card: Claimed, chunk: Chunk) -> None:
        view = self._patched(chunk, sector=card.io.sector)
        if card.size is not None and chunk.offset + len(view) > card.size:
            raise WriteError(
                f"{self._who}: the image is longer than the card ({card.size} bytes)",
                hint="use a larger card",
            )
        if chunk.offset == 0:
            self._first = memoryview(mmap.mmap(-1, FIRST))[: len(view)]
            self._first[:] = view
            self.progress.advance(self.plan.node, Phase.WRITE, len(view))
            return
        self._put(card, chunk.offset, view, phase=Phase.WRITE)
        self._written.append(_Written(chunk.offset, len(view), _digests(view)))

    def _patched(self, chunk: Chunk, *, sector: int) -> memoryview:
        """Give the chunk with this card's own bytes in it, and whole sectors."""
        size = len(chunk.view)
        padded = -(-size // sector) * sector
        end = chunk.offset + size
        runs = self.plan.patch
        begins = self._next_run
        while self._next_run < len(runs) and runs[self._next_run].end <= end:
            self._next_run += 1
        here = runs[begins : self._next_run + 1]
        here = tuple(run for run in here if run.offset < end)
        if not here and padded == size:
            return chunk.view
        own = self._own[:padded]
        own[:size] = chunk.view
        own[size:] = bytes(padded - size)
        for run in here:
            low, high = max(run.offset, chunk.offset), min(run.end, end)
            own[low - chunk.offset : high - chunk.offset] = run.data[
                low - run.offset : high - run.offset
            ]
        return own

    def _last_zeros(self, card: Claimed, *, image_end: int) -> list[_Written]:
        # A stale GPT copy in the last MiB must be gone as surely as the image is there.
        if card.size is None:
            return []
        sector = card.io.sector
        begin = max(-(-image_end // sector) * sector, card.size - MIB, FIRST)
        size = card.size - begin
        return [_Written(begin, size, _digests(memoryview(_ZEROS)[:size]))] if size > 0 else []

    # --- after the stream -----------------------------------------------------------------------

    def _check_probes(self, card: Claimed, probes: dict[int, bytes], *, size: int) -> None:
        self._doing = "checking the card's size"
        card.io.forget_cache()
        left = {offset: block for offset, block in probes.items() if offset >= size}
        view = self._own[:PROBE]
        for offset, block in left.items():
            self._get(card, offset, view)
            if view != block:
                # A card that wraps may have put any part of the image there.
                self._make_unbootable(card)
                raise VerifyError(
                    f"{self._who}: the card says it has {card.size} bytes, but what was written at "
                    f"offset {offset} is not there: it is a fake, or broken",
                    hint=f"throw it away and use another card. {self._again}",
                )
        for offset in left:
            self._put(card, offset, memoryview(_ZEROS)[:PROBE])

    def _verify(self, card: Claimed) -> None:
        total = sum(part.size for part in self._written)
        self.progress.start(self.plan.node, Phase.VERIFY, total)
        try:
            card.io.forget_cache()
            for part in self._written:
                view = self._own[: part.size]
                self._get(card, part.offset, view, phase=Phase.VERIFY)
                self._compare(part, view)
        except VerifyError:
            # What a broken card shows somewhere else now may be at its beginning.
            self._make_unbootable(card)
            raise
        finally:
            self.progress.finish(self.plan.node, Phase.VERIFY)

    def _compare(self, part: _Written, view: memoryview) -> None:
        for number, (found, wanted) in enumerate(zip(_digests(view), part.digests, strict=True)):
            if found != wanted:
                raise self._differs(part.offset + number * _DIGESTED)

    def _differs(self, offset: int) -> VerifyError:
        return VerifyError(
            f"{self._who}: what was read back differs from what was written, first in the "
            f"{_DIGESTED >> 10} KiB at offset {offset}",
            hint=f"the card or its reader is broken: use another. {self._again}",
        )

    def _make_bootable(self, card: Claimed) -> None:
        self._doing = "writing the first MiB"
        self.state = State.UNKNOWN
        try:
            # Twice, because nothing may boot before all of it has been read back.
            mbr = min(_MBR, len(self._first))
            for begin, end in ((mbr, len(self._first)), (0, mbr)):
                card.io.write(begin, self._first[begin:end])
                card.io.sync()
                if self.plan.verify:
                    self._check_first(card, begin, end)
        except (OSError, VerifyError):
            self._make_unbootable(card)
            raise

    def _make_unbootable(self, card: Claimed) -> None:
        self.state = State.UNKNOWN
        with suppress(OSError):
            card.io.write(0, memoryview(_ZEROS)[:_MBR])
            card.io.sync()
            self.state = State.UNBOOTABLE

    def _check_first(self, card: Claimed, begin: int, end: int) -> None:
        card.io.forget_cache()
        view = self._own[: end - begin]
        card.io.read(begin, view)
        if view != self._first[begin:end]:
            raise self._differs(begin)

    # --- bytes and words ------------------------------------------------------------------------

    def _put(
        self, card: Claimed, offset: int, view: memoryview, *, phase: Phase | None = None
    ) -> None:
        self._move(card.io.write, offset, view, "writing", phase)

    def _get(
        self, card: Claimed, offset: int, view: memoryview, *, phase: Phase | None = None
    ) -> None:
        self._move(card.io.read, offset, view, "reading back", phase)

    def _move(
        self,
        move: Callable[[int, memoryview], None],
        offset: int,
        view: memoryview,
        doing: str,
        phase: Phase | None,
    ) -> None:
        done = 0
        while done < len(view):
            if self.stop.is_set():
                raise StoppedError
            piece = view[done : done + self._pace.step]
            self._doing = f"{doing} at offset {offset + done}"
            began = time.monotonic()
            move(offset + done, piece)
            self._pace.took(time.monotonic() - began)
            done += len(piece)
            if phase:
                self.progress.advance(self.plan.node, phase, len(piece))

    @property
    def _who(self) -> str:
        return target_name(self.plan.target)

    @property
    def _again(self) -> str:
        return f"Then: piflash --node {self.plan.node} {quote(self._who)}"

    def _told(self, error: PiflashError) -> PiflashError:
        """Give the error with what the card is now."""
        if isinstance(self.plan.target, BlockDevice):
            state = self.state.value
        elif self.plan.target.replaces is None:
            state = "no file was made"
        else:
            state = f"{self.plan.target.path.name} as it was before is kept"
        return type(error)(f"{error.message}; {state}", hint=error.hint or self._again)

    def _write_error(self, error: OSError) -> WriteError:
        if not isinstance(self.plan.target, BlockDevice):
            hint = f"free space: df -h {quote(str(self.plan.target.path.parent))}"
        elif error.errno in GONE:
            hint = f"the card was pulled out; put it back. {self._again}"
        elif error.errno == errno.ENOSPC:
            hint = f"the card is smaller than it says: use another. {self._again}"
        else:
            hint = f"the card or its reader is broken, or it was pulled out. {self._again}"
        return WriteError(f"{self._who}: {self._doing}: {error.strerror}", hint=hint)


def _digests(view: memoryview) -> tuple[bytes, ...]:
    return tuple(
        xxhash.xxh3_128_digest(view[begin : begin + _DIGESTED])
        for begin in range(0, len(view), _DIGESTED)
    )
