"""The closed list of reasons: in the code, and in docs/troubleshooting.md."""

from __future__ import annotations

import re
from pathlib import Path

from firstboot.reasons import REASONS

ROOT = Path(__file__).parents[3]
SOURCES = ("decide", "leader", "admission", "service")


def listed(heading: str) -> list[str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    table = text.partition(heading)[2].split("\n\n")[1]
    return [
        name for row in re.findall(r"(?m)^\| ([^|]+) \|", table)[1:] for name in row.split(", ")
    ]


def said(pattern: str) -> set[str]:
    found = ""
    for name in SOURCES:
        found += (ROOT / "firstboot" / f"{name}.py").read_text(encoding="utf-8")
    return set(re.findall(pattern, found))


def test_the_documentation_lists_every_reason() -> None:
    assert sorted(listed("Every `reason` there is")) == sorted(REASONS)


def test_every_phase_is_explained() -> None:
    phases = said(r'Decision\(\s*"([A-Z]+)"') | {"BLOCKED", "FIRST BOOT"}
    assert phases <= set(listed("`phase` says how far"))
    assert len(phases) > 8


def test_no_reason_is_said_that_is_not_in_the_list() -> None:
    said_here = said(r'reason="([a-z-]+)"') | said(r'LIVES: "([a-z-]+)"')
    assert said_here <= set(REASONS)
    assert len(said_here) > 8
