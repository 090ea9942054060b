"""Which block device stands on which, and what is mounted where: the kernel's texts to answers.

Pure: works on values that flasher.devices read from /sys and /proc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Number = tuple[int, int]

# What a running system cannot lose. /boot/efi, /boot/firmware and the like count too.
_SYSTEM_POINTS = frozenset({"/", "/boot", "/usr", "/var", "/home", "/etc", "/opt", "/nix"})


@dataclass(frozen=True)
class Node:
    """One block device of /sys/class/block.

    `parent`: the whole disk, of a partition. `backing_number`: the device that a loop device's
    backing file is, or lies on.
    """

    name: str
    number: Number
    parent: str | None
    holders: tuple[str, ...]
    slaves: tuple[str, ...]
    backing_number: Number | None
    backing_is_device: bool


@dataclass(frozen=True)
class MountLine:
    """One line of mountinfo. `number` has major 0 for btrfs, overlay and what has no device.

    `layers`: the directories that an overlay is made of.
    """

    number: Number
    point: str
    kind: str
    source: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """A mount point or `swap`, with the devices that it is known to stand on."""

    point: str
    numbers: tuple[Number, ...]


def parse_mountinfo(text: str) -> tuple[MountLine, ...]:
    """Read /proc/self/mountinfo (proc(5)); lines that are not of its form are left out."""
    lines = []
    for line in text.splitlines():
        head, mark, tail = line.partition(" - ")
        left, right = head.split(" "), tail.split(" ")
        number = re.fullmatch(r"(\d+):(\d+)", left[2]) if len(left) > 5 else None
        if not mark or number is None or len(right) < 2:
            continue
        lines.append(
            MountLine(
                (int(number[1]), int(number[2])),
                _unescape(left[4]),
                right[0],
                _unescape(right[1]),
                _layers(right[2]) if right[0] == "overlay" and len(right) > 2 else (),
            )
        )
    return tuple(lines)


def parse_swaps(text: str) -> tuple[str, ...]:
    """Give the paths of /proc/swaps."""
    return tuple(_unescape(line.split()[0]) for line in text.splitlines()[1:] if line.split())


def _layers(options: str) -> tuple[str, ...]:
    found: list[str] = []
    for item in options.split(","):
        key, _, value = item.partition("=")
        # Since 6.8 the layers can stand one by one, as lowerdir+ and datadir+.
        if key.rstrip("+") in ("lowerdir", "datadir", "upperdir"):
            found += (_unescape(path) for path in value.split(":") if path)
    return tuple(found)


def _unescape(text: str) -> str:
    # proc(5): space, tab, newline and backslash stand as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def is_system(point: str) -> bool:
    """Tell whether a mount point is one that the running system needs."""
    return point in _SYSTEM_POINTS or point.startswith("/boot/")


def above(nodes: Mapping[str, Node], name: str) -> frozenset[str]:
    """Give the device, its partitions and everything that stands on any of them."""
    seen = {name}
    todo = [name]
    while todo:
        node = nodes.get(todo.pop())
        if node is None:
            continue
        # The kernel knows no holder for a loop device over a device: it opens it shared.
        stacked = {
            other.name
            for other in nodes.values()
            if other.parent == node.name
            or (other.backing_is_device and other.backing_number == node.number)
        }
        fresh = (stacked | set(node.holders)) - seen
        seen |= fresh
        todo += fresh
    return frozenset(seen)


def below(nodes: Mapping[str, Node], numbers: Iterable[Number]) -> frozenset[str]:
    """Give every device that the numbered ones stand on, themselves included."""
    names = {node.number: node.name for node in nodes.values()}
    seen: set[str] = set()
    todo = [names[number] for number in numbers if number in names]
    while todo:
        name = todo.pop()
        node = nodes.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        todo += node.slaves
        if node.parent:
            todo.append(node.parent)
        if node.backing_number in names:
            todo.append(names[node.backing_number])
    return frozenset(seen)
