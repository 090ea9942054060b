"""The catalogue of base images: JSON text -> frozen entries. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flasher.errors import ImageError

VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https?://[^\s/]+/\S+")


@dataclass(frozen=True)
class Entry:
    """One base image that piflash knows.

    `sha256` is that of the published file, not of the image in it; None where nobody has told it.
    `sha256_url` is where its publisher tells it. `size` is that of the decompressed image.
    """

    id: str
    url: str
    sha256_url: str | None
    sha256: str | None
    size: int | None
    profile: str
    arch: str
    boards: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Catalogue:
    """All entries by their id, in the file's order."""

    images: Mapping[str, Entry]


def parse(text: str, *, file: str = "catalogue.json") -> Catalogue:
    """Read a catalogue. ImageError names the image, the field and its value."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _bad(file, f"it is not JSON ({error})") from None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise _bad(file, f"its version is not {VERSION}")
    images = data.get("images")
    if not isinstance(images, dict) or not images:
        raise _bad(file, "it has no images")
    return Catalogue({name: _entry(name, item, file=file) for name, item in images.items()})


def _entry(name: str, item: object, *, file: str) -> Entry:
    if not isinstance(item, dict):
        raise _bad(file, f"images.{name} is not an object")
    fields = Entry.__dataclass_fields__.keys() - {"id"}
    for key in item.keys() - fields:
        raise _bad(file, f"images.{name}.{key} is not a field (known: {', '.join(sorted(fields))})")
    take = _Fields(item, where=f"images.{name}", file=file)
    return Entry(
        id=name,
        url=take.matching("url", _URL, what="an http or https address"),
        sha256_url=take.maybe_matching("sha256_url", _URL, what="an http or https address"),
        sha256=take.maybe_matching("sha256", _SHA256, what="64 lower-case hex digits"),
        size=take.maybe_size("size"),
        profile=take.text("profile"),
        arch=take.text("arch"),
        boards=take.texts("boards"),
        description=take.text("description"),
    )


@dataclass(frozen=True)
class _Fields:
    """Takes typed fields out of one entry."""

    item: Mapping[str, object]
    where: str
    file: str

    def text(self, key: str) -> str:
        value = self.item.get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, what="a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.item.get(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self._wrong(key, what="a list of texts")
        return tuple(value)

    def matching(self, key: str, pattern: re.Pattern[str], *, what: str) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self._wrong(key, what=what)
        return value

    def maybe_matching(self, key: str, pattern: re.Pattern[str], *, what: str) -> str | None:
        return None if self.item.get(key) is None else self.matching(key, pattern, what=what)

    def maybe_size(self, key: str) -> int | None:
        value = self.item.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or value % 512:
            raise self._wrong(key, what="a number of bytes, in whole sectors of 512")
        return value

    def _wrong(self, key: str, *, what: str) -> ImageError:
        value = json.dumps(self.item.get(key))
        return _bad(self.file, f"{self.where}.{key} is {value}, not {what}")


def _bad(file: str, what: str) -> ImageError:
    return ImageError(
        f"{file}: the catalogue of images is damaged: {what}",
        hint="correct it; the one that ships with piflash comes back by installing piflash again",
    )
