"""Bars for people, lines for logs, silence for programs."""

from __future__ import annotations

import io
import threading

import pytest

from flasher.model import Phase
from flasher.progress import Bars, Lines, Quiet, for_stream

MB = 10**6


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_chooses_by_the_stream() -> None:
    assert isinstance(for_stream(io.StringIO()), Lines)
    assert isinstance(for_stream(Terminal()), Bars)
    assert isinstance(for_stream(Terminal(), quiet=True), Quiet)


def run(stream: io.StringIO, *, total: int | None, quiet: bool = False) -> str:
    progress = for_stream(stream, quiet=quiet)
    progress.start("pi1", Phase.WRITE, total)
    for _ in range(1000):
        progress.advance("pi1", Phase.WRITE, MB)
    progress.say("half way")
    progress.finish("pi1", Phase.WRITE)
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["lines", "bars"])
def test_job_that_ends_early_is_not_called_done(stream: io.StringIO) -> None:
    progress = for_stream(stream)
    progress.start("pi3", Phase.WRITE, 1000 * MB)
    progress.advance("pi3", Phase.WRITE, 471 * MB)
    progress.advance("pi3", Phase.WRITE, 529 * MB - 1)
    progress.finish("pi3", Phase.WRITE)
    progress.start("pi3", Phase.VERIFY, 1000 * MB)
    progress.advance("pi3", Phase.VERIFY, 471 * MB)
    progress.finish("pi3", Phase.VERIFY)
    text = stream.getvalue()
    assert "pi3: writing stopped at 1000.0 MB of 1000.0 MB\n" in text
    assert "pi3: verifying stopped at 471.0 MB of 1000.0 MB\n" in text
    assert "written" not in text
    assert "read back" not in text


@pytest.mark.parametrize("total", [1000 * MB, 900 * MB, None, 0])
def test_fast_job_is_two_lines(total: int | None) -> None:
    said, summary = run(io.StringIO(), total=total).splitlines()
    assert said == "half way"
    assert summary.startswith("pi1: written 1000.0 MB in ")


def test_slow_job_tells_each_tenth_but_not_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = for_stream(stream)
    progress.start("pi1", Phase.VERIFY, 100 * MB)
    for _ in range(100):  # one percent each 0.5 s
        now[0] += 0.5
        progress.advance("pi1", Phase.VERIFY, MB)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4] == "pi1: verifying: 50 % of 100.0 MB, 2.0 MB/s, 25 s left"


def test_very_slow_job_tells_each_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = for_stream(stream)
    progress.start("x", Phase.DOWNLOAD, None)
    for _ in range(60):
        now[0] += 1
        progress.advance("x", Phase.DOWNLOAD, MB)
    assert stream.getvalue().splitlines()[-1] == "x: downloading: 60.0 MB, 1.0 MB/s"
    assert len(stream.getvalue().splitlines()) == 6


def test_quiet_says_only_what_is_said() -> None:
    assert run(io.StringIO(), total=5, quiet=True) == "half way\n"


def test_bars_of_several_cards_leave_a_line_each() -> None:
    stream = Terminal()
    progress = for_stream(stream)

    def card(node: str) -> None:
        for phase in (Phase.WRITE, Phase.VERIFY):
            progress.start(node, phase, 100 * MB)
            for _ in range(100):
                progress.advance(node, phase, MB)
            progress.finish(node, phase)

    threads = [threading.Thread(target=card, args=(f"pi{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = stream.getvalue()
    for number in range(4):
        assert f"pi{number}: written 100.0 MB" in text
        assert f"pi{number}: read back 100.0 MB" in text


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["lines", "bars"])
def test_finishing_what_never_began_is_no_error(stream: io.StringIO) -> None:
    for_stream(stream).finish("pi1", Phase.WRITE)
