"""Every scene by name, in the order in which they begin: the longest first."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tests.e2e import scenes
from tests.e2e.fleet import Scene

# (what the console said last, seconds after that, cache): the moments of the first boot.
CUTS = (
    ("systemd.* running in system mode", 1.0, "none"),
    ("running 'init-local'", 0.5, "writeback"),
    ("running 'init-local'", 3.0, "none"),
    ("running 'init' at", 0.0, "writeback"),
    ("running 'init' at", 3.5, "writeback"),
    ("Generating public/private", 0.5, "writeback"),
    (r"Listening on .*Docker Socket", 3.0, "none"),
    ("running 'modules:config'", 1.0, "writeback"),
    ("running 'modules:final'", 0.5, "none"),
    (r"Started .*piflash: brings", 0.5, "writeback"),
    (scenes.FINISHED, 0.5, "writeback"),
)


def _without_meta_data(_: bytes) -> None:
    return None


def _with_tab(content: bytes) -> bytes:
    return content.replace(b"\n  - ", b"\n\t- ", 1)


def _with_wrong_key(content: bytes) -> bytes:
    return content.replace(b"instance-id:", b"instance_id:", 1)


def _wrapped(content: bytes) -> bytes:
    lines = content.decode().splitlines(keepends=True)
    return ("network:\n" + "".join(f"  {line}" for line in lines)).encode()


BROKEN = {
    "meta-data missing": ("meta-data", _without_meta_data),
    "tab in user-data": ("user-data", _with_tab),
    "wrong instance-id key": ("meta-data", _with_wrong_key),
    "network-config wrapped": ("network-config", _wrapped),
}

SCENES: Mapping[str, Scene] = {
    "static": scenes.static,
    "dhcp": scenes.dhcp,
    "late router": scenes.late_router,
    "wifi": scenes.wifi,
    **{
        f"cut-{number}": functools.partial(
            scenes.power_cut, number=number, marker=marker, delay=delay, cache=cache
        )
        for number, (marker, delay, cache) in enumerate(CUTS, 1)
    },
    **{
        name: functools.partial(scenes.broken, number=number, name=file, damage=damage)
        for number, (name, (file, damage)) in enumerate(BROKEN.items(), 1)
    },
}

# ARM is emulated several times slower: the scenes that show its own Docker and Python at work.
ON_ARM = ("dhcp", "wifi")
