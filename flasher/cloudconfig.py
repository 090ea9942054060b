"""Merges the user's own cloud-config into ours and judges the result. Pure; renders nothing.

The rules, for users: docs/cloud-config.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flasher import cloudrules
from flasher.errors import SeedError
from flasher.model import ExtraConfig, Location, Problem, YamlPath
from flasher.profile import CloudInit, Profile
from flasher.schema import Violation, violations
from flasher.spec import Target
from flasher.yamltext import key_text, path_text

_NAME = "the name under nodes in the cluster file is the host name: leave it out here"
_SOURCES = (
    "it installs packages before the package sources are mended, from a host that no longer has "
    "them: use two items of runcmd, [apt-get, update] and [apt-get, install, --yes, NAME]"
)
_UPGRADE = "it would fill the boot partition with kernels: leave it out"
_APT = (
    "it would overwrite the Raspbian package sources with Debian's, whose programs need a newer "
    "processor: put a file into /etc/apt/sources.list.d with write_files"
)
_LOGIN = (
    "it is for a user of the image that piflash does not make: use user in the cluster file, or "
    "users here"
)
_STAGES = (
    "it is read from /etc/cloud only; the seed depends on what the image has there: leave it out"
)
_MERGING = "piflash merges, by the rules of docs/cloud-config.md: leave it out"

# What piflash owns, or what breaks the image: key -> why, and what to do.
REFUSED: Mapping[str, str] = {
    "hostname": _NAME,
    "fqdn": _NAME,
    "preserve_hostname": _NAME,
    "manage_etc_hosts": "the node's own name must resolve: leave it out; add hosts with a "
    "runcmd that appends to /etc/cloud/templates/hosts.debian.tmpl",
    "packages": _SOURCES,
    "package_update": _SOURCES,
    "package_upgrade": _UPGRADE,
    "package_reboot_if_required": _UPGRADE,
    "apt": _APT,
    "byobu_by_default": _SOURCES,
    "chef": _SOURCES,
    "fan": _SOURCES,
    "mcollective": _SOURCES,
    "puppet": _SOURCES,
    "salt_minion": _SOURCES,
    "network": "it belongs to network-config: use network and nodes.NAME.lan of the cluster file",
    "power_state": "it would stop the node while it joins its swarm: leave it out",
    "user": "write a list under users instead",
    "datasource": _STAGES,
    "datasource_list": _STAGES,
    "system_info": _STAGES,
    "cloud_init_modules": _STAGES,
    "cloud_config_modules": _STAGES,
    "cloud_final_modules": _STAGES,
    "password": _LOGIN,
    "ssh_authorized_keys": _LOGIN,
    "ssh_import_id": _LOGIN,
    "merge_how": _MERGING,
    "merge_type": _MERGING,
}
_RESERVED = (
    "/etc/cloud",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/systemd/system/cloud-init-local.service.d",
    "/etc/systemd/system/piflash.service.d",
    "/usr/local/lib/piflash",
    "/var/lib/cloud",
    "/var/lib/piflash",
)


@dataclass(frozen=True)
class Schemas:
    """cloud-init's official schemas; None where they could not be had."""

    cloud_config: Mapping[str, Any] | None = field(default=None, repr=False)
    network: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Origin:
    """Where a part of the merged document stands in the user's file; `path` is the one there."""

    location: Location
    path: YamlPath


@dataclass(frozen=True)
class Merged:
    """A cloud-config made of ours and the user's. `origins` knows each path that is the user's.

    `problems`: what of the user's could not be merged and was left out.
    """

    data: Mapping[str, Any]
    origins: Mapping[YamlPath, Origin] = field(repr=False)
    problems: tuple[Problem, ...] = ()


def merge(ours: Mapping[str, object], extras: Sequence[ExtraConfig], *, profile: Profile) -> Merged:
    """Merge the user's cloud-configs, in order, into ours; nothing given is changed.

    Mappings are merged, lists appended, of other values the later one wins. Refused, with the
    place: what piflash owns, files that it writes, and a value of another kind than what is there.
    """
    merging = _Merging(ours=ours, profile=profile, data=dict(ours))
    for extra in extras:
        for key, value in extra.data.items():
            merging.top(extra, key, value)
    return Merged(merging.data, merging.origins, tuple(merging.problems))


