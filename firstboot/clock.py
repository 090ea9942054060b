"""The wall clock: how far it can be trusted, its floor, and how it is set. Shell.

It is set back only for a founder whose time nobody vouches for. `stepped_since` is how a node
notices that somebody else set it.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Optional

from firstboot import files
from firstboot.model import Clock

TICK = 900.0  # seconds between two ticks that are kept: each is a write to the card
STEP = 60.0  # a wall clock that moved that much against the monotonic one was stepped
MAX_TICK = 64
# What systemd-timesyncd leaves once it has synchronised (systemd-timesyncd.service(8)).
SYNCHRONISED = "run/systemd/timesync/synchronized"
_STA_UNSYNC = 0x40  # timex.h; ntpd and chronyd clear it through the kernel
_TIME_ERROR = 5


class Timekeeper:
    """The clock of a node. `root`: of the file system; `tick`: the file that keeps the time."""

    def __init__(self, *, root: str, tick: str, flashed_at: float) -> None:
        self._mark = os.path.join(root, SYNCHRONISED)
        self._tick = tick
        self._flashed_at = flashed_at
        self._kept: Optional[float] = None
        self._from_peer = False
        self._difference = time.time() - time.monotonic()
        self._stepped: Optional[float] = None

    def read(self, *, certified: float) -> Clock:
        """Give the clock; `certified`: notBefore of the swarm's certificate here, or 0."""
        now, floor = time.time(), self.floor(certified=certified)
        self._notice(now)
        if self._synchronised():
            quality = "ntp"
        elif now < floor:
            quality = "none"
        else:
            quality = "peer" if self._from_peer else "floor"
        return Clock(now, quality, floor)

    def floor(self, *, certified: float) -> float:
        """Give what the time cannot be before, UTC seconds (invariant I9)."""
        return max(self._flashed_at, self._last_tick(), certified)

    def step(self, to: float) -> None:
        """Set the clock forward to a time that a peer proved. OSError if that is not allowed."""
        if to > time.time():
            time.clock_settime(time.CLOCK_REALTIME, to)
        self._from_peer = True
        self._notice(time.time())

    def fall_to_floor(self) -> None:
        """Set the clock back to its floor, where no swarm of its own holds it up."""
        time.clock_settime(time.CLOCK_REALTIME, self.floor(certified=0.0))
        self._notice(time.time())

    def raise_to_floor(self, *, certified: float) -> bool:
        """Set the clock to its floor if it is behind; say whether it was.

        Not if NTP set it: then it is the floor that is wrong.
        """
        floor = self.floor(certified=certified)
        if time.time() >= floor or self._synchronised():
            return False
        time.clock_settime(time.CLOCK_REALTIME, floor)
        self._notice(time.time())
        return True

    def stepped_since(self, since: float) -> bool:
        """Whether the clock was stepped after that monotonic time."""
        return self._stepped is not None and self._stepped > since

    def keep(self, clock: Clock) -> None:
        """Keep the time on disk now and then, if it can be trusted. OSError if the card resists.

        NTP also takes back a time that was wrong: nothing else could, as a floor never falls.
        """
        ahead = clock.time - self._last_tick()
        wrong = clock.quality == "ntp" and ahead < -TICK
        if clock.quality not in ("ntp", "peer") or (ahead < TICK and not wrong):
            return
        files.replace(self._tick, b"%d\n" % clock.time, mode=0o644)
        self._kept = clock.time

    def _last_tick(self) -> float:
        if self._kept is None:
            content = files.read(self._tick, limit=MAX_TICK) or b""
            self._kept = float(content) if content.strip().isdigit() else 0.0
        return self._kept

    def _notice(self, now: float) -> None:
        difference = now - time.monotonic()
        if abs(difference - self._difference) > STEP:
            self._stepped = time.monotonic()
        self._difference = difference

    def _synchronised(self) -> bool:
        return os.path.exists(self._mark) or _kernel_synchronised()


class _Timex(ctypes.Structure):
    """Struct timex of adjtimex(2): only the first members are read, the rest is room."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    ]


def _kernel_synchronised() -> bool:
    """ISC ntpd, chronyd and timesyncd all tell the kernel (adjtimex(2))."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC
