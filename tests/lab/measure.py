"""What a process of a node costs: processor time and memory, as its kernel counts them. Shell."""

from __future__ import annotations

import os

from tests.lab.node import Node


def seconds(node: Node, pid: int) -> float:
    """Processor time of a process and of the programs that it ran and that have ended."""
    return processor_time(_proc(node, pid, "stat"))


def processor_time(stat: str) -> float:
    """The same, of the text of /proc/PID/stat (proc(5))."""
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def megabytes(node: Node, pid: int) -> float:
    """Resident memory, in 10**6 bytes."""
    lines = dict(line.split(":", 1) for line in _proc(node, pid, "status").splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024 / 1e6


def _proc(node: Node, pid: int, name: str) -> str:
    return node.inside(f"/proc/{pid}/{name}").read_text()