def check(merged: Merged, *, profile: Profile, schemas: Schemas) -> tuple[Problem, ...]:
    """Give every problem of the user's part, by the official schema and by the image's rules.

    SeedError if what is wrong is not the user's: that is a bug of ours.
    """
    found = {(v.path, v.on_key): v for v in cloudrules.rules(merged.data, profile)}
    if schemas.cloud_config is not None:
        judged = {path for path, _ in found}
        for violation in violations(
            merged.data, schemas.cloud_config, binary_is_text=True, private=_all
        ):
            if violation.path not in judged:
                found.setdefault((violation.path, violation.on_key), violation)
    return merged.problems + tuple(
        _blame(violation, merged, profile=profile) for violation in found.values()
    )


def for_image(data: Mapping[str, Any], image: CloudInit) -> dict[str, Any]:
    """Give a checked cloud-config in the words of the image's own cloud-init; `data` stays."""
    said = dict(data)
    if isinstance(said.get("ntp"), dict):
        # By itself it takes systemd-timesyncd, which does not run beside ntpd (cc_ntp.py of 18.3).
        said["ntp"] = {"ntp_client": image.ntp_client, **said["ntp"]}
    if isinstance(said.get("users"), list):
        said["users"] = [_user_for_image(user) for user in said["users"]]
    return said


def _user_for_image(user: object) -> object:
    """A number as `uid` would be passed over (distros/__init__.py of 18.3, add_user)."""
    if not isinstance(user, dict) or not isinstance(user.get("uid"), int):
        return user
    return {**user, "uid": str(user["uid"])}


def judge(
    extra: ExtraConfig, target: Target, *, profile: Profile, schemas: Schemas
) -> tuple[Problem, ...]:
    """Give every problem of one cloud-config by itself, for spec.Known.judge.

    It is merged into what is ours for any node of `target`; `check` has the last word.
    """
    paths = [{"path": rule.path} for rule in profile.files if rule.when == "always"]
    ours: dict[str, Any] = {"bootcmd": [], "runcmd": [], "users": [], "write_files": paths}
    ours |= {"manage_etc_hosts": True}
    ours |= {"hostname": target.node} if target.node is not None else {}
    ours |= {"users": [{"name": target.user}]} if target.user is not None else {}
    merged = merge(ours, [extra], profile=profile)
    # The official schema refuses an empty list, which is only where nobody wrote one.
    data = {key: value for key, value in merged.data.items() if value != [] or key not in ours}
    return check(replace(merged, data=data), profile=profile, schemas=schemas)


def check_network(data: object, *, schemas: Schemas) -> None:
    """Check a network-config that we rendered. SeedError: it is all ours."""
    if schemas.network is None:
        return
    for violation in violations({"network": data}, schemas.network, private=_all):
        raise _bug("network-config", violation)


def _all(_path: YamlPath) -> bool:
    """Any text of a cloud-config may hold a secret: none is repeated."""
    return True


# --- merging ------------------------------------------------------------------------------------


