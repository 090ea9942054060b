"""Rules of the `user` section: somebody must be able to log in, and no private key may leak.

No value of this section is ever repeated in a message.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from flasher.schema import Violation
from flasher.specview import View

DEFAULT_USER = "pirate"
_MAKE_HASH = "make one with: openssl passwd -6"
# What OpenSSH accepts; which of them the base image's own is too old for is for flasher.advice.
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
# Debian's base-passwd and what the base images add: cloud-init would not make these users.
SYSTEM_NAMES = re.compile(
    "root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|gnats|"
    "nobody|sshd|ntp|avahi|messagebus|docker|systemd-.*|_.*|"
    # Groups alone: useradd makes a group of the user's name, and ends where there is one.
    "adm|tty|disk|kmem|dialout|fax|voice|cdrom|floppy|tape|sudo|audio|dip|operator|src|shadow|utmp|"
    "video|sasl|plugdev|staff|users|nogroup|input|kvm|render|crontab|netdev|ssh|bluetooth|spi|i2c|"
    "gpio|ssl-cert"
)
# crypt(5): buster's libcrypt is glibc's, which knows $1$, $5$ and $6$ but not $y$ or $2b$.
_HASH = re.compile(
    r"\$1\$[^$:\s]{1,8}\$[./0-9A-Za-z]{22}"
    r"|\$5\$(rounds=\d+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{43}"
    r"|\$6\$(rounds=\d+\$)?[^$:\s]{1,16}\$[./0-9A-Za-z]{86}"
)


def check_login(view: View) -> Iterator[Violation]:
    """Check the login name, every ssh key and the password hash, and that there is one of them."""
    name = view.text("user", "name")
    if name is not None and SYSTEM_NAMES.fullmatch(name):
        message = (
            f"is the name of a system's own user or group: take another, such as {DEFAULT_USER}"
        )
        yield Violation(("user", "name"), message)
    for index, line in view.texts("user", "ssh_authorized_keys").items():
        words = ssh_key_problem(line)
        if words:
            yield Violation(("user", "ssh_authorized_keys", index), words)
    password_hash = view.text("user", "password_hash")
    if password_hash is not None:
        words = password_hash_problem(password_hash)
        if words:
            yield Violation(("user", "password_hash"), words)
    keys = view.get("user", "ssh_authorized_keys")
    no_key = keys == [] or not view.written("user", "ssh_authorized_keys")
    user_readable = not view.written("user") or isinstance(view.get("user"), dict)
    if user_readable and no_key and not view.written("user", "password_hash"):
        yield Violation(
            ("user",),
            "nobody could log in: put your public key (cat ~/.ssh/id_ed25519.pub) under "
            "user.ssh_authorized_keys, or a user.password_hash",
            on_key=True,
        )


def password_hash_problem(text: str) -> str:
    """Say what is wrong with a crypt hash, or nothing. The base image knows $1$, $5$ and $6$."""
    if _HASH.fullmatch(text):
        return ""
    if not text.startswith("$"):
        return f"must be a crypt hash, not the password itself: {_MAKE_HASH}"
    if text.startswith(("$1$", "$5$", "$6$")):
        return (
            f"is not a complete crypt hash (was it cut off, or a $ eaten by a shell?): {_MAKE_HASH}"
        )
    return f"is a kind of crypt hash that the base image does not know: {_MAKE_HASH}"


def ssh_key_problem(line: str) -> str:
    """Say what is wrong with a line of authorized_keys (sshd(8)), or nothing."""
    if "PRIVATE KEY" in line:
        return (
            "this is a PRIVATE key: take the line of the .pub file instead, and replace the key "
            "pair if this file was ever shared"
        )
    text = line.strip()
    if not text.isprintable():
        return "must be one line: one item of the list for each key"
    if "@SSH_KEY@" in text or "AAAA..." in text:
        return "is still a placeholder: put your own key (cat ~/.ssh/id_ed25519.pub)"
    words = _after_options(text).split()
    kind = words[0] if words else ""
    if kind == "ssh-dss":
        return "an ssh-dss key, which sshd no longer accepts: make one with: ssh-keygen -t ed25519"
    if kind not in _KEY_TYPES:
        if text.endswith(".pub") or text.startswith(("~", "/", "./")):
            return "looks like a file name: put the line that is in the .pub file (the public key)"
        return f"must be a public key line such as '{_KEY_TYPES[0]} AAAA... you@laptop'"
    if len(words) < 2:
        return f"has nothing after {kind!r}: copy the whole line of the .pub file"
    return _blob_problem(kind, words[1])


def _after_options(text: str) -> str:
    """Drop the options before the key type; they may hold spaces inside double quotes."""
    if text.split(None, 1)[:1] and text.split(None, 1)[0] in (*_KEY_TYPES, "ssh-dss"):
        return text
    match = re.match(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+\s+', text)
    return text[match.end() :] if match else text


def _blob_problem(kind: str, encoded: str) -> str:
    """RFC 4253, 6.6: a blob is a row of length-prefixed fields, the first of which is the type."""
    cut = "is damaged or cut off: copy the whole line of the .pub file"
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return cut
    fields: list[bytes] = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            return cut
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    if not fields or fields[0] != kind.encode():
        return f"says {kind}, but the key in it is of another type: copy the whole line again"
    if len(fields) < 2 or not all(fields[1:]):
        return cut
    return ""
