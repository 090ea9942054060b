"""The error tree, its exit codes, and the two places where users read them."""

from __future__ import annotations

import re
from pathlib import Path

from flasher import errors
from flasher.errors import PiflashError

ROOT = Path(__file__).resolve().parents[2]


def subclasses(cls: type[PiflashError] = PiflashError) -> list[type[PiflashError]]:
    found = []
    for sub in cls.__subclasses__():
        found += [sub, *subclasses(sub)]
    return [sub for sub in found if sub.__module__ == errors.__name__]


def test_exit_codes_are_unique() -> None:
    codes = [cls.exit_code for cls in subclasses()]
    assert len(codes) == len(set(codes))
    assert {0, 1} & set(codes) == set()


def test_readme_lists_exactly_these_codes() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Exit codes") : text.index("## Environment")]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert listed == {0, 1} | {cls.exit_code for cls in subclasses()}


def test_help_lists_exactly_these_codes() -> None:
    source = (ROOT / "flasher" / "cli.py").read_text()
    epilog = source[source.index('EPILOG = """') : source.index("class _Parser")]
    listed = {int(code) for code in re.findall(r"(?<![\w/])(\d+) [a-zA-Z.]", epilog)}
    assert listed == {0, 1} | {cls.exit_code for cls in subclasses()}


def test_text_has_message_and_remedy() -> None:
    assert str(PiflashError("disk is full", hint="make room")) == "disk is full\n  make room"
    assert str(PiflashError("disk is full")) == "disk is full"
