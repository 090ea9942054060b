"""One stream to several cards: order, counting of buffers, slow and failing cards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flasher.broadcast import Broadcast, End, Feed, StoppedError
from flasher.capacity import PROBE, probe_block, probe_offsets
from flasher.errors import ImageError
from flasher.model import MIB

SIZE = 4096
# Whoever still waits after so long waits for ever; StoppedError then fails the test.
LIMIT = 2.0


@contextmanager
def made(
    readers: int, *, count: int = 3
) -> Iterator[tuple[Broadcast, list[Feed], threading.Event]]:
    stop = threading.Event()
    watchdog = threading.Timer(LIMIT, stop.set)
    watchdog.start()
    broadcast = Broadcast(stop=stop, buffer=SIZE, count=count)
    try:
        yield broadcast, [broadcast.feed() for _ in range(readers)], stop
    finally:
        watchdog.cancel()


def send(broadcast: Broadcast, chunks: int) -> int:
    """Publish numbered chunks; gives how many were taken before nobody listened."""
    for number in range(chunks):
        buffer = broadcast.buffer()
        if buffer is None:
            return number
        buffer[:4] = number.to_bytes(4, "little")
        broadcast.publish(buffer, offset=number * SIZE, size=SIZE)
    broadcast.end(End(chunks * SIZE))
    return chunks


def receive(feed: Feed, *, leave_after: int | None = None, pause: float = 0) -> list[int]:
    got: list[int] = []
    while not isinstance(chunk := feed.take(), End):
        assert chunk.offset == int.from_bytes(chunk.view[:4], "little") * SIZE
        got.append(chunk.offset // SIZE)
        time.sleep(pause)
        feed.release(chunk)
        if len(got) == leave_after:
            break
    feed.leave()
    return got


# Not shrunk: each failing example may take LIMIT.
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(
    st.integers(0, 40),
    st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_every_card_that_stays_gets_every_chunk_in_order(
    chunks: int, leaves: list[int | None], count: int
) -> None:
    results: dict[int, list[int]] = {}

    def card(number: int) -> None:
        results[number] = receive(feeds[number], leave_after=leaves[number])

    with made(len(leaves), count=count) as (broadcast, feeds, _):
        threads = [threading.Thread(target=card, args=(n,)) for n in range(len(leaves))]
        for thread in threads:
            thread.start()
        send(broadcast, chunks)
        for thread in threads:
            thread.join(2 * LIMIT)
    for number, leave in enumerate(leaves):
        whole = list(range(chunks))
        assert results[number] == (whole if leave is None else whole[:leave])
    assert len(broadcast._free) == count  # no buffer is lost


def test_slow_card_holds_the_reader_back_by_the_buffers_only() -> None:
    with made(2, count=3) as (broadcast, (fast, slow), _):
        reader = threading.Thread(target=send, args=(broadcast, 5))
        reader.start()
        for _ in range(3):
            chunk = fast.take()
            assert not isinstance(chunk, End)
            fast.release(chunk)
        reader.join(0.05)
        assert reader.is_alive()  # all three buffers wait for the slow one
        slow.leave()
        assert receive(fast) == [3, 4]
        reader.join(2 * LIMIT)
        assert not reader.is_alive()


def test_reader_ends_when_no_card_is_left() -> None:
    with made(2) as (broadcast, feeds, _):
        for feed in feeds:
            feed.leave()
        assert send(broadcast, 3) == 0


def test_failure_of_the_image_reaches_every_card_at_once() -> None:
    with made(2) as (broadcast, feeds, _):
        send(broadcast, 1)
        broadcast.end(ImageError("truncated"))
        for feed in feeds:
            with pytest.raises(ImageError, match="truncated"):
                feed.take()


def test_stop_wakes_whoever_waits() -> None:
    with made(1, count=1) as (broadcast, (feed,), stop):
        assert broadcast.buffer()
        threading.Timer(0.01, stop.set).start()
        began = time.monotonic()
        with pytest.raises(StoppedError):
            broadcast.buffer()
        with pytest.raises(StoppedError):
            feed.take()
        assert time.monotonic() - began < LIMIT / 2


# --- the probes for cards that lie about their size ---------------------------------------------


@given(st.integers(0, 1 << 38), st.integers(0, 1 << 38))
def test_probes_lie_behind_the_image_and_on_whole_blocks(begin: int, end: int) -> None:
    offsets = probe_offsets(begin, end)
    assert list(offsets) == sorted(set(offsets))
    assert all(offset % PROBE == 0 for offset in offsets)
    assert all(begin <= offset and offset + PROBE <= end for offset in offsets)
    assert len(offsets) <= 90
    if end - begin >= 2 * PROBE:
        assert offsets


@given(st.integers(27, 34), st.integers(30, 37))
def test_card_that_wraps_at_a_power_of_two_is_found(real: int, claimed: int) -> None:
    """Emulated: what is written at an offset lands at the offset modulo the real size."""
    if claimed <= real:
        return
    image_end = 100 * MIB
    memory: dict[int, bytes] = {}
    probes = {
        offset: probe_block(b"12345678", offset)
        for offset in probe_offsets(image_end, (1 << claimed) - MIB)
    }
    for offset, block in probes.items():
        memory[offset % (1 << real)] = block
    for offset in list(memory):
        if offset < image_end:
            memory[offset] = b"the image"
    assert any(memory[offset % (1 << real)] != block for offset, block in probes.items())


def test_probe_blocks_differ() -> None:
    blocks = {probe_block(b"abcdefgh", offset) for offset in range(0, 64 * PROBE, PROBE)}
    assert len(blocks) == 64
    assert {len(block) for block in blocks} == {PROBE}
