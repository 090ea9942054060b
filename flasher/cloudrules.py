"""What the image's cloud-init ignores or breaks on, though the newest schema accepts it. Pure.

The rules, for users: docs/cloud-config.md.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import posixpath
import re
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from flasher.model import YamlPath
from flasher.profile import CloudInit, Profile
from flasher.schema import Violation, did_you_mean
from flasher.speclogin import SYSTEM_NAMES
from flasher.yamltext import key_text

_PERMISSIONS = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(rf"root(:({SYSTEM_NAMES.pattern})?)?")


def rules(data: Mapping[str, Any], profile: Profile) -> Iterator[Violation]:
    """Give every violation in a whole cloud-config, ours and the user's."""
    image = profile.cloud_init
    for key in data:
        if key not in image.keys:
            yield Violation((key,), _unknown_key(key, image), on_key=True)
    yield from _place_rules(data, profile)
    users = [(("users", number), item) for number, item in _entries(data, "users")]
    homes = [_home(item) for _, item in users]
    for number, item in _entries(data, "write_files"):
        yield from _file_rules(item, ("write_files", number), image, homes=homes)
    for path, item in users:
        yield from _user_rules(item, path, image)
    for key in ("bootcmd", "runcmd"):
        yield from _command_rules(data.get(key), (key,))
    made = {str(item.get("name")) for _, item in users}
    yield from _group_rules(data.get("groups"), made)
    yield from _mount_rules(data)
    chpasswd = data.get("chpasswd")
    if isinstance(chpasswd, dict):
        for key in sorted(set(chpasswd) - image.chpasswd_keys):
            message = f"cloud-init {image.version} does not know {key_text(key)!r} here"
            message += did_you_mean(key, sorted(image.chpasswd_keys))
            yield Violation(("chpasswd", key), message, on_key=True)


def _place_rules(data: Mapping[str, Any], profile: Profile) -> Iterator[Violation]:
    """What depends on data that the image has, or has not: clients, locales, time zones."""
    image = profile.cloud_init
    ntp = data.get("ntp")
    client = ntp.get("ntp_client") if isinstance(ntp, dict) else None
    if client not in (None, image.ntp_client):
        message = f"the image has {image.ntp_client!r} and no other client: leave it out"
        yield Violation(("ntp", "ntp_client"), message)
    locale = data.get("locale")
    if isinstance(locale, str) and locale not in image.locales:
        message = (
            f"the image has {', '.join(sorted(image.locales))}, and cloud-init {image.version} "
            "makes no other: use a runcmd that adds a line to /etc/locale.gen and calls locale-gen "
            "and update-locale"
        )
        yield Violation(("locale",), message)
    zone = data.get("timezone")
    if isinstance(zone, str) and zone in profile.timezones:
        message = f"the image does not know it yet: write {profile.timezones[zone]}"
        yield Violation(("timezone",), message)


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


def _home(user: Mapping[str, Any]) -> str:
    return str(user.get("homedir") or f"/home/{user.get('name')}").rstrip("/")


def _file_rules(
    item: Mapping[str, Any], path: YamlPath, image: CloudInit, *, homes: Sequence[str]
) -> Iterator[Violation]:
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
    else:
        problem = _path_problem(where, homes)
        if problem:
            yield Violation((*path, "path"), problem)
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        message = (
            "the owner must be root, and the group one that the image has: cloud-init "
            f"{image.version} writes files before it makes users and groups, and gives up at this "
            "one; use a runcmd: chown"
        )
        yield Violation((*path, "owner"), message)
    permissions = item.get("permissions", "0644")
    if not isinstance(permissions, str) or not _PERMISSIONS.fullmatch(permissions):
        message = "permissions must be octal digits in quotes, such as '0644'"
        yield Violation((*path, "permissions"), message)
    yield from _encoding_rules(item, path, image)


def _path_problem(where: str, homes: Sequence[str]) -> str:
    if where.endswith(("/", "/.", "/..")) or "\0" in where:
        return "is not the name of a file"
    name = posixpath.normpath(where)
    if any(name.startswith(f"{home}/") for home in homes):
        return (
            "lies in the home of a user made here, and files are written before users are made: "
            "the home would be root's, without the files that a home begins with; write it in a "
            "runcmd"
        )
    return ""


def _encoding_rules(
    item: Mapping[str, Any], path: YamlPath, image: CloudInit
) -> Iterator[Violation]:
    encoding, content = item.get("encoding", "text/plain"), item.get("content")
    if not isinstance(encoding, str) or encoding not in image.encodings:
        message = f"the encoding is not one of {', '.join(sorted(image.encodings))}"
        yield Violation((*path, "encoding"), message)
        return
    data = content.encode() if isinstance(content, str) else content
    if not isinstance(data, bytes):
        return
    if "64" in encoding:
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            yield Violation((*path, "content"), "the content is not base64, as its encoding says")
            return
    if "gz" in encoding:
        try:
            gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            yield Violation((*path, "content"), "the content is not gzip, as its encoding says")


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


def _mount_rules(data: Mapping[str, Any]) -> Iterator[Violation]:
    """systemd waits 90 s for a disk that is not there and then stops in emergency mode."""
    for number, fields in enumerate(data["mounts"] if isinstance(data.get("mounts"), list) else ()):
        options = fields[3] if isinstance(fields, list) and len(fields) > 3 else None
        if isinstance(options, str) and not {"nofail", "noauto"} & set(options.split(",")):
            message = "add nofail: without it the Pi does not come up when the disk is not there"
            yield Violation(("mounts", number, 3), message)


def _group_names(item: object) -> list[str]:
    if isinstance(item, str):
        return [name.strip() for name in item.split(",")]
    return [str(name) for name in item] if isinstance(item, dict) else []


def _members(value: object) -> list[object]:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    return value if isinstance(value, list) else []
