"""Shows how far a long job is: tqdm bars on a terminal, plain lines elsewhere. Knows no cards."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TextIO, cast

from tqdm import tqdm

from flasher.model import Phase, Progress

_SECONDS_BETWEEN_LINES = 10.0
_LEAST_SECONDS_BETWEEN_LINES = 1.0
_DOING = {Phase.DOWNLOAD: "downloading", Phase.WRITE: "writing", Phase.VERIFY: "verifying"}
_DONE = {Phase.DOWNLOAD: "downloaded", Phase.WRITE: "written", Phase.VERIFY: "read back"}

_Key = tuple[str, Phase]


def for_stream(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """Give bars if the stream (default: standard error) is a terminal, else lines.

    `quiet`: only say() is shown, for jobs whose result is read by a program.
    """
    # cast: it passes on whatever else of TextIO is asked for.
    out = cast("TextIO", _Forgiving(sys.stderr if stream is None else stream))
    if quiet:
        return Quiet(out)
    return Bars(out) if out.isatty() else Lines(out)


class _Forgiving:
    """A stream that nobody has to read: a card is written to its end whoever left the pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class Quiet:
    """Shows no figures."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        """Show nothing."""

    def advance(self, what: str, phase: Phase, count: int) -> None:
        """Show nothing."""

    def finish(self, what: str, phase: Phase) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Print one line."""
        print(line, file=self._stream, flush=True)


@dataclass
class _Count:
    """What was counted of one job, and what was told of it."""

    total: int | None
    begun: float
    told: float
    done: int = 0
    tenths: int = 0

    def rate(self, now: float) -> float:
        return self.done / max(now - self.begun, 1e-3)


class Lines:
    """Prints a line at most every second: at each tenth of the whole, or every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._counts: dict[_Key, _Count] = {}

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        """Begin counting."""
        now = time.monotonic()
        with self._lock:
            self._counts[what, phase] = _Count(total, now, now)

    def advance(self, what: str, phase: Phase, count: int) -> None:
        """Count, and print a line if one is due."""
        now = time.monotonic()
        with self._lock:
            job = self._counts[what, phase]
            job.done += count
            tenths = job.done * 10 // job.total if job.total else 0
            quiet_for = now - job.told
            if tenths > job.tenths and quiet_for >= _LEAST_SECONDS_BETWEEN_LINES:
                due = True
            else:
                due = quiet_for >= _SECONDS_BETWEEN_LINES
            if not due:
                return
            job.told, job.tenths = now, tenths
            self._print(f"{what}: {_DOING[phase]}: {_far(job, now)}")

    def finish(self, what: str, phase: Phase) -> None:
        """Print what was reached."""
        now = time.monotonic()
        with self._lock:
            job = self._counts.pop((what, phase), None)
            if job:
                self._print(_summary(what, phase, job.done, job.total, now - job.begun))

    def say(self, line: str) -> None:
        """Print one line."""
        with self._lock:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bars:
    """One bar per job, below each other; a finished one becomes a line above them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._bars: dict[_Key, tqdm[NoReturn]] = {}
        self._begun: dict[_Key, float] = {}

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        """Draw a bar at the first free line."""
        with self._lock:
            taken = {-bar.pos for bar in self._bars.values()} if self._bars else set()
            free = next(line for line in range(len(taken) + 1) if line not in taken)
            self._begun[what, phase] = time.monotonic()
            self._bars[what, phase] = tqdm(
                desc=f"{what} {_DOING[phase]}",
                total=total,
                unit="B",
                unit_scale=True,
                position=free,
                leave=False,
                dynamic_ncols=True,
                file=self._stream,
            )

    def advance(self, what: str, phase: Phase, count: int) -> None:
        """Lengthen the bar."""
        with self._lock:
            self._bars[what, phase].update(count)

    def finish(self, what: str, phase: Phase) -> None:
        """Take the bar away and leave a line."""
        with self._lock:
            bar = self._bars.pop((what, phase), None)
            if bar is None:
                return
            took = time.monotonic() - self._begun.pop((what, phase))
            bar.close()
            line = _summary(what, phase, int(bar.n), bar.total, took)
            tqdm.write(line, file=self._stream)

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        with self._lock:
            tqdm.write(line, file=self._stream)


def _far(job: _Count, now: float) -> str:
    rate = job.rate(now)
    if not job.total:
        return f"{_mb(job.done)} MB, {_mb(rate)} MB/s"
    left = max(job.total - job.done, 0) / max(rate, 1)
    return (
        f"{min(100, job.done * 100 // job.total)} % of {_mb(job.total)} MB, {_mb(rate)} MB/s, "
        f"{left:.0f} s left"
    )


def _summary(what: str, phase: Phase, done: int, total: float | None, seconds: float) -> str:
    if total and done < total:
        return f"{what}: {_DOING[phase]} stopped at {_mb(done)} MB of {_mb(total)} MB"
    rate = done / max(seconds, 1e-3)
    return f"{what}: {_DONE[phase]} {_mb(done)} MB in {seconds:.1f} s ({_mb(rate)} MB/s)"


def _mb(count: float) -> str:
    return f"{count / 1e6:.1f}"
