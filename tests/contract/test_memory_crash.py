"""The node's memory is old or new after a kill at any step (invariant I8)."""

from __future__ import annotations

import itertools
from pathlib import Path

from firstboot import memory
from firstboot.model import Memory
from tests.support import crash

ONE, TWO, THREE = (Memory(number, number, number, number, {"pi1": number}) for number in (1, 2, 3))
LOST = Memory(epoch=9)


def test_memory_is_old_or_new_after_a_kill_at_any_step(tmp_path: Path) -> None:
    for at in itertools.count():
        path = str(tmp_path / f"{at}" / "memory")
        Path(path).parent.mkdir()
        memory.keep(path, ONE)
        memory.keep(path, TWO)

        def job(announce: crash.Announce, path: str = path) -> None:
            memory.keep(path, THREE)
            announce("kept")

        run = crash.run_and_kill(job, at=at)
        left, complaint = memory.load(path, lost=LOST)
        assert complaint == ""
        assert left == THREE if run.said else left in (TWO, THREE)
        # And the next one is kept over whatever is left lying there.
        memory.keep(path, ONE)
        assert memory.load(path, lost=LOST) == (ONE, "")
        if not run.killed:
            break
    assert at > 20
