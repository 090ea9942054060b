"""The cluster address on its interface: is it there, and put it there. Shell."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from typing import Tuple

SECONDS = 10.0


class AddressError(Exception):
    """The address could not be set; the message is ip's own."""


def is_up(address: str, *, interface: str) -> bool:
    """Whether the interface has the address."""
    code, said = _ip("-4", "-o", "addr", "show", "dev", interface)
    return code == 0 and (" %s/" % address) in said


def bring_up(address: str, *, subnet: str, interface: str) -> None:
    """Put the address on the interface, labelled so that dhclient leaves it alone."""
    prefix = ipaddress.IPv4Network(subnet).prefixlen
    full, label = "%s/%d" % (address, prefix), interface + ":1"
    code, said = _ip("-4", "addr", "replace", full, "dev", interface, "label", label)
    if code:
        raise AddressError("ip addr replace %s dev %s: %s" % (full, interface, said.strip()))


def _ip(*arguments: str) -> Tuple[int, str]:
    try:
        done = subprocess.run(
            ("ip", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            env=dict(os.environ, LC_ALL="C"),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")
