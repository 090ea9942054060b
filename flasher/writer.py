"""CardPlans to cards, side by side: one decompression, a thread per card, one outcome each.

Writes what the plans say and nothing else; prints nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flasher import streams
from flasher.broadcast import BUFFER, Broadcast, End, StoppedError
from flasher.cardjob import FIRST, CardJob, WriteResult
from flasher.errors import ImageError, PiflashError
from flasher.model import Image, Progress
from flasher.plan import CardPlan

# How long a card thread may take to stop before it is given up: it hangs in the kernel then.
_GRACE_SECONDS = 1.5
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one plan: exactly one of `result` and `error` is set."""

    plan: CardPlan
    result: WriteResult | None
    error: PiflashError | None


def write(
    plans: Sequence[CardPlan],
    *,
    progress: Progress,
    stop: threading.Event,
    before_bootable: Callable[[CardPlan], None],
) -> tuple[Outcome, ...]:
    """Write all plans, which share one image; gives an outcome for each, in their order.

    `before_bootable` is called once per verified card, one card at a time, before its MBR is
    written; if it raises a PiflashError, the card stays unbootable. Once `stop` is set, all cards
    are left within two seconds with an InterruptedJobError.
    """
    broadcast = Broadcast(stop=stop)
    turn = threading.Lock()

    def one_at_a_time(plan: CardPlan) -> None:
        with turn:
            before_bootable(plan)

    jobs = [CardJob(plan, broadcast.feed(), progress, stop, one_at_a_time) for plan in plans]
    threads = [_CardThread(job) for job in jobs]
    reader = threading.Thread(target=_read, args=(broadcast, plans), daemon=True)
    for thread in (reader, *threads):
        thread.start()
    _wait((reader, *threads), stop=stop)
    return tuple(thread.outcome() for thread in threads)


class _CardThread(threading.Thread):
    """Daemonic: a card that hangs in the kernel must not keep the user waiting."""

    def __init__(self, job: CardJob) -> None:
        super().__init__(name=f"card-{job.plan.node}", daemon=True)
        self._job = job
        self._outcome: Outcome | None = None

    def run(self) -> None:
        """Write the card and remember what became of it."""
        plan = self._job.plan
        try:
            self._outcome = Outcome(plan, self._job.run(), None)
        except PiflashError as error:
            self._outcome = Outcome(plan, None, error)
        finally:
            self._job.feed.leave()

    def outcome(self) -> Outcome:
        """Give the outcome; of a thread that still hangs, an InterruptedJobError."""
        if self._outcome:
            return self._outcome
        if self.is_alive():
            return Outcome(self._job.plan, None, self._job.interrupted())
        # Its traceback was printed when it died; the other cards must be reported all the same.
        return Outcome(self._job.plan, None, self._job.died())


def _wait(threads: Sequence[threading.Thread], *, stop: threading.Event) -> None:
    # Short joins, so that the main thread gets its signals.
    while not stop.is_set() and any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(_POLL_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _read(broadcast: Broadcast, plans: Sequence[CardPlan]) -> None:
    """Decompress the image once, to its end, and have its checksums checked."""
    image = plans[0].image
    result: End | PiflashError = ImageError(f"{image.id}: the reading thread died; see above")
    try:
        with streams.open_image(image) as stream:
            end = _pass_on(stream, broadcast)
            if end is not None:
                stream.finish()
                result = _check(end, image, plans)
    except StoppedError:
        result = ImageError(f"{image.id}: interrupted")
    except PiflashError as error:
        result = error
    except OSError as error:
        result = ImageError(f"{image.id}: {image.path}: cannot be read: {error.strerror}")
    finally:
        broadcast.end(result)


def _pass_on(stream: streams.ImageStream, broadcast: Broadcast) -> End | None:
    """Read the image to its end; None if every card failed before that."""
    # The first chunk is the first MiB alone, because it is written last.
    offset, wanted = 0, FIRST
    while (buffer := broadcast.buffer()) is not None:
        count = stream.readinto(memoryview(buffer)[:wanted])
        if count == 0:
            return End(offset)
        broadcast.publish(buffer, offset=offset, size=count)
        offset, wanted = offset + count, BUFFER
    return None


def _check(end: End, image: Image, plans: Sequence[CardPlan]) -> End:
    """Refuse an image that is not as long as the plans were made for."""
    needed = max(
        [
            image.size or 0,
            *(p.layout.size for p in plans),
            *(p.patch[-1].end for p in plans if p.patch),
        ]
    )
    if end.size < needed:
        raise ImageError(
            f"{image.id}: the image ends after {end.size} bytes, not {needed}: it was cut short",
            hint="download it again: piflash fetch",
        )
    return end
