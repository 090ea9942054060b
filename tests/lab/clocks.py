"""The clock of a node: a file with an offset, and the library that makes processes read it. Shell.

The machine's own clock is never set: who runs with FENCE before its command line may not.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import baseimage

SOURCE = Path(__file__).with_name("clock.c")
DAY = 86400.0
YEAR = 365.25 * DAY
# clock.c catches who asks the C library to set the clock. This stops the others.
FENCE = ("setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time")
_NS = 1_000_000_000


def build(directory: Path) -> Path:
    """Compile clock.c; give the library."""
    library = directory / "clock.so"
    options = ("-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
    # Go calls it on stacks of its own, without what a stack protector would look for.
    baseimage.run(
        "gcc", *options, "-fno-stack-protector", "-mgeneral-regs-only", "-o", library, SOURCE
    )
    return library


@dataclass(frozen=True)
class Clock:
    """A time of day that is `offset` seconds ahead of the machine's; for all who have it open."""

    path: Path

    @property
    def offset(self) -> float:
        (shift,) = struct.unpack("=q", self.path.read_bytes())
        return float(shift) / _NS

    @property
    def time(self) -> float:
        """UTC seconds."""
        return time.time() + self.offset

    def shift(self, offset: float) -> None:
        """Have it so far ahead of the machine's clock; in place, for others have it mapped."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(fd, struct.pack("=q", round(offset * _NS)), 0)
        finally:
            os.close(fd)

    def environment(self, library: Path) -> Mapping[str, str]:
        """What a program outside of the nodes needs to run by this clock."""
        return {**os.environ, "LD_PRELOAD": str(library), "PIFLASH_LAB_CLOCK": str(self.path)}