@dataclass
class _Merging:
    """The document while it grows; lives for one merge."""

    ours: Mapping[str, object]
    profile: Profile
    data: dict[str, Any]
    origins: dict[YamlPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, extra: ExtraConfig, path: YamlPath, message: str) -> None:
        place, name = _place(extra, path), path_text((*extra.path, *path))
        self.problems.append(Problem(place, name, message))

    def top(self, extra: ExtraConfig, key: str, value: object) -> None:
        reason = REFUSED.get("apt" if key.startswith("apt_") else key)
        if reason is None:
            self.refuse_items(extra, key, value)
            self.value(extra, (key,), (key,), value)
        elif value != self.ours.get(key, False):
            self.refuse(extra, (key,), f"piflash refuses {key_text(key)!r}: {reason}")

    def value(self, extra: ExtraConfig, to: YamlPath, path: YamlPath, value: object) -> None:
        """Merge the user's value at `path` of its own text to `to` in the document."""
        parent: Any = self.data
        for step in to[:-1]:
            parent = parent[step]
        there = parent.get(to[-1])
        if isinstance(there, dict) and isinstance(value, dict):
            parent[to[-1]] = dict(there)
            for key, item in value.items():
                self.value(extra, (*to, key), (*path, key), item)
        elif isinstance(there, list) and isinstance(value, list):
            parent[to[-1]] = there + value
            for number, item in enumerate(value):
                self.note(extra, (*to, len(there) + number), (*path, number), item)
        elif isinstance(there, (dict, list)):
            kind = "mapping" if isinstance(there, dict) else "list"
            message = f"must be a {kind}, because it is added to the one that is there already"
            self.refuse(extra, path, message)
        else:
            parent[to[-1]] = value
            self.note(extra, to, path, value)

    def note(self, extra: ExtraConfig, to: YamlPath, path: YamlPath, value: object) -> None:
        self.origins[to] = Origin(_place(extra, path), (*extra.path, *path))
        for step, item in _items(value):
            self.note(extra, (*to, step), (*path, step), item)

    def refuse_items(self, extra: ExtraConfig, key: str, value: object) -> None:
        """Refuse users and files that would replace ours."""
        judges = {"users": self.user_refusal, "write_files": self.file_refusal}
        if key not in judges or not isinstance(value, list):
            return
        for number, item in enumerate(value):
            refusal = judges[key](item) if isinstance(item, dict) else None
            if refusal is not None:
                self.refuse(extra, (key, number, refusal[0]), refusal[1])

    def user_refusal(self, item: Mapping[str, object]) -> tuple[str, str] | None:
        names = [user.get("name") for user in _dicts(self.ours.get("users"))]
        if item.get("name") not in names:
            return None
        return "name", f"{item['name']!r} is the cluster's own user: change it under user there"

    def file_refusal(self, item: Mapping[str, object]) -> tuple[str, str] | None:
        path = item.get("path")
        if not isinstance(path, str):
            return None
        # normpath keeps two leading slashes, as POSIX allows; Linux does not tell them apart.
        path = "/" + posixpath.normpath(path).lstrip("/")
        ours = [str(file.get("path")) for file in _dicts(self.ours.get("write_files"))]
        if path in ours:
            return "path", f"{path} is written by piflash: take another path, or edit in a runcmd"
        boot = self.profile.boot.mount
        for reserved in (*_RESERVED, f"{boot}/piflash"):
            if f"{path}/".startswith(f"{reserved}/"):
                return "path", f"lies in {reserved}, which is piflash's: take another path"
        if path in [f"{boot}/{name}" for name in self.profile.seed]:
            return "path", f"{path} is the seed itself: take another path"
        if path in [f"{boot}/{name}" for name in self.profile.boot_files]:
            return "path", f"{path} is what the Pi starts from: change lines of it in a runcmd"
        return None


def _place(extra: ExtraConfig, path: YamlPath) -> Location:
    """Give the place of the path or of its nearest parent that has one."""
    while path and path not in extra.locations:
        path = path[:-1]
    return extra.locations[path]


def _items(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


# --- whose fault --------------------------------------------------------------------------------


def _blame(violation: Violation, merged: Merged, *, profile: Profile) -> Problem:
    origin = _origin(violation.path, merged.origins)
    if origin is None:
        raise _bug("user-data", violation, profile=profile)
    return Problem(origin.location, path_text(origin.path), violation.message)


def _origin(path: YamlPath, origins: Mapping[YamlPath, Origin]) -> Origin | None:
    """Give what the user wrote at the path, above it, or (a whole list is wrong) first below it."""
    above = (path[:depth] for depth in range(len(path), 0, -1))
    below = (place for place in origins if place[: len(path)] == path)
    place = next((place for place in above if place in origins), None) or next(below, None)
    return origins[place] if place is not None else None


def _bug(what: str, violation: Violation, *, profile: Profile | None = None) -> SeedError:
    image = f" for {profile.title}" if profile else ""
    return SeedError(
        f"the rendered {what}{image} is not valid: {path_text(violation.path)}: "
        f"{violation.message}",
        hint="this is a bug of piflash or of the base image's profile: please report it",
    )


def ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Give the problems in the order of their places, each once."""
    return tuple(
        sorted(
            dict.fromkeys(problems),
            key=lambda p: (p.location.file, p.location.line, p.location.column, p.path),
        )
    )
