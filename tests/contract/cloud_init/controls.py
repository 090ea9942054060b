"""Seeds that something is wrong with, and what cloud-init 18.3, 20.4.1 and 25.1.4 make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Seed = Mapping[str, bytes]
Change = Callable[[Seed], Seed]


def replacing(name: str, old: str, new: str) -> Change:
    def change(seed: Seed) -> Seed:
        assert old.encode() in seed[name]
        return {**seed, name: seed[name].replace(old.encode(), new.encode(), 1)}

    return change


def without(name: str) -> Change:
    return lambda seed: {path: content for path, content in seed.items() if path != name}


def network(text: str) -> Change:
    return lambda seed: {**seed, "network-config": text.encode()}


def wrapped(seed: Seed) -> Seed:
    lines = seed["network-config"].decode().splitlines()
    return network("".join(f"{line}\n" for line in ("network:", *(f"  {line}" for line in lines))))(
        seed
    )


def file(text: str) -> Change:
    return replacing("user-data", "\nwrite_files:\n", f"\nwrite_files:\n{text}")


V2 = """\
version: 2
ethernets:
  eth0:
    dhcp4: false
    addresses: [192.168.1.11/24]
"""
WIFIS = """\
version: 2
ethernets:
  eth0: {addresses: [192.168.1.11/24]}
wifis:
  wlan0: {dhcp4: true, access-points: {home: {password: "correct horse"}}}
"""
APPEND = """\
- {path: /etc/x, content: "a "}
- {path: /etc/x, content: "b", append: true}
"""

IGNORED = "user-data ignored (warning)"
# What is wrong with the seed -> how to make it so, and what 18, 20 and 25 make of it. The table of
# docs/hypriotos.md has the same rows.
CONTROLS: Mapping[str, tuple[Change, str, str, str]] = {
    "nothing": (dict, "taken", "taken", "taken"),
    "CRLF line ends in all three files": (
        lambda seed: {name: text.replace(b"\n", b"\r\n") for name, text in seed.items()},
        *("taken", "taken", "taken"),
    ),
    "no meta-data": (without("meta-data"), *["no data source"] * 3),
    "no user-data": (without("user-data"), *["no data source"] * 3),
    "`instance_id` instead of `instance-id`": (
        replacing("meta-data", "instance-id", "instance_id"),
        *["instance-id `nocloud`"] * 3,
    ),
    "a tab in user-data": (replacing("user-data", "\n  gecos", "\n\tgecos"), *[IGNORED] * 3),
    "a byte order mark before `#cloud-config`": (
        replacing("user-data", "#cloud-config", "\ufeff#cloud-config"),
        *[IGNORED] * 3,
    ),
    "no first line `#cloud-config`": (
        replacing("user-data", "#cloud-config\n", ""),
        *[IGNORED] * 3,
    ),
    "`## template: jinja` as the first line": (
        replacing("user-data", "#cloud-config\n", "## template: jinja\n#cloud-config\n"),
        *(IGNORED, "taken", "taken"),
    ),
    "network-config wrapped in `network:`": (
        wrapped,
        *("no network: AttributeError", "taken", "taken"),
    ),
    "network-config version 2 with `dhcp4: false`": (
        network(V2),
        *("eth0 dhcp, eth0 static", "taken", "taken"),
    ),
    "network-config version 2 with `wifis:`": (network(WIFIS), *["taken (warning)"] * 3),
    "write_files: `append: true`": (
        file(APPEND),
        *("file holds `b`", "file holds `a b`", "file holds `a b`"),
    ),
    "write_files: permissions as a number": (
        file('- {path: /etc/x, content: "a", permissions: 420}\n'),
        *("file holds `a`", "file holds `a` (warning)", "file holds `a`"),
    ),
    "write_files: an owner who is made later": (
        file('- {path: /etc/x, content: "a", owner: pirate}\n'),
        *["file holds `a`, files missing (warning)"] * 3,
    ),
    "runcmd: a number in a list": (
        replacing("user-data", "\nruncmd:\n", "\nruncmd:\n- [sleep, 1]\n"),
        *("taken (warning)", "taken (warning)", "taken"),
    ),
}
