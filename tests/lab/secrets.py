"""Every key and token of a lab's cluster, and where they may not be found. Pure but for reading."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.lab.cards import PASSWORD_HASH, Cluster

TOKEN = re.compile(rb"SWMTKN-1-[0-9a-z]{20,}")
_PEM = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+(.+?)\s+-----END", re.DOTALL)


def of_operator(cluster: Cluster) -> Mapping[str, list[bytes]]:
    """What never leaves the operator's directory: name -> the forms in which it could be met."""
    authority = json.loads((cluster.directory / ".piflash/authority.json").read_text())
    master = authority["master_secret"]
    return {
        "the CA's key": key_forms(authority["ca_key"]),
        "the permits' key": key_forms(authority["permit_key"]),
        "the master secret": [master.encode(), bytes.fromhex(master)],
    }


def of_cards(cluster: Cluster) -> Mapping[str, list[bytes]]:
    """What each card carries for its own node alone: name of the node -> forms of its key."""
    return {
        member.name: key_forms(
            (cluster.boot(member.name) / "piflash/identity/node.key").read_text()
        )
        for member in cluster.members
    }


def of_user_data() -> Mapping[str, list[bytes]]:
    """What the user-data of every card holds."""
    return {"the password's hash": [PASSWORD_HASH.encode()]}


def of_tokens(tokens: Iterable[str]) -> Mapping[str, list[bytes]]:
    """Join tokens: as a whole, and the half that is secret (facts S15)."""
    return {
        f"token {number}": [token.encode(), token.rsplit("-", 1)[1].encode()]
        for number, token in enumerate(sorted(tokens))
    }


def key_forms(pem: str) -> list[bytes]:
    """A private key as PEM has it, line by line and in one, and as DER."""
    found = _PEM.search(pem)
    assert found, "no private key in this PEM"
    lines = found[1].split()
    return [*(line.encode() for line in lines if len(line) >= 32), base64.b64decode("".join(lines))]


def found_in(content: bytes, secrets: Mapping[str, list[bytes]]) -> list[str]:
    """Which secrets, or anything like a token, a content holds. Never says the secret itself."""
    names = [name for name, forms in secrets.items() if any(form in content for form in forms)]
    return [*names, "a join token"] if TOKEN.search(content) else names


def files_with(top: Path, secrets: Mapping[str, list[bytes]]) -> Iterator[str]:
    """The files below a directory that hold a secret."""
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            for name in found_in(path.read_bytes(), secrets):
                yield f"{path.relative_to(top)}: {name}"
