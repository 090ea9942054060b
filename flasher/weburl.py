"""Addresses of images: what of them may be shown, what names them in the cache. Pure."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote, urlsplit, urlunsplit

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


def is_url(text: str) -> bool:
    """Tell whether a text is an address of any scheme, and not a path."""
    return _SCHEME.match(text) is not None


def shown(url: str) -> str:
    """Give an address without what may be secret: user and password, query, fragment.

    Signed addresses (S3, Azure) carry their key in the query.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) + ("?..." if parts.query else "")


def file_name(url: str) -> str:
    """Give the name of the file at an address, safe as a name on any file system."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return _UNSAFE.sub("_", name).lstrip(".")[-100:] or "image"


def key(url: str) -> str:
    """Give the 16 hex digits that name an address in the cache; who logs in makes no difference."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    plain = urlunsplit((parts.scheme.lower(), host, parts.path, parts.query, ""))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def checksum_url(url: str) -> str:
    """Give the address at which a file's checksum is published by custom."""
    parts = urlsplit(url)
    path = parts.path + ".sha256"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def pin_name(text: str) -> str:
    """Give the name under which an image's hash is recorded: its own, without what may be secret.

    `text` is an ImageRef's: an id and a path are their own names.
    """
    if not is_url(text):
        return text
    name = shown(text)
    return name if name == text else f"{name} ({key(text)})"
