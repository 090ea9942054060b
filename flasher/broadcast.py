"""One decompressed stream to several cards: a small pool of page-aligned buffers, counted.

A slow card holds the others back only when all buffers wait for it; one that fails lets go of its
own. Knows no cards and no images.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from dataclasses import dataclass, field

from flasher.errors import PiflashError

BUFFER = 4 << 20
# Six buffers: the reader fills one while each of two cards writes another, with two to spare.
BUFFERS = 6
# How soon a waiting thread notices that the job was stopped.
_POLL_SECONDS = 0.1


class StoppedError(Exception):
    """The user stopped the job while a thread waited. Never leaves the writer."""


@dataclass
class Chunk:
    """Consecutive bytes of the image. `view` is valid until the chunk is released."""

    offset: int
    view: memoryview
    _buffer: mmap.mmap = field(repr=False)
    _readers: int = 0


@dataclass(frozen=True)
class End:
    """The stream ended well; `size` is that of the whole image."""

    size: int


class Feed:
    """One card's side of the broadcast."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self.waiting: deque[Chunk] = deque()
        self.gone = False

    def take(self) -> Chunk | End:
        """Wait for the next chunk, which must be released. PiflashError if the image failed."""
        return self._broadcast.take(self)

    def release(self, chunk: Chunk) -> None:
        """Give the chunk's buffer back once no other card needs it."""
        self._broadcast.release(chunk)

    def leave(self) -> None:
        """Take no more chunks; the other cards go on."""
        self._broadcast.leave(self)


class Broadcast:
    """Joins one reading thread and several card threads."""

    def __init__(
        self, *, stop: threading.Event, buffer: int = BUFFER, count: int = BUFFERS
    ) -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._free = [mmap.mmap(-1, buffer) for _ in range(count)]
        self._feeds: list[Feed] = []
        self._end: End | PiflashError | None = None

    def feed(self) -> Feed:
        """Add a card; before the first chunk only."""
        feed = Feed(self)
        self._feeds.append(feed)
        return feed

    def buffer(self) -> mmap.mmap | None:
        """Wait for a free buffer to read into; None when no card takes part any more."""
        with self._changed:
            while self._listeners():
                if self._free:
                    return self._free.pop()
                self._wait()
            return None

    def publish(self, buffer: mmap.mmap, *, offset: int, size: int) -> None:
        """Give the first `size` bytes of a buffer to every card."""
        view = memoryview(buffer)[:size]
        with self._changed:
            listeners = self._listeners()
            chunk = Chunk(offset, view, buffer, len(listeners))
            for feed in listeners:
                feed.waiting.append(chunk)
            if not listeners:
                self._recycle(chunk)
            self._changed.notify_all()

    def end(self, result: End | PiflashError) -> None:
        """Tell every card that the image ended, or why it cannot be read on."""
        with self._changed:
            self._end = result
            self._changed.notify_all()

    def take(self, feed: Feed) -> Chunk | End:
        """Wait for a feed's next chunk."""
        with self._changed:
            while True:
                if self._stop.is_set():
                    raise StoppedError
                if isinstance(self._end, PiflashError):
                    raise self._end
                if feed.waiting:
                    return feed.waiting.popleft()
                if self._end is not None:
                    return self._end
                self._wait()

    def release(self, chunk: Chunk) -> None:
        """Count one card less that needs the chunk."""
        with self._changed:
            self._drop(chunk)

    def leave(self, feed: Feed) -> None:
        """Forget a feed and what waits in it."""
        with self._changed:
            feed.gone = True
            while feed.waiting:
                self._drop(feed.waiting.popleft())
            self._changed.notify_all()

    def _listeners(self) -> list[Feed]:
        return [feed for feed in self._feeds if not feed.gone]

    def _drop(self, chunk: Chunk) -> None:
        chunk._readers -= 1
        if chunk._readers == 0:
            self._recycle(chunk)

    def _recycle(self, chunk: Chunk) -> None:
        chunk.view.release()
        self._free.append(chunk._buffer)
        self._changed.notify_all()

    def _wait(self) -> None:
        if self._stop.is_set():
            raise StoppedError
        self._changed.wait(_POLL_SECONDS)
