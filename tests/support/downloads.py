"""Where downloaded images go in tests, and the published file they are checked against."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from flasher import catalogue, images
from flasher.catalogue import Catalogue, Entry
from flasher.images import Resolved
from flasher.model import ImageRef
from flasher.wire import Retry
from tests.support.fileserver import Server
from tests.support.recorder import Recorder

NAME = "base.img.zip"
SUM = NAME + ".sha256"
FAST = Retry(attempts=4, first_wait=0.005, longest_wait=0.01, connect_timeout=3, read_timeout=3)
DATA = random.Random(5).randbytes(3_000_017)
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = random.Random(6).randbytes(3_000_017)
OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()
CHECKOUT = Path(__file__).parents[2]
SHIPPED = CHECKOUT / "cloud-init" / "catalogue.json"


@dataclass(frozen=True)
class Home:
    """Where the images go, and how they are asked for."""

    cache: Path
    base: Path

    def resolve(
        self,
        text: str,
        *,
        sha256: str | None = None,
        pinned: str | None = None,
        known: Catalogue | None = None,
        progress: Recorder | None = None,
        retry: Retry = FAST,
        refresh: bool = False,
    ) -> Resolved:
        return images.resolve(
            ImageRef(text, sha256=sha256),
            catalogue=known or catalogue.parse(SHIPPED.read_text()),
            base=self.base,
            cache=self.cache,
            pinned=pinned,
            progress=progress or Recorder(),
            retry=retry,
            refresh=refresh,
        )

    def left(self) -> list[str]:
        """What lies in the cache, but for locks."""
        if not self.cache.is_dir():
            return []
        return sorted(p.name.split("-", 1)[1] for p in self.cache.iterdir() if p.suffix != ".lock")

    def part(self) -> Path:
        return next(self.cache.glob("*.part"))


def entry(server: Server, *, sha256: str | None = None, promised: bool = True) -> Catalogue:
    url = server.url(NAME)
    one = Entry(
        id="test-1",
        url=url,
        sha256_url=url + ".sha256" if promised else None,
        sha256=sha256,
        size=512,
        profile="hypriotos",
        arch="armhf",
        boards=(),
        description="",
    )
    return Catalogue({"test-1": one})


def assert_right(found: Resolved, data: bytes = DATA) -> None:
    assert found.image.cached
    assert found.image.path.read_bytes() == data
    assert found.sha256 == found.image.sha256 == hashlib.sha256(data).hexdigest()
    names = {p.name for p in found.image.path.parent.iterdir()}
    assert not [name for name in names if ".part" in name or ".new" in name], names
