"""A base image's reference -> the file on disk: found, or downloaded, and vouched for. Shell.

Whether the file's bytes are still right is for flasher.streams to see, in the pass that reads them.
"""

from __future__ import annotations

import difflib
import enum
import os
from dataclasses import dataclass
from pathlib import Path

from flasher import cache as store
from flasher import checksum, download, specrules, weburl, wire
from flasher.catalogue import Catalogue, Entry
from flasher.container import Kind, sniff
from flasher.errors import ImageError
from flasher.model import Image, ImageRef, Progress
from flasher.storedfile import StoredFile
from flasher.wire import Retry

_CHECKSUM_LIMIT = 1 << 16
_REPIN = "if the new file is what you want: piflash fetch --repin"


class Trust(enum.Enum):
    """Who vouches for the stored file."""

    PINNED = "its hash was given or recorded before"
    CATALOGUE = "its hash is in piflash's catalogue"
    CHECKSUM_FILE = "its hash is the one its server publishes"
    FIRST_USE = "nobody vouches for it; first use"
    LOCAL = "a local file without a hash"


@dataclass(frozen=True)
class Resolved:
    """An image on disk. `origin`: its address, without secrets, or its path.

    `sha256` is that of the stored file; None for a local file that has no hash given or recorded.
    """

    image: Image
    origin: str
    sha256: str | None
    trust: Trust


@dataclass(frozen=True)
class _Source:
    """An address with everything that was said of its hash before anyone asked the server."""

    id: str
    profile: str
    size: int | None
    url: str
    checksum_url: str
    checksum_promised: bool
    given: str | None
    pinned: str | None
    in_catalogue: str | None

    @property
    def shown(self) -> str:
        return weburl.shown(self.url)


def resolve(
    ref: ImageRef,
    *,
    catalogue: Catalogue,
    base: Path,
    cache: Path,
    pinned: str | None,
    progress: Progress,
    retry: Retry | None = None,
    refresh: bool = False,
) -> Resolved:
    """Give the image that `ref` names, downloaded into `cache` if it is not there yet.

    `base` is the directory that relative paths start from; `pinned` the hash that was recorded for
    `ref` at its first use; `refresh` asks the server even for what is in the cache. Without it, no
    request is made for an image in the cache whose hash is the given, pinned or catalogued one.
    ImageError if there is no such image or its hash is not the expected one, DownloadError if it
    cannot be had.
    """
    entry = catalogue.images.get(ref.text)
    if entry is None and not weburl.is_url(ref.text):
        return _local(ref, catalogue=catalogue, base=base, pinned=pinned)
    if entry is None and not ref.text.lower().startswith(("http://", "https://")):
        raise ImageError(
            f"image {weburl.shown(ref.text)}: only http and https can be fetched",
            hint="fetch it by other means and give its path",
        )
    try:
        source = _source(ref, entry=entry, pinned=pinned)
        place = store.slot(cache, url=source.url)
    except ValueError:
        raise ImageError(
            f"image {weburl.shown(ref.text)}: not an address that can be read",
            hint="write it as https://host/path/name.img.zip",
        ) from None
    found = None if refresh else _usable(store.lookup(place), source=source)
    if found is None:
        with store.locked(place, progress=progress):
            found = None if refresh else _usable(store.lookup(place), source=source)
            if found is None:
                found = _download(source, place, progress=progress, retry=retry or Retry())
    return _resolved(source, found)


def _source(ref: ImageRef, *, entry: Entry | None, pinned: str | None) -> _Source:
    url = entry.url if entry else ref.text
    return _Source(
        id=entry.id if entry else weburl.file_name(url),
        profile=ref.profile or (entry.profile if entry else specrules.DEFAULT_PROFILE),
        size=entry.size if entry else None,
        url=url,
        checksum_url=entry.sha256_url if entry and entry.sha256_url else weburl.checksum_url(url),
        checksum_promised=bool(entry and entry.sha256_url),
        given=ref.sha256.lower() if ref.sha256 else None,
        pinned=pinned,
        in_catalogue=entry.sha256 if entry else None,
    )


# --- local files --------------------------------------------------------------------------------


