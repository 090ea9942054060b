"""The kernel's texts, and the chains of devices."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flasher import blocktree
from flasher.blocktree import MountLine, Node

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
40 27 8:17 / /media/my\\040card rw - vfat /dev/sdb1 rw
41 27 0:44 /@home /home rw - btrfs /dev/sdc2 rw,subvol=/@home
42 27 0:50 / /merged rw - overlay overlay rw,lowerdir=/l1:/l\\0542,upperdir=/u,workdir=/w
43 27 0:51 / /new rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c
"""

SWAPS = """\
Filename\t\t\t\tType\t\tSize\tUsed\tPriority
/dev/sda2                               partition\t8388604\t0\t-2
/swap\\040file                            file\t\t524284\t0\t-3
"""


def test_reads_mountinfo() -> None:
    lines = blocktree.parse_mountinfo(MOUNTINFO)
    assert len(lines) == 6
    assert lines[1] == MountLine((254, 0), "/", "ext4", "/dev/vda", ())
    assert lines[2].point == "/media/my card"
    assert lines[3] == MountLine((0, 44), "/home", "btrfs", "/dev/sdc2", ())
    assert lines[4].layers == ("/l1", "/l,2", "/u")
    assert lines[5].layers == ("/a", "/b", "/c")


@given(st.text(alphabet="0123456789: /-\\,=+abovlowerdir\n", max_size=200))
def test_any_text_is_read_without_a_crash(text: str) -> None:
    blocktree.parse_mountinfo(text)
    blocktree.parse_mountinfo(MOUNTINFO + text)
    blocktree.parse_swaps(text)


def test_reads_swaps() -> None:
    assert blocktree.parse_swaps(SWAPS) == ("/dev/sda2", "/swap file")
    assert blocktree.parse_swaps("") == ()


def test_system_points_are_those_the_computer_needs() -> None:
    needed = ["/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home"]
    assert all(blocktree.is_system(point) for point in needed)
    assert not any(blocktree.is_system(point) for point in ["/media/boot", "/mnt", "/bootleg"])


def node(name: str, minor: int, **more: object) -> Node:
    fields: dict[str, object] = {
        "parent": None,
        "holders": (),
        "slaves": (),
        "backing_number": None,
        "backing_is_device": False,
    }
    return Node(name, (8, minor), **{**fields, **more})  # type: ignore[arg-type]


# sda: sda1 (LVM, dm-0, root) and a loop over sda2; sdb has nothing on it.
TREE = {
    found.name: found
    for found in (
        node("sda", 0),
        node("sda1", 1, parent="sda", holders=("dm-0",)),
        node("sda2", 2, parent="sda"),
        node("dm-0", 10, slaves=("sda1",), holders=("dm-1",)),
        node("dm-1", 11, slaves=("dm-0",)),
        node("loop0", 20, backing_number=(8, 2), backing_is_device=True),
        node("loop1", 21, backing_number=(8, 11), backing_is_device=False),
        node("sdb", 30),
    )
}


def test_above_finds_all_that_stands_on_a_disk() -> None:
    assert blocktree.above(TREE, "sda") == {"sda", "sda1", "sda2", "dm-0", "dm-1", "loop0"}
    assert blocktree.above(TREE, "sda2") == {"sda2", "loop0"}
    assert blocktree.above(TREE, "sdb") == {"sdb"}


def test_below_finds_all_that_the_system_needs() -> None:
    # loop1's file lies in the file system on dm-1.
    assert blocktree.below(TREE, [(8, 21)]) == {"loop1", "dm-1", "dm-0", "sda1", "sda"}
    assert blocktree.below(TREE, [(8, 20)]) == {"loop0", "sda2", "sda"}
    assert blocktree.below(TREE, [(9, 9)]) == frozenset()


def test_cycles_end() -> None:
    ring = {
        "dm-0": node("dm-0", 1, slaves=("dm-1",), holders=("dm-1",)),
        "dm-1": node("dm-1", 2, slaves=("dm-0",), holders=("dm-0",)),
    }
    assert blocktree.above(ring, "dm-0") == blocktree.below(ring, [(8, 1)]) == {"dm-0", "dm-1"}
