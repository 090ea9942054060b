from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstboot import memory
from firstboot.model import Memory

numbers = st.integers(0, 10**9)
memories = st.builds(
    Memory,
    epoch=numbers,
    founding=numbers,
    founded=numbers,
    swarm_epoch=numbers,
    seen=st.dictionaries(st.from_regex("[a-z][a-z0-9-]{0,20}", fullmatch=True), numbers),
)
LOST = Memory(epoch=0, founded=3, swarm_epoch=3)
ONE, TWO = Memory(1, 1, 1, 1, {"pi1": 1}), Memory(2, 2, 2, 2, {"pi1": 2})


@settings(deadline=None)
@given(memories)
def test_what_is_kept_comes_back(kept: Memory) -> None:
    assert memory.parse(memory.dump(kept)) == kept


@settings(deadline=None)
@given(memories, st.data())
def test_a_byte_that_is_another_is_noticed(kept: Memory, data: st.DataObject) -> None:
    content = bytearray(memory.dump(kept))
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= data.draw(st.integers(1, 255))
    assert memory.parse(bytes(content)) is None


def test_nothing_was_kept_yet(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory.begin(str(path))
    assert memory.load(str(path), lost=LOST) == (Memory(epoch=0), "")
    memory.keep(str(path), ONE)
    memory.begin(str(path))
    assert memory.load(str(path), lost=LOST) == (ONE, "")


def test_the_one_before_stands_in_for_one_that_rotted(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory.keep(str(path), ONE)
    memory.keep(str(path), TWO)
    assert memory.load(str(path), lost=LOST) == (TWO, "")
    path.write_bytes(b"\0" * 200)
    found, complaint = memory.load(str(path), lost=LOST)
    assert (found, "the one before" in complaint) == (replace(ONE, founded=3), True)
    memory.keep(str(path), TWO)
    # What rotted did not push out the good one.
    assert (tmp_path / "memory.old").read_bytes() == memory.dump(found)


@pytest.mark.parametrize("damage", [b"", None], ids=["torn", "gone"])
def test_a_lost_memory_uses_the_permit_up_for_ever(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "memory"
    for name in ("memory", "memory.old"):
        if damage is not None:
            (tmp_path / name).write_bytes(damage)
    found, complaint = memory.load(str(path), lost=LOST)
    assert (found, "founds no swarm" in complaint) == (LOST, True)
    assert memory.load(str(path), lost=Memory(epoch=0)) == (LOST, "")


def test_a_node_without_its_memory_was_a_member_and_only_the_seed_had_a_permit() -> None:
    assert memory.lost(epoch=3, seed=True) == LOST
    assert memory.lost(epoch=3, seed=False) == Memory(epoch=0, swarm_epoch=3)