def _local(ref: ImageRef, *, catalogue: Catalogue, base: Path, pinned: str | None) -> Resolved:
    try:
        path = base / Path(ref.text).expanduser()
    except RuntimeError:  # "~name/..." of somebody who has no home here
        path = base / ref.text
    if not specrules.is_path_or_url(ref.text) and not path.exists():
        near = difflib.get_close_matches(ref.text, catalogue.images, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ImageError(
            f"image {ref.text}: not in the catalogue and not a file{meant}",
            hint=f"the catalogue has: {', '.join(catalogue.images)}; a path needs a '/': "
            f"./{ref.text}",
        )
    with StoredFile(path):
        pass
    sha256 = ref.sha256.lower() if ref.sha256 else pinned
    image = Image(path.name, ref.profile or specrules.DEFAULT_PROFILE, path, sha256, None)
    return Resolved(image, os.fspath(path), sha256, Trust.PINNED if sha256 else Trust.LOCAL)


# --- images from a server -----------------------------------------------------------------------


def _usable(found: store.Stored | None, *, source: _Source) -> store.Stored | None:
    """Pass what is in the cache if its hash is the one that is wanted."""
    wanted = source.given or source.pinned or source.in_catalogue
    return found if found and wanted in (None, found.sha256) else None


def _resolved(source: _Source, found: store.Stored) -> Resolved:
    if source.given or source.pinned:
        trust = Trust.PINNED
    elif source.in_catalogue:
        trust = Trust.CATALOGUE
    else:
        trust = Trust.CHECKSUM_FILE if found.published else Trust.FIRST_USE
    image = Image(source.id, source.profile, found.path, found.sha256, source.size, cached=True)
    return Resolved(image, source.shown, found.sha256, trust)


def _download(
    source: _Source, place: store.Slot, *, progress: Progress, retry: Retry
) -> store.Stored:
    published = None if source.given else _published(source, progress=progress, retry=retry)
    if not source.given:
        _check_first_use(source, published, what="the hash that its server publishes")
        _check_first_use(source, source.in_catalogue, what="the hash in the catalogue")
    wanted = source.given or source.pinned or source.in_catalogue or published
    got = download.fetch(
        source.url, part=place.part, hash_known=bool(wanted), progress=progress, retry=retry
    )
    if got.resumed and wanted not in (None, got.sha256):
        progress.say(f"{source.shown}: its resumed download has a wrong hash; once more, whole")
        download.discard(place.part)
        got = download.fetch(
            source.url, part=place.part, hash_known=True, progress=progress, retry=retry
        )
    if wanted not in (None, got.sha256):
        download.discard(place.part)
        raise _other_hash(source, got.sha256, published=published)
    return store.store(place, sha256=got.sha256, version=got.version, published=published)


def _check_first_use(source: _Source, stated: str | None, *, what: str) -> None:
    if source.pinned and stated and stated != source.pinned:
        raise ImageError(
            f"{source.shown}: changed since first use: its SHA-256 was {source.pinned}, {what} is "
            f"{stated}",
            hint=_REPIN,
        )


def _other_hash(source: _Source, got: str, *, published: str | None) -> ImageError:
    if source.given:
        return ImageError(
            f"{source.shown}: what came has the SHA-256 {got}, you gave {source.given}",
            hint="if the new file is what you want, correct its sha256 in the cluster file or in "
            "--image",
        )
    if source.pinned:
        return ImageError(
            f"{source.shown}: changed since first use: its SHA-256 was {source.pinned}, what came "
            f"has {got}",
            hint=_REPIN,
        )
    vouched = "the catalogue says" if source.in_catalogue else "its checksum file says"
    return ImageError(
        f"{source.shown}: what came has the SHA-256 {got}, {vouched} "
        f"{source.in_catalogue or published}",
        hint="try again later; if it stays so, tell the image's publisher, and do not use it",
    )


def _published(source: _Source, *, progress: Progress, retry: Retry) -> str | None:
    """Ask for the checksum file. None if there is none and none was promised."""
    url = source.checksum_url
    try:
        text = wire.read_text(url, limit=_CHECKSUM_LIMIT, retry=retry, progress=progress)
    except wire.AbsentError:
        if source.checksum_promised and not (source.pinned or source.in_catalogue):
            raise
        return None
    digest = checksum.find(text, name=weburl.file_name(source.url))
    # Many servers answer whatever is not there with a page and the status 200.
    if digest is None and (source.checksum_promised or sniff(text.encode()) is not Kind.HTML):
        raise ImageError(
            f"{weburl.shown(url)}: holds no SHA-256 of {weburl.file_name(source.url)}",
            hint="give the right one as the image's sha256 in the cluster file",
        )
    return digest
