"""Cluster file text -> ClusterSpec, or all of its problems with their places.

Pure: files that the cluster file names are read through `Known.read`.
"""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from flasher import schema, specrules, yamltext
from flasher.errors import ClusterFileError
from flasher.model import (
    ClusterSpec,
    Document,
    ExtraConfig,
    ImageRef,
    LanAddress,
    Location,
    NodeSpec,
    Problem,
    Role,
    Secret,
    User,
    Wifi,
    YamlPath,
)
from flasher.schema import Violation
from flasher.speclogin import DEFAULT_USER, check_login
from flasher.specnet import (
    check_network,
    check_wifi,
    cluster_addresses,
    cluster_subnet,
    parse_lan,
)
from flasher.specview import View

_FIRST_LINE = "#cloud-config"
_PRIVATE = (("user",), ("network", "wifi"), ("stacks",), ("cloud_config",))


@dataclass(frozen=True)
class Target:
    """Whose cards a cloud-config is for. `node`, `user`: None if several or not known."""

    image: ImageRef
    node: str | None
    user: str | None


Judge = Callable[[ExtraConfig, Target], Iterable[Problem]]


@dataclass(frozen=True)
class Known:
    """What a cluster file is checked against.

    `schema`: cloud-init/cluster.schema.json. `images`, `profiles`, `stacks`: the names there are.
    `read` gives the text of a file named in the cluster file, relative to it; OSError and
    UnicodeDecodeError become problems. `timezones`: empty where no tz database is installed.
    `judge` says what is wrong with the user's own cloud-config by itself (cloudconfig.judge).
    """

    schema: Mapping[str, Any] = field(repr=False)
    images: Collection[str]
    profiles: Collection[str]
    stacks: Collection[str]
    read: Callable[[str], str]
    timezones: Collection[str] = field(
        default_factory=lambda: frozenset(zoneinfo.available_timezones()), repr=False
    )
    judge: Judge | None = None


def parse(text: str, *, file: str, known: Known) -> ClusterSpec:
    """Give the cluster that the text describes. ClusterFileError names every problem at once.

    `file` is the cluster file's name for messages; files named in it are shown beside it.
    """
    document, problems = yamltext.read(text, file=file)
    taken = {problem.location for problem in problems}
    violations = list(schema.violations(document.data, known.schema, private=_is_private))
    view = View(document.data, frozenset(v.path for v in violations if not v.on_key))
    violations += _cross_check(view, known)
    found = [*problems, *_placed(violations, document, without=taken)]
    extras = _extras(view, document, known)
    found += extras.problems
    found += _judged(view, extras, known, without={problem.location for problem in found})
    if found:
        raise yamltext.failure(found, file=file, hint="correct them, then: piflash check")
    return _cluster(view, extras.configs)


def _is_private(path: YamlPath) -> bool:
    """Tell whether a value is one that no message may repeat."""
    node_extra = path[:1] == ("nodes",) and path[2:3] == ("cloud_config",)
    return path[:1] in _PRIVATE or path[:2] in _PRIVATE or node_extra


def _cross_check(view: View, known: Known) -> Iterator[Violation]:
    names = specrules.Names(
        images=known.images,
        profiles=known.profiles,
        stacks=known.stacks,
        timezones=known.timezones,
    )
    if isinstance(view.data, dict):
        yield from specrules.check_names(view, names)
        yield from specrules.check_managers(view)
        yield from specrules.check_seed(view)
        yield from check_login(view)
        yield from check_network(view)
        yield from check_wifi(view)


def _placed(
    violations: list[Violation], document: Document, *, without: set[Location]
) -> Iterator[Problem]:
    """Give violations their places; where YAML itself had a problem, that one is enough."""
    for violation in violations:
        location = yamltext.locate(document, violation.path, on_key=violation.on_key)
        if location not in without:
            yield Problem(location, yamltext.path_text(violation.path), violation.message)


# --- cloud_config -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Extras:
    """The user's own cloud-config: by its path in the cluster file, with what was wrong."""

    configs: Mapping[YamlPath, ExtraConfig]
    problems: tuple[Problem, ...]


def _extras(view: View, document: Document, known: Known) -> _Extras:
    configs: dict[YamlPath, ExtraConfig] = {}
    problems: list[Problem] = []
    from_file = functools.cache(functools.partial(_from_file, beside=document.file, known=known))
    for path in (("cloud_config",), *(("nodes", node, "cloud_config") for node in view.nodes)):
        value = view.get(*path)
        if isinstance(value, dict):
            places = yamltext.relative(document, path)
            configs[path] = ExtraConfig(data=value, locations=places, path=path)
        elif isinstance(value, str):
            config, wrong = from_file(value)
            if config is not None:
                configs[path] = config
            here = document.values[path]
            problems += (
                p if p.location.line else replace(p, location=here, path=yamltext.path_text(path))
                for p in wrong
            )
    return _Extras(configs, tuple(problems))


