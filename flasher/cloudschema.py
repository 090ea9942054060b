"""Finds cloud-init's official JSON schemas: named, cached, installed or downloaded. Judges nothing.

They are never part of piflash (GPL-3 or Apache-2.0, and not ours to keep up to date).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from flasher.cloudconfig import Schemas
from flasher.errors import ToolMissingError

VARIABLE = "PIFLASH_CLOUD_INIT_SCHEMA"
CLOUD_CONFIG = "schema-cloud-config-v1.json"
NETWORK = "schema-network-config-v1.json"

_TAG = "25.1.4"
_BASE = f"https://raw.githubusercontent.com/canonical/cloud-init/{_TAG}/cloudinit/config/schemas"
_PINS: Mapping[str, str] = {
    CLOUD_CONFIG: "77e094cf8bca712fa5530558d8b08582a2ed47d6963986ce9ccc166d2cf35f0d",
    NETWORK: "ad9de5340a547faacf88f2d644ba599fee5e90050f353e92a299e15933f28789",
}
_INSTALLED = Path("/usr/lib/python3/dist-packages/cloudinit/config/schemas")
_MAX_BYTES = 4 << 20
_TIMEOUTS = (5.0, 20.0)


@dataclass(frozen=True)
class Found:
    """The schemas, where they are from, and (if one is missing) what to tell the user."""

    schemas: Schemas
    source: str
    warning: str = ""


def find(
    *,
    cache: Path,
    explicit: Path | None = None,
    installed: Path = _INSTALLED,
    base: str = _BASE,
    pins: Mapping[str, str] = _PINS,
    download: bool = True,
) -> Found:
    """Give the schemas from the first place that has that of cloud-config.

    In this order: `explicit` or $PIFLASH_CLOUD_INIT_SCHEMA (a file, or a directory with both),
    `cache`, `installed`, a download into `cache`. Without any of them flashing goes on: the result
    has a warning. ToolMissingError only if a schema was named and cannot be read.
    """
    named = explicit or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        return _named(named)
    for place, pinned in ((cache, pins), (installed, {})):
        found = _read_both(place, pins=pinned)
        if found.cloud_config is not None:
            return Found(found, str(place), _partial(found, place))
    reason = "no download was tried"
    if download:
        try:
            for name, pin in pins.items():
                _fetch(f"{base}/{name}", cache / name, pin=pin)
        except requests.RequestException as error:
            # Its text is a nest of library names; the host is what a user can look into.
            reason = f"{urlsplit(base).hostname}: {type(error).__name__}"
        except (OSError, ValueError) as error:
            reason = str(error)
        else:
            return Found(_read_both(cache, pins=pins), str(cache))
    return Found(
        Schemas(),
        "",
        f"not checked against the official schema of cloud-init ({reason}); piflash's own rules "
        "were checked: install cloud-init, or run `piflash fetch` once while online",
    )


def _named(path: Path) -> Found:
    config, network = (path / CLOUD_CONFIG, path / NETWORK) if path.is_dir() else (path, None)
    try:
        schemas = Schemas(
            _load(config.read_bytes()),
            _load(network.read_bytes()) if network and network.exists() else None,
        )
    except (OSError, ValueError) as error:
        raise ToolMissingError(
            f"{VARIABLE}: {config}: {error}",
            hint=f"name a file {CLOUD_CONFIG}, or a directory with it, or unset {VARIABLE}",
        ) from None
    return Found(schemas, str(path), _partial(schemas, path))


def _partial(schemas: Schemas, place: Path) -> str:
    if schemas.network is not None:
        return ""
    return f"network-config not checked against the official schema: {place} has no {NETWORK}"


def _read_both(place: Path, *, pins: Mapping[str, str]) -> Schemas:
    return Schemas(
        _read(place / CLOUD_CONFIG, pin=pins.get(CLOUD_CONFIG)),
        _read(place / NETWORK, pin=pins.get(NETWORK)),
    )


def _read(path: Path, *, pin: str | None) -> Mapping[str, Any] | None:
    """Give a schema, or None if it is not there or not what the pin says."""
    try:
        content = path.read_bytes()
        if pin is not None and hashlib.sha256(content).hexdigest() != pin:
            return None
        return _load(content)
    except (OSError, ValueError):
        return None


def _load(content: bytes) -> Mapping[str, Any]:
    data = json.loads(content)
    if not isinstance(data, dict):
        raise ValueError("is not a JSON schema")
    return data


def _fetch(url: str, path: Path, *, pin: str) -> None:
    """Download one schema. Nothing stands at `path` unless it has the pinned SHA-256."""
    with requests.get(url, timeout=_TIMEOUTS, stream=True) as response:
        response.raise_for_status()
        content = b""
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > _MAX_BYTES:
                raise ValueError(f"{url}: larger than {_MAX_BYTES} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != pin:
        raise ValueError(f"{url}: SHA-256 is {digest}, not {pin}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        part.write_bytes(content)
        part.replace(path)
