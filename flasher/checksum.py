"""Published checksum files: text -> the SHA-256 of one file. Pure."""

from __future__ import annotations

import re

_BARE = re.compile(r"([0-9a-fA-F]{64})")
_GNU = re.compile(r"\\?([0-9a-fA-F]{64})[ \t]+\*?(.+)")
_BSD = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")


def find(text: str, *, name: str) -> str | None:
    """Give the SHA-256 that the text states for the file `name`, in lower case; None if none.

    Reads the lines of sha256sum(1), with --tag too, and a bare hash. A file's only line counts for
    any name, because files are renamed more often than their checksums. A byte order mark, tabs
    and single spaces are read too: editors and web forms leave them.
    """
    stated: list[tuple[str | None, str]] = []
    for line in (line.strip() for line in text.lstrip("\ufeff").splitlines()):
        if bare := _BARE.fullmatch(line):
            stated.append((None, bare[1].lower()))
        elif gnu := _GNU.fullmatch(line):
            stated.append((gnu[2].strip().rpartition("/")[2], gnu[1].lower()))
        elif bsd := _BSD.fullmatch(line):
            stated.append((bsd[1].rpartition("/")[2], bsd[2].lower()))
    if len(stated) == 1:
        return stated[0][1]
    return next((digest for about, digest in stated if about == name), None)
