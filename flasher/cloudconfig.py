"""Merges the user's own cloud-config into ours and judges the result. Pure; renders nothing.

The rules, for users: docs/cloud-config.md.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flasher.errors import SeedError
from flasher.model import ExtraConfig, Location, Problem, YamlPath
from flasher.profile import CloudInit, Profile
from flasher.schema import Violation, did_you_mean, violations
from flasher.spec import Target
from flasher.speclogin import SYSTEM_NAMES
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
    "merge_how": _MERGING,
    "merge_type": _MERGING,
}
_RESERVED = ("/usr/local/lib/piflash", "/var/lib/piflash", "/var/lib/cloud")
_PERMISSIONS = re.compile(r"0?[0-7]{3,4}")


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
    found = {(v.path, v.on_key): v for v in _rules(merged.data, profile.cloud_init)}
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
        seed = [f"{boot}/{name}" for name in self.profile.seed]
        return ("path", f"{path} is the seed itself: take another path") if path in seed else None


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


# --- the image's own cloud-init -----------------------------------------------------------------


def _rules(data: Mapping[str, Any], image: CloudInit) -> Iterator[Violation]:
    """Give what today's schema accepts and the image's cloud-init ignores or breaks on."""
    for key in data:
        if key not in image.keys:
            yield Violation((key,), _unknown_key(key, image), on_key=True)
    for number, item in _entries(data, "write_files"):
        yield from _file_rules(item, ("write_files", number), image)
    for number, item in _entries(data, "users"):
        yield from _user_rules(item, ("users", number), image)
    for key in ("bootcmd", "runcmd"):
        yield from _command_rules(data.get(key), (key,))
    made = {str(item.get("name")) for _, item in _entries(data, "users")}
    yield from _group_rules(data.get("groups"), made)
    chpasswd = data.get("chpasswd")
    if isinstance(chpasswd, dict):
        for key in sorted(set(chpasswd) - image.chpasswd_keys):
            message = f"cloud-init {image.version} does not know {key_text(key)!r} here"
            message += did_you_mean(key, sorted(image.chpasswd_keys))
            yield Violation(("chpasswd", key), message, on_key=True)


def _entries(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    value = data.get(key)
    if isinstance(value, list):
        yield from ((i, item) for i, item in enumerate(value) if isinstance(item, dict))


def _command_rules(commands: object, path: YamlPath) -> Iterator[Violation]:
    """One command of another kind, and cloud-init runs none of them (util.py of 18.3, shellify)."""
    for number, command in enumerate(commands if isinstance(commands, list) else ()):
        if isinstance(command, dict):
            message = "is a mapping, because of its ': ': put the whole command into quotes"
            yield Violation((*path, number), message)
        elif not isinstance(command, (str, list)):
            message = "every command is a text, or a list of a program and its arguments"
            yield Violation((*path, number), message)
        elif isinstance(command, list):
            yield from (
                Violation((*path, number, place), "must be a text: put it into quotes")
                for place, word in enumerate(command)
                if not isinstance(word, str)
            )


def _unknown_key(key: str, image: CloudInit) -> str:
    who, name = f"cloud-init {image.version} of this image", key_text(key)
    instead = image.instead.get(key)
    known = f": use {instead}" if instead else did_you_mean(name, sorted(image.keys))
    return f"{who} does not know {name!r} and would ignore it{known}"


def _file_rules(item: Mapping[str, Any], path: YamlPath, image: CloudInit) -> Iterator[Violation]:
    for key in item:
        if key not in image.file_keys:
            known = ", ".join(sorted(image.file_keys))
            who = f"write_files of cloud-init {image.version}"
            message = f"{who} does not know {key_text(key)!r} and would ignore it; known: {known}"
            yield Violation((*path, key), message, on_key=True)
    where, owner = item.get("path"), item.get("owner", "root:root")
    if not isinstance(where, str) or not where.startswith("/"):
        at = (*path, "path") if "path" in item else path
        yield Violation(at, "every file needs a path that starts with /", on_key="path" not in item)
    if not isinstance(owner, str) or owner.split(":")[0] != "root":
        message = (
            f"the owner must be root: cloud-init {image.version} writes files before it makes "
            "users, and gives up at this one; use a runcmd: chown"
        )
        yield Violation((*path, "owner"), message)
    permissions = item.get("permissions", "0644")
    if not isinstance(permissions, str) or not _PERMISSIONS.fullmatch(permissions):
        message = "permissions must be octal digits in quotes, such as '0644'"
        yield Violation((*path, "permissions"), message)
    yield from _encoding_rules(item, path, image)


def _encoding_rules(
    item: Mapping[str, Any], path: YamlPath, image: CloudInit
) -> Iterator[Violation]:
    encoding, content = item.get("encoding", "text/plain"), item.get("content")
    if not isinstance(encoding, str) or encoding not in image.encodings:
        message = f"the encoding is not one of {', '.join(sorted(image.encodings))}"
        yield Violation((*path, "encoding"), message)
    elif "64" in encoding and isinstance(content, str):
        try:
            base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError):
            yield Violation((*path, "content"), "the content is not base64, as its encoding says")


_GROUP_KEYS = {"primary_group", "no_user_group"}


def _user_rules(item: Mapping[str, Any], path: YamlPath, image: CloudInit) -> Iterator[Violation]:
    for key in item:
        if key in ("ssh_pwauth", "chpasswd"):
            message = f"{key!r} belongs at the top level, not inside a user: it has no effect here"
            yield Violation((*path, key), message, on_key=True)
        elif key.replace("-", "_") not in image.user_keys:
            who, name = f"users of cloud-init {image.version}", key_text(key)
            message = f"{who} do not know {name!r} and would ignore it"
            message += did_you_mean(name, sorted(image.user_keys))
            yield Violation((*path, key), message, on_key=True)
    if not isinstance(item.get("name"), str):
        yield Violation(path, "every user needs a name", on_key=True)

    elif SYSTEM_NAMES.fullmatch(item["name"]) and not _GROUP_KEYS & set(item):
        message = "is the name of a system's own user or group, so useradd would not make it"
        yield Violation((*path, "name"), message)
    if "sudo" in item and not isinstance(item["sudo"], (str, list)) and item["sudo"] is not False:
        message = "must be a text, a list of texts, or false: cloud-init would stop at this user"
        yield Violation((*path, "sudo"), message)


def _group_rules(groups: object, made: Container[str]) -> Iterator[Violation]:
    """Groups are made before users, and useradd makes a group of the user's own name."""
    items = groups if isinstance(groups, list) else [groups]
    names = [(("groups", at), name) for at, item in enumerate(items) for name in _group_names(item)]
    for place, name in names:
        path = place if isinstance(groups, list) else ("groups",)
        if name in made:
            yield Violation(path, f"{name!r} is a user made here, who gets a group of that name")
    for at, item in enumerate(items):
        for members in item.values() if isinstance(item, dict) else ():
            if any(str(member) in made for member in _members(members)):
                path = ("groups", at) if isinstance(groups, list) else ("groups",)
                message = "a member is a user made here, and groups come first: name it there"
                yield Violation(path, message)


def _group_names(item: object) -> list[str]:
    if isinstance(item, str):
        return [name.strip() for name in item.split(",")]
    return [str(name) for name in item] if isinstance(item, dict) else []


def _members(value: object) -> list[object]:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    return value if isinstance(value, list) else []


def ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Give the problems in the order of their places, each once."""
    return tuple(
        sorted(
            dict.fromkeys(problems),
            key=lambda p: (p.location.file, p.location.line, p.location.column, p.path),
        )
    )
