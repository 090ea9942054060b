"""What lies in `.piflash/`, as text: authority, flashes, image lock. Pure.

Parsing raises ValueError that says what is damaged, and never with a key or a secret in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flasher import pki
from flasher.model import PermitKind, Secret, Ticket
from flasher.permits import Flash

VERSION = 1

_MOST_FLASHES = 2**31
_LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second that datetime knows
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class State:
    """Which cluster the workspace is of, and its flashes in the order they were minted."""

    cluster: str
    flashes: tuple[Flash, ...]


@dataclass(frozen=True)
class ImagePin:
    """The hash that an image had at its first use. `first_seen`: UTC seconds."""

    sha256: str
    url: str | None
    first_seen: int


def dump_state(state: State) -> str:
    """Give the text of state.json."""
    flashes = [
        {
            "node": flash.ticket.node,
            "generation": flash.ticket.generation,
            "epoch": flash.ticket.epoch,
            "permit": flash.ticket.permit.value if flash.ticket.permit else None,
            "flashed_at": flash.ticket.flashed_at,
            "delivered": flash.delivered,
            "address": flash.address,
        }
        for flash in state.flashes
    ]
    return _json({"cluster": state.cluster, "flashes": flashes})


def parse_state(text: str) -> State:
    """Read state.json."""
    data = _load(text)
    flashes = data.get("flashes")
    if not isinstance(flashes, list):
        raise ValueError("flashes is not a list")
    return State(_text(data, "cluster"), tuple(_flash(_mapping(item)) for item in flashes))


def dump_authority(authority: pki.Authority) -> str:
    """Give the text of authority.json: with its secrets, for the disk alone."""
    return _json(
        {
            "ca_certificate": authority.ca_pem,
            "ca_key": authority.ca_key.reveal(),
            "permit_key": authority.permit_key.reveal(),
            "master_secret": authority.master.reveal(),
        }
    )


def parse_authority(text: str) -> pki.Authority:
    """Read authority.json, and see that its keys can be used."""
    data = _load(text)
    authority = pki.Authority(
        ca_pem=_text(data, "ca_certificate"),
        ca_key=Secret(_text(data, "ca_key")),
        permit_key=Secret(_text(data, "permit_key")),
        master=Secret(_text(data, "master_secret")),
    )
    pki.check_authority(authority)
    return authority


def dump_pins(pins: Mapping[str, ImagePin]) -> str:
    """Give the text of images.json."""
    images = {
        ref: {"sha256": pin.sha256, "url": pin.url, "first_seen": pin.first_seen}
        for ref, pin in pins.items()
    }
    return _json({"images": images})


def parse_pins(text: str) -> dict[str, ImagePin]:
    """Read images.json."""
    images = _mapping(_load(text).get("images"))
    return {ref: _pin(_mapping(item)) for ref, item in images.items()}


def _flash(item: Mapping[str, object]) -> Flash:
    permit = item.get("permit")
    ticket = Ticket(
        node=_text(item, "node"),
        generation=_number(item, "generation", 1, _MOST_FLASHES),
        epoch=_number(item, "epoch", 1, _MOST_FLASHES),
        permit=None if permit is None else PermitKind(permit),
        flashed_at=_number(item, "flashed_at", 0, _LATEST),
    )
    # Whatever is not a plain "no" counts as delivered: the safe side.
    return Flash(
        ticket, delivered=item.get("delivered") is not False, address=str(item.get("address", ""))
    )


def _pin(item: Mapping[str, object]) -> ImagePin:
    url = item.get("url")
    sha256 = _text(item, "sha256")
    if not _SHA256.fullmatch(sha256):
        raise ValueError("a hash is not a SHA-256 in lower-case hex")
    return ImagePin(
        sha256, None if url is None else str(url), _number(item, "first_seen", 0, _LATEST)
    )


def _json(data: Mapping[str, object]) -> str:
    return json.dumps({"version": VERSION, **data}, indent=2, sort_keys=True) + "\n"


def _load(text: str) -> Mapping[str, object]:
    try:
        data = _mapping(json.loads(text))
    except json.JSONDecodeError as error:
        # The decoder's own error carries the whole text.
        raise ValueError(f"it is not JSON (line {error.lineno})") from None
    except RecursionError:
        raise ValueError("it is not JSON of ours") from None
    if data.get("version") != VERSION:
        raise ValueError(f"it has version {data.get('version')}, this piflash knows {VERSION}")
    return data


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError("an object is missing")
    return value


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")
    return value


def _number(data: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is not a number")
    if not low <= value <= high:
        # Without the value: Python prints no number of more than 4,300 digits.
        raise ValueError(f"{key} is not in {low} to {high}")
    return value
