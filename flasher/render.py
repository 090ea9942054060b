"""ClusterSpec + NodeSpec + profile + templates -> the texts of a seed. Reads no file.

Every text is ASCII with LF line ends: the PyYAML 3.13 of Raspbian buster refuses characters beyond
U+FFFF that are not escaped.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import yaml

from flasher.errors import ImageError, SeedError
from flasher.model import ClusterSpec, NodeSpec, Wifi
from flasher.profile import FileRule, Profile

_HEADER = "#cloud-config\n"
# What `piflash render` shows in place of secret texts.
MASK = "***"


def cloud_config(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    profile: Profile,
    templates: Mapping[str, str],
    flashed_at: int,
) -> dict[str, Any]:
    """Give the node's cloud-config as data, before the user's own is merged in.

    `templates`: name -> text. `flashed_at`: UTC seconds, below which the Pi's clock never stays.
    SeedError if a template is missing or broken.
    """
    values = _values(spec, node, profile=profile) | {"flashed_at": flashed_at}
    env = _environment(templates)
    values["files"] = [
        {
            "path": rule.path,
            "permissions": rule.permissions,
            "content": _render(env, rule.template, values),
        }
        for rule in profile.files
        if _wanted(rule, spec=spec, node=node)
    ]
    data = yaml.safe_load(_render(env, profile.seed["user-data"], values))
    if not isinstance(data, dict):
        raise SeedError(f"{profile.seed['user-data']}: is not a mapping")
    return data


def kept_user_data(config: Mapping[str, object], *, profile: Profile) -> str:
    """Give what the Pi keeps of a cloud-config after its first boot: what every boot needs.

    Users, files and commands are done by then, and may hold passwords and keys.
    """
    kept = profile.cloud_init.every_boot
    return user_data({key: value for key, value in config.items() if key in kept})


def user_data(config: Mapping[str, object]) -> str:
    """Give the text of a cloud-config, first line and all. SeedError if it would not read back."""
    return _HEADER + _dump(config)


def network_config(
    spec: ClusterSpec, node: NodeSpec, *, profile: Profile, templates: Mapping[str, str]
) -> str:
    """Give the text of network-config in the form that the image's cloud-init takes."""
    values = _values(spec, node, profile=profile)
    text = _render(_environment(templates), profile.seed["network-config"], values)
    data = yaml.safe_load(text)
    return _dump({"network": data} if profile.network_wrapped else data)


def meta_data(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    profile: Profile,
    templates: Mapping[str, str],
    instance_id: str,
) -> str:
    """Give the text of meta-data. A new `instance_id` makes cloud-init start anew."""
    values = _values(spec, node, profile=profile) | {"instance_id": instance_id}
    return _dump(
        yaml.safe_load(_render(_environment(templates), profile.seed["meta-data"], values))
    )


def cmdline(existing: bytes, *, profile: Profile) -> bytes:
    """Give the kernel's command line with the words that the profile needs; one line.

    What is there stays as it is, byte for byte, if nothing is missing. ImageError if the line
    would keep the seed from being read.
    """
    rules = profile.cmdline
    try:
        line = existing.decode("ascii").strip()
    except UnicodeDecodeError:
        line = ""
    if not line or "\n" in line:
        raise ImageError(
            f"{rules.file} of the image is not one line of ASCII text",
            hint=f"take an image of {profile.title}, or name the profile that fits this one",
        )
    words = line.split()
    for word in words:
        if word.startswith(rules.never):
            raise ImageError(
                f"{rules.file} of the image has {word!r}, so cloud-init would not take the seed",
                hint="take the image as it was published",
            )
    missing = [word for word in rules.need if word not in words]
    wanted = [*_with_ext4_flags(words, rules.ext4_flags), *missing]
    return f"{' '.join(wanted)}\n".encode() if wanted != words else existing


def _with_ext4_flags(words: list[str], flags: Sequence[str]) -> list[str]:
    """Give the words with the flags added to rootflags=, of which the kernel takes the last one."""
    if "rootfstype=ext4" not in words:
        return words
    given = [word for word in words if word.startswith("rootflags=")]
    there = given[-1].partition("=")[2].split(",") if given else []
    missing = [flag for flag in flags if flag not in there]
    if not missing:
        return words
    return [*(w for w in words if w not in given), f"rootflags={','.join([*there, *missing])}"]


