"""What the engine of a lab node says, asked from outside through its socket. Shell."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.lab.node import Node

API = "/v1.40"  # of Docker 19.03


class SilentError(Exception):
    """The engine does not answer, or not with what was asked for."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(node: Node, path: str) -> Any:
    """Ask an engine; give the JSON of its answer."""
    connection = _Connection(node.inside("/run/docker.sock"))
    try:
        connection.request("GET", API + path)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise SilentError(f"{node.name}: GET {path}: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise SilentError(f"{node.name}: GET {path}: {answer.status} {content[:200]!r}")
    return json.loads(content)
