"""ClusterSpec + NodeSpec + ticket + identity -> Seed: every file of the boot partition, checked.

Pure: the same input gives the same bytes. It reads no file and writes none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import yaml

from firstboot import nodeconfig
from flasher import cloudconfig, render, yamltext
from flasher.cloudconfig import Merged, Schemas
from flasher.errors import ImageError, SeedError
from flasher.model import (
    ClusterSpec,
    Identity,
    NodeSpec,
    Problem,
    Role,
    Seed,
    SeedFile,
    Ticket,
)
from flasher.profile import Profile

STACKS_DIR = "piflash/stacks"
FIRSTBOOT = "piflash/firstboot.pyz"
# Of the 64 MiB of HypriotOS's boot partition little is free; how little is not known.
MAX_BYTES = 3 << 20

_PASSWORD_KEYS = (
    "passwd",
    "hashed_passwd",
    "plain_text_passwd",
    "password",
    "chpasswd",
    "ssh_keys",
)
_USER_DATA = (nodeconfig.USER_DATA, nodeconfig.USER_DATA_KEPT)
_SECRET_LINE = re.compile(r"(?m)^(\s*\w*(?:psk|pass|wep_key|pin)\w*\s*=\s*).*$")
_SAMPLE_TIME = 0


def build(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    ticket: Ticket,
    identity: Identity,
    profile: Profile,
    templates: Mapping[str, str],
    firstboot: bytes,
    stacks: Mapping[str, Mapping[str, bytes]],
    boot: Mapping[str, bytes],
    schemas: Schemas | None = None,
) -> Seed:
    """Render and check everything that makes a base image this node's card.

    `templates`: name -> text; `firstboot`: the zipapp; `stacks`: name -> relative path -> content;
    `boot`: the image's own files that the profile edits. ClusterFileError has all problems of the
    user's cloud-config, ImageError what the image lacks, SeedError what is our own fault.
    """
    _check_ticket(node, ticket=ticket, identity=identity)
    merged = _merged(spec, node, profile=profile, templates=templates, now=ticket.flashed_at)
    found = cloudconfig.check(merged, profile=profile, schemas=schemas or Schemas())
    if found:
        raise yamltext.failure(found, file=found[0].location.file, hint="see docs/cloud-config.md")
    contents = _boot_files(boot, profile=profile, now=ticket.flashed_at)
    config = cloudconfig.for_image(merged.data, profile.cloud_init)
    contents[nodeconfig.USER_DATA] = render.user_data(config).encode()
    contents[nodeconfig.USER_DATA_KEPT] = render.kept_user_data(config, profile=profile).encode()
    contents["network-config"] = _network(
        spec, node, profile=profile, templates=templates, schemas=schemas or Schemas()
    )
    contents[FIRSTBOOT] = firstboot
    contents |= _identity_files(identity)
    rendered = _stack_files(spec, node, stacks=stacks)
    contents |= {
        f"{STACKS_DIR}/{name}/{path}": content
        for name, files in rendered.items()
        for path, content in files.items()
    }
    digests = {name: stack_digest(files) for name, files in rendered.items()}
    contents[nodeconfig.NODE_JSON] = nodeconfig.dump(
        node_config(spec, node, ticket=ticket, identity=identity, stacks=digests)
    ).encode()
    instance_id = _instance_id(spec, ticket=ticket, contents=contents)
    contents["meta-data"] = render.meta_data(
        spec, node, profile=profile, templates=templates, instance_id=instance_id
    ).encode()
    return _seed(node, instance_id, contents)


def problems(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    profile: Profile,
    templates: Mapping[str, str],
    schemas: Schemas,
) -> tuple[Problem, ...]:
    """Give the problems of the user's cloud-config for a node: no ticket, identity or image.

    Checks all that we render of the cloud-init files too; SeedError if that is wrong.
    """
    merged = _merged(spec, node, profile=profile, templates=templates, now=_SAMPLE_TIME)
    _network(spec, node, profile=profile, templates=templates, schemas=schemas)
    return cloudconfig.check(merged, profile=profile, schemas=schemas)


def node_config(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    ticket: Ticket,
    identity: Identity,
    stacks: Mapping[str, str],
) -> nodeconfig.NodeConfig:
    """Give what the card tells its node. `stacks`: name -> digest, for managers."""
    return nodeconfig.NodeConfig(
        cluster=spec.name,
        name=node.name,
        role=node.role.value,
        generation=ticket.generation,
        epoch=ticket.epoch,
        address=node.cluster_address,
        subnet=spec.cluster_subnet,
        domain=spec.domain,
        flashed_at=ticket.flashed_at,
        permit_key=identity.permit_modulus,
        roster=tuple(
            nodeconfig.Peer(
                name=peer.name,
                role=peer.role.value,
                address=peer.cluster_address,
                seed=peer.seed,
                labels=dict(peer.labels),
            )
            for peer in spec.nodes
        ),
        interface="eth0" if node.ethernet else "wlan0",
        stacks=tuple(nodeconfig.StackRef(name, digest) for name, digest in sorted(stacks.items())),
    )


def stack_digest(files: Mapping[str, bytes]) -> str:
    """Give the SHA-256 of a stack's files: of the lines `sha256sum` prints, sorted by path."""
    lines = (f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def masked(seed: Seed) -> dict[str, bytes]:
    """Give the files with `***` in place of what is secret: for `piflash render` and for eyes."""
    return {path: _masked(path, file) for path, file in seed.files.items()}


# --- parts of a seed ----------------------------------------------------------------------------


def _check_ticket(node: NodeSpec, *, ticket: Ticket, identity: Identity) -> None:
    """Refuse to put a permit on any card but the seed's (invariants I2 and I4)."""
    if ticket.node != node.name:
        raise SeedError(f"{node.name}: the ticket is for {ticket.node}")
    if (ticket.permit is None) != (identity.permit_json is None):
        raise SeedError(f"{node.name}: ticket and identity disagree on whether there is a permit")
    if ticket.permit is not None and not (node.seed and node.role is Role.MANAGER):
        raise SeedError(f"{node.name}: a permit is for the seed only, and this is not the seed")


def _merged(
    spec: ClusterSpec, node: NodeSpec, *, profile: Profile, templates: Mapping[str, str], now: int
) -> Merged:
    ours = render.cloud_config(spec, node, profile=profile, templates=templates, flashed_at=now)
    extras = [extra for extra in (spec.cloud_config, node.cloud_config) if extra is not None]
    return cloudconfig.merge(ours, extras, profile=profile)


def _network(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    profile: Profile,
    templates: Mapping[str, str],
    schemas: Schemas,
) -> bytes:
    text = render.network_config(spec, node, profile=profile, templates=templates)
    data = yaml.safe_load(text)
    cloudconfig.check_network(data["network"] if profile.network_wrapped else data, schemas=schemas)
    return text.encode()


def _boot_files(boot: Mapping[str, bytes], *, profile: Profile, now: int) -> dict[str, bytes]:
    """Give the image's files that change: the command line only if something is missing in it."""
    name = profile.cmdline.file
    if name not in boot:
        raise ImageError(
            f"the image has no {name} on its boot partition",
            hint=f"take an image of {profile.title}, or name the profile that fits this one",
        )
    line = render.cmdline(boot[name], profile=profile)
    clock = datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S\n")
    changed = {name: line} if line != boot[name] else {}
    return {**changed, profile.clock_file: clock.encode()}


def _identity_files(identity: Identity) -> dict[str, bytes]:
    texts = {
        nodeconfig.CA_PEM: identity.ca_pem,
        nodeconfig.NODE_PEM: identity.cert_pem,
        nodeconfig.NODE_KEY: identity.key_pem.reveal(),
    }
    if identity.permit_json is not None:
        texts[nodeconfig.PERMIT_JSON] = identity.permit_json.reveal()
    if identity.charter_json is not None:
        texts[nodeconfig.CHARTER_JSON] = identity.charter_json
    return {f"{nodeconfig.IDENTITY_DIR}/{name}": text.encode() for name, text in texts.items()}


def _stack_files(
    spec: ClusterSpec, node: NodeSpec, *, stacks: Mapping[str, Mapping[str, bytes]]
) -> dict[str, dict[str, bytes]]:
    """Render the cluster's stacks, for managers: any of them may become the leader."""
    if node.role is not Role.MANAGER:
        return {}
    rendered = {}
    for name, settings in spec.stacks.items():
        if name not in stacks:
            raise SeedError(f"{spec.name}: there is no stack {name!r}")
        values: dict[str, Any] = {
            "stack": name,
            "cluster": spec.name,
            "domain": spec.domain,
            "settings": dict(settings),
        }
        rendered[name] = render.files(stacks[name], values=values)
    return rendered


def _instance_id(spec: ClusterSpec, *, ticket: Ticket, contents: Mapping[str, bytes]) -> str:
    """Give an id that no other flash has, so that cloud-init runs everything anew."""
    return f"{spec.name}-{ticket.node}-g{ticket.generation}-{stack_digest(contents)[:8]}"


def _seed(node: NodeSpec, instance_id: str, contents: Mapping[str, bytes]) -> Seed:
    files = {path: SeedFile(contents[path]) for path in sorted(contents)}
    for name in (nodeconfig.NODE_KEY, nodeconfig.PERMIT_JSON):
        path = f"{nodeconfig.IDENTITY_DIR}/{name}"
        if path in files:
            files[path] = replace(files[path], secret=True)
    for name in _USER_DATA:
        if _mask_user_data(contents[name]) != contents[name]:
            files[name] = replace(files[name], secret=True)
    size = sum(map(len, contents.values()))
    if size > MAX_BYTES:
        raise SeedError(
            f"{node.name}: the seed has {size} bytes, more than the {MAX_BYTES} that surely fit",
            hint="shorten cloud_config and stacks in the cluster file",
        )
    return Seed(node.name, instance_id, files)


# --- masking ------------------------------------------------------------------------------------


def _masked(path: str, file: SeedFile) -> bytes:
    if not file.secret:
        return file.content
    if path in _USER_DATA:
        return _mask_user_data(file.content)
    return f"{render.MASK}\n".encode()


def _mask_user_data(content: bytes) -> bytes:
    data = yaml.safe_load(content)
    hidden = _hide_in_mapping(data)
    return content if hidden == data else render.user_data(hidden).encode()


def _hide(data: object) -> object:
    if isinstance(data, list):
        return [_hide(item) for item in data]
    return _hide_in_mapping(data) if isinstance(data, dict) else data


def _hide_in_mapping(data: Mapping[str, object]) -> dict[str, object]:
    """Hide values of password keys, and the content of files that not everybody may read."""
    result = {
        key: render.MASK if key in _PASSWORD_KEYS else _hide(value) for key, value in data.items()
    }
    if str(data.get("permissions", "0644"))[-1:] not in "4567":
        result["content"] = _hide_content(str(data.get("path")), data.get("content"))
    return result


def _hide_content(path: str, content: object) -> str:
    """Keep what is readable of a Wi-Fi configuration; anything else is hidden whole."""
    if path.endswith("/wpa_supplicant.conf") and isinstance(content, str):
        return _SECRET_LINE.sub(rf"\g<1>{render.MASK}", content)
    return render.MASK