def files(source: Mapping[str, bytes], *, values: Mapping[str, object]) -> dict[str, bytes]:
    """Give a stack's files for the card: those ending in .j2 rendered, the others as they are."""
    env = _environment(
        {name: text.decode() for name, text in source.items() if name.endswith(".j2")}
    )
    return {
        name.removesuffix(".j2"): (
            _render(env, name, values).encode() if name.endswith(".j2") else content
        )
        for name, content in sorted(source.items())
    }


def cluster_address(spec: ClusterSpec, node: NodeSpec) -> str:
    """Give the node's address in the cluster's subnet, with its prefix: 198.18.42.11/24."""
    prefix = ipaddress.IPv4Network(spec.cluster_subnet).prefixlen
    return f"{node.cluster_address}/{prefix}"


def wifi_key(wifi: Wifi) -> str:
    """Give the 256-bit key of a network in hex: IEEE 802.11i, annex H.4.1 (passphrase to PSK)."""
    text = wifi.psk.reveal()
    if len(text) == 64:
        return text.lower()
    return hashlib.pbkdf2_hmac("sha1", text.encode(), wifi.ssid.encode(), 4096, 32).hex()


# --- values and templates -----------------------------------------------------------------------


def _values(spec: ClusterSpec, node: NodeSpec, *, profile: Profile) -> dict[str, Any]:
    """Give what templates may use: plain values only."""
    password = spec.user.password_hash
    wifi = node.wifi
    return {
        "cluster": spec.name,
        "timezone": spec.timezone,
        "seccomp": spec.seccomp,
        "cluster_address": cluster_address(spec, node),
        "user": {
            "name": spec.user.name,
            "password_hash": password.reveal() if password else None,
            "ssh_authorized_keys": list(spec.user.ssh_authorized_keys),
        },
        "node": {
            "name": node.name,
            "ethernet": node.ethernet,
            "lan": node.lan
            and {
                "address": node.lan.address,
                "gateway": node.lan.gateway,
                "dns": list(node.lan.dns),
            },
            "wifi": wifi
            and {
                "country": wifi.country,
                "ssid_hex": wifi.ssid.encode().hex(),
                "psk_hex": wifi_key(wifi),
            },
        },
        "boot": {"mount": profile.boot.mount, "unit": profile.boot.unit},
        "login": {
            "groups": list(profile.login.groups),
            "shell": profile.login.shell,
            "sudo": profile.login.sudo,
        },
        "sources": profile.sources
        and {"file": profile.sources.file, "hosts": dict(profile.sources.hosts)},
        "network_version": profile.network_version,
    }


def _wanted(rule: FileRule, *, spec: ClusterSpec, node: NodeSpec) -> bool:
    conditions = {
        "always": True,
        "wifi": node.wifi is not None,
        "seccomp-allow-all": spec.seccomp == "allow-all",
    }
    return conditions[rule.when]


def _environment(templates: Mapping[str, str]) -> jinja2.Environment:
    return _compiling(tuple(sorted(templates.items())))


@functools.lru_cache(maxsize=8)
def _compiling(templates: tuple[tuple[str, str], ...]) -> jinja2.Environment:
    """Give an environment that keeps its compiled templates; the same one for the same texts."""
    # No autoescape: these are configuration files, not HTML; `yaml`, `json` and `sh` quote.
    env = jinja2.Environment(  # noqa: S701
        loader=jinja2.DictLoader(dict(templates)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    filters: Mapping[str, Callable[[Any], str]] = {
        "yaml": inline,
        "json": json.dumps,
        "sh": shlex.quote,
    }
    env.filters.update(filters)
    return env


def _render(env: jinja2.Environment, name: str, values: Mapping[str, object]) -> str:
    try:
        return env.get_template(name).render(values)
    except jinja2.TemplateError as error:
        raise SeedError(f"template {name}: {type(error).__name__}: {error}") from None


# --- YAML ---------------------------------------------------------------------------------------


def inline(value: object) -> str:
    """Give a value as YAML on one line, whatever text it holds; ASCII only."""
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{inline(k)}: {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    raise SeedError(f"a template puts a {type(value).__name__} into YAML")


def _escaped(character: str) -> str:
    """Escape as YAML 1.1 does; JSON's pairs of surrogates would be read as two characters."""
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, where YAML can, and never an alias."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.rstrip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(data: object) -> str:
    text = yaml.dump(
        data,
        Dumper=_Dumper,
        default_flow_style=False,
        allow_unicode=False,
        sort_keys=False,
        width=1 << 16,
        line_break="\n",
    )
    if yaml.safe_load(text) != data:
        raise SeedError("the rendered YAML does not read back as it was meant")
    return text