def _judged(
    view: View, extras: _Extras, known: Known, *, without: set[Location]
) -> Iterator[Problem]:
    """Judge each cloud-config by itself, whatever else is wrong with the cluster file."""
    if known.judge is None:
        return
    image = _image(view)
    if image.profile not in known.profiles:
        image = replace(image, profile=None)
    user = view.text("user", "name") or (None if view.written("user", "name") else DEFAULT_USER)
    only = view.nodes[0] if len(view.nodes) == 1 else None
    for path, config in extras.configs.items():
        node = only if path == ("cloud_config",) else str(path[1])
        found = known.judge(config, Target(image=image, node=node, user=user))
        yield from (problem for problem in found if problem.location not in without)


def _from_file(
    name: str, *, beside: str, known: Known
) -> tuple[ExtraConfig | None, tuple[Problem, ...]]:
    """Read a cloud-config file. Its places are in that file, named as seen from here.

    Line 0 stands for the place in the cluster file that names it.
    """
    file = str(PurePath(beside).parent / name)
    try:
        text = known.read(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file in UTF-8"
        # Without the suffix it may be anything that was put under the wrong key.
        shown = repr(name) if name.endswith((".yaml", ".yml")) else "the file of this name"
        return None, (Problem(Location(file, 0, 0), "", f"cannot read {shown}: {reason}"),)
    if text.removeprefix("\ufeff").split("\n", 1)[0].rstrip() != _FIRST_LINE:
        # hypriot/flash#138: cloud-init ignores such a file without a word.
        words = f"the first line must be {_FIRST_LINE}: put it there"
        return None, (Problem(Location(file, 1, 1), "", words),)
    try:
        document, problems = yamltext.read(text, file=file)
    except ClusterFileError as error:
        return None, tuple(p for p in error.problems if isinstance(p, Problem))
    if not isinstance(document.data, dict):
        words = "must be a mapping of cloud-config keys"
        return None, (*problems, Problem(document.values[()], "", words))
    return ExtraConfig(document.data, yamltext.relative(document, ())), problems


# --- building; nothing here can fail once the checks have passed --------------------------------


def _cluster(view: View, extras: Mapping[YamlPath, ExtraConfig]) -> ClusterSpec:
    name = view.text("name") or ""
    return ClusterSpec(
        name=name,
        image=_image(view),
        domain=view.text("domain") or f"{name}.home.arpa",
        timezone=view.text("timezone") or specrules.DEFAULT_TIMEZONE,
        user=_user(view),
        cluster_subnet=str(cluster_subnet(view)),
        nodes=_nodes(view, extras),
        stacks={stack: view.mapping("stacks", stack) for stack in view.mapping("stacks")},
        seccomp=view.text("docker", "seccomp") or "allow-all",
        cloud_config=extras.get(("cloud_config",)),
    )


def _image(view: View) -> ImageRef:
    text = view.text("image") or view.text("image", "url") or view.text("image", "path")
    text = text or specrules.DEFAULT_IMAGE
    sha256 = view.text("image", "sha256")
    if view.mapping("image") or specrules.is_path_or_url(text):
        profile = view.text("image", "profile") or specrules.DEFAULT_PROFILE
        return ImageRef(text, sha256=sha256.lower() if sha256 else None, profile=profile)
    return ImageRef(text)


def _user(view: View) -> User:
    password_hash = view.text("user", "password_hash")
    return User(
        name=view.text("user", "name") or DEFAULT_USER,
        ssh_authorized_keys=tuple(
            line.strip() for line in view.texts("user", "ssh_authorized_keys").values()
        ),
        password_hash=Secret(password_hash) if password_hash else None,
    )


def _nodes(view: View, extras: Mapping[YamlPath, ExtraConfig]) -> tuple[NodeSpec, ...]:
    addresses = cluster_addresses(view).of
    seed = specrules.seed_of(view)
    return tuple(
        NodeSpec(
            name=node,
            role=Role(view.text("nodes", node, "role")),
            seed=node == seed,
            cluster_address=str(addresses[node]),
            lan=_lan(view, node),
            wifi=_wifi(view) if view.flag("nodes", node, "wifi") else None,
            ethernet=view.flag("nodes", node, "ethernet") is not False,
            labels={
                key: value
                for key, value in view.mapping("nodes", node, "labels").items()
                if isinstance(value, str)
            },
            cloud_config=extras.get(("nodes", node, "cloud_config")),
        )
        for node in view.nodes
    )


def _lan(view: View, node: str) -> LanAddress | None:
    text = view.text("nodes", node, "lan")
    if text is None:
        return None
    gateway = view.text("network", "lan", "gateway")
    dns = tuple(view.texts("network", "lan", "dns").values())
    if not dns and gateway is not None and not view.written("network", "lan", "dns"):
        dns = (gateway,)
    return LanAddress(address=parse_lan(text).with_prefixlen, gateway=gateway, dns=dns)


def _wifi(view: View) -> Wifi:
    return Wifi(
        ssid=view.text("network", "wifi", "ssid") or "",
        psk=Secret(view.text("network", "wifi", "psk") or ""),
        country=view.text("network", "wifi", "country") or "",
    )
