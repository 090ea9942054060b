"""Moves the identity from FAT to ext4, syncs it, then scrubs it from FAT. Shell.

Safe to repeat, and after a power cut at any step. What cloud-init keeps of user-data holds no
identity file; scrubbing those copies joins this module together with the first secret in them.
"""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from firstboot import files, memory, nodeconfig
from firstboot.layout import Layout
from firstboot.nodeconfig import (
    CA_PEM,
    CHARTER_JSON,
    NODE_KEY,
    NODE_PEM,
    PERMIT_JSON,
    ConfigError,
    NodeConfig,
)

MAX_IDENTITY_BYTES = 65536
NEEDED = (NODE_KEY, NODE_PEM, CA_PEM)
KNOWN = (*NEEDED, PERMIT_JSON, CHARTER_JSON)


class CardError(Exception):
    """The card does not hold what makes a node; `remedy` says what a person can do."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Card:
    """What was imported. `left`: identity files that could not be scrubbed from FAT, and why."""

    config: NodeConfig
    permit: str
    charter: str
    left: Tuple[str, ...]


def import_card(layout: Layout) -> Card:
    """Import what is not imported yet. CardError if the card does not hold a usable identity.

    `Card.permit` and `Card.charter` are texts, empty where the card has none.
    """
    files.make_directory(layout.state, mode=0o700)
    if stat.S_IMODE(os.stat(layout.state).st_mode) != 0o700:
        os.chmod(layout.state, 0o700)
    config = _import_node_json(layout)
    if not os.path.isdir(layout.identity):
        _import_identity(layout, name=config.name)
    else:
        _check_usable(layout.identity, remedy="flash %s again" % config.name)
    permit, charter = (_text(layout, name) for name in (PERMIT_JSON, CHARTER_JSON))
    return Card(config, permit, charter, left=scrub(layout))


def described(layout: Layout) -> Optional[NodeConfig]:
    """Give what node.json says, on ext4 or on FAT; None if neither can be read. Writes nothing."""
    for path in (layout.node_json, layout.card_node_json):
        try:
            content = files.read(path, limit=nodeconfig.MAX_BYTES)
            if content is not None:
                return nodeconfig.parse(content.decode("utf-8"))
        except (OSError, ConfigError, UnicodeDecodeError):
            continue
    return None


def scrub(layout: Layout) -> Tuple[str, ...]:
    """Remove the identity from FAT; give what had to be left, and why. May be repeated."""
    return _scrub(layout.card_identity)


def _text(layout: Layout, name: str) -> str:
    content = files.read(os.path.join(layout.identity, name), limit=MAX_IDENTITY_BYTES)
    return (content or b"").decode("ascii", "replace")


def _import_node_json(layout: Layout) -> NodeConfig:
    """The copy on ext4 wins, unless it is the one that is torn."""
    trouble = "%s: not there" % layout.card_node_json
    for path in (layout.node_json, layout.card_node_json):
        content = files.read(path, limit=nodeconfig.MAX_BYTES)
        if content is None:
            continue
        try:
            config = nodeconfig.parse(content.decode("utf-8"))
        except (ConfigError, UnicodeDecodeError) as error:
            trouble = "%s: %s" % (path, error)
            continue
        if path != layout.node_json:
            files.replace(layout.node_json, content, mode=0o600)
        return config
    raise CardError(trouble, remedy="flash this card again")


def _import_identity(layout: Layout, *, name: str) -> None:
    again = "flash %s again" % name
    found: Dict[str, bytes] = {}
    for file in KNOWN:
        path = os.path.join(layout.card_identity, file)
        content = files.read(path, limit=MAX_IDENTITY_BYTES)
        if content is None and file in NEEDED:
            raise CardError("%s: not there" % path, remedy=again)
        if content is not None and len(content) > MAX_IDENTITY_BYTES:
            raise CardError("%s: larger than %d bytes" % (path, MAX_IDENTITY_BYTES), remedy=again)
        if content is not None:
            found[file] = content
    new = layout.identity + ".new"
    if os.path.isdir(new):
        shutil.rmtree(new)
    os.mkdir(new, 0o700)
    for file, content in found.items():
        files.create(os.path.join(new, file), content, mode=0o600)
    _check_usable(new, remedy=again)
    files.sync_directory(new)
    memory.begin(layout.memory)
    os.rename(new, layout.identity)
    files.sync_directory(layout.state)


def _check_usable(directory: str, *, remedy: str) -> None:
    """Nothing is scrubbed before the copy has proved to be a key with its certificate and CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(os.path.join(directory, CA_PEM))
        # With no password given, OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(
            os.path.join(directory, NODE_PEM), os.path.join(directory, NODE_KEY), password=""
        )
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror or "not PEM"
        raise CardError(
            "the identity cannot be used (%s: %s)" % (directory, why), remedy=remedy
        ) from None


def _scrub(directory: str) -> Tuple[str, ...]:
    """Remove the identity from FAT, the key first; give what had to be left and why."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return ()
    except OSError as error:
        # A FAT that rots after the import: it holds nothing that this node still needs.
        return ("%s (%s)" % (directory, error.strerror),)
    left: List[str] = []
    for name in sorted(names, key=lambda name: (name != NODE_KEY, name != PERMIT_JSON, name)):
        path = os.path.join(directory, name)
        try:
            files.scrub(path)
        except OSError as error:
            left.append("%s (%s)" % (path, error.strerror))
    try:
        files.sync_directory(directory)
        if not left:
            os.rmdir(directory)
            files.sync_directory(os.path.dirname(directory))
    except OSError as error:
        left.append("%s (%s)" % (directory, error.strerror))
    return tuple(left)
