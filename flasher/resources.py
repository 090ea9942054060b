"""Where cloud-init/, stacks/ and firstboot/ lie, in a wheel or in a checkout. Reads nothing."""

from __future__ import annotations

from pathlib import Path

import firstboot

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Give the directory `cloud-init` or `stacks`."""
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name


def firstboot_dir() -> Path:
    """Give the directory of the Pi's package, from which the zipapp is packed."""
    return Path(firstboot.__file__).resolve().parent
