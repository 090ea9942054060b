"""A base image as data: the profile file, parsed. Pure; it knows no node and renders nothing.

What a profile says of its image and why: docs/cloud-config.md and the comments of the templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flasher.errors import SeedError

CONDITIONS = ("always", "wifi", "seccomp-allow-all")
SEED_NAMES = ("user-data", "meta-data", "network-config")


@dataclass(frozen=True)
class Boot:
    """The FAT boot partition as the running system sees it; `unit` is its systemd mount unit."""

    mount: str
    unit: str
    label: str


@dataclass(frozen=True)
class Login:
    """What the image's default user is given, and which ssh keys its server does not know.

    Security keys (`sk-...`) came with OpenSSH 8.2.
    """

    groups: tuple[str, ...]
    shell: str
    sudo: str
    ssh_server: str
    unknown_key_types: tuple[str, ...]


@dataclass(frozen=True)
class Cmdline:
    """The kernel's command line: words that must be there, and starts of words that must not.

    `ext4_flags`: options that the root file system is mounted with, if the line says it is ext4.
    """

    file: str
    need: tuple[str, ...]
    never: tuple[str, ...]
    ext4_flags: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Package hosts that no longer answer -> those that do, in one apt sources file."""

    file: str
    hosts: Mapping[str, str]


@dataclass(frozen=True)
class FileRule:
    """A file that cloud-init writes from a template, under a condition out of CONDITIONS."""

    path: str
    template: str
    permissions: str
    when: str


@dataclass(frozen=True)
class CloudInit:
    """What the image's own cloud-init understands, beside what today's schema says.

    `instead`: what to write in place of a key that it does not know. `every_boot`: the keys that it
    looks at in every boot, not in the first alone. `ntp_client`: the one of the image, which
    cloud-init does not find by itself. `locales`: those that the image has made.
    """

    version: str
    keys: frozenset[str]
    instead: Mapping[str, str]
    every_boot: frozenset[str]
    user_keys: frozenset[str]
    file_keys: frozenset[str]
    encodings: frozenset[str]
    chpasswd_keys: frozenset[str]
    ntp_client: str
    locales: frozenset[str]


@dataclass(frozen=True)
class Profile:
    """One base image. `seed`: name on the boot partition -> its template.

    `timezones`: names that are newer than the image's tz database -> the name that it knows.
    """

    name: str
    title: str
    arch: str
    python: str
    docker: str
    boot: Boot
    seed: Mapping[str, str]
    network_version: int
    network_wrapped: bool
    login: Login
    timezones: Mapping[str, str]
    clock_file: str
    cmdline: Cmdline
    sources: Sources | None
    files: tuple[FileRule, ...]
    seccomp: Mapping[str, str]
    cloud_init: CloudInit

    @property
    def boot_files(self) -> tuple[str, ...]:
        """Files of the image that the Pi would not start well without."""
        return (self.cmdline.file, "config.txt", self.clock_file)

    @property
    def edited_boot_files(self) -> tuple[str, ...]:
        """Files of the image that the seed needs to see, because it edits them."""
        return (self.cmdline.file,)


def parse(text: str, *, file: str = "profile") -> Profile:
    """Read a profile file. SeedError names the key that is missing, unknown or of a wrong type."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SeedError(f"{file}: not JSON: {error}") from None
    try:
        return _profile(data)
    except KeyError as error:
        raise SeedError(f"{file}: missing key {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise SeedError(f"{file}: {error}") from None


def _profile(data: Mapping[str, Any]) -> Profile:
    network, sources = data["network"], data["sources"]
    return Profile(
        name=data["name"],
        title=data["title"],
        arch=data["arch"],
        python=data["python"],
        docker=data["docker"],
        boot=Boot(**data["boot"]),
        seed={name: data["seed"][name] for name in SEED_NAMES},
        network_version=int(network["version"]),
        network_wrapped=bool(network["wrapped"]),
        login=Login(**_tuples(data["login"], "groups", "unknown_key_types")),
        timezones=dict(data["timezones"]),
        clock_file=data["clock_file"],
        cmdline=Cmdline(**_tuples(data["cmdline"], "need", "never", "ext4_flags")),
        sources=Sources(**sources) if sources else None,
        files=tuple(_file(item) for item in data["files"]),
        seccomp=dict(data["seccomp"]),
        cloud_init=_cloud_init(data["cloud_init"]),
    )


def _file(item: Mapping[str, str]) -> FileRule:
    rule = FileRule(**{"permissions": "0644", "when": "always", **item})
    if rule.when not in CONDITIONS:
        raise ValueError(f"files: {rule.path}: when: {rule.when!r} is not one of {CONDITIONS}")
    return rule


def _cloud_init(data: Mapping[str, Any]) -> CloudInit:
    return CloudInit(
        version=data["version"],
        keys=frozenset(data["keys"]),
        instead=dict(data["instead"]),
        every_boot=frozenset(data["every_boot"]),
        user_keys=frozenset(data["user_keys"]),
        file_keys=frozenset(data["file_keys"]),
        encodings=frozenset(data["encodings"]),
        chpasswd_keys=frozenset(data["chpasswd_keys"]),
        ntp_client=str(data["ntp_client"]),
        locales=frozenset(data["locales"]),
    )


def _tuples(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: _tuple(value) if key in keys else value for key, value in data.items()}


def _tuple(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)
