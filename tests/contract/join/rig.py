"""Nodes of a cluster on loopback addresses, each a process of its own, and callers of all kinds."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firstboot.layout import Layout
from firstboot.model import Hello
from firstboot.nodeconfig import NodeConfig, Peer, dump
from firstboot.wire import PORT
from flasher import pki
from flasher.model import Role
from tests.support.identity import NOW, authority, issue, ticket
from tests.unit.firstboot import sights

SUBNET = f"127.88.{os.getpid() % 250}"
NAMES = {"pi1": "manager", "pi2": "manager", "pi9": "worker"}
ROSTER = tuple(
    Peer(name, role, f"{SUBNET}.{number}", name == "pi1", {})
    for number, (name, role) in enumerate(NAMES.items(), start=11)
)
ADDRESS = {peer.name: peer.address for peer in ROSTER}
TOKEN = "SWMTKN-1-" + "3" * 50 + "-" + "7" * 25
SECONDS = 20.0


def config(name: str) -> NodeConfig:
    return NodeConfig(
        cluster="home",
        name=name,
        role=NAMES[name],
        generation=1,
        epoch=1,
        address=ADDRESS[name],
        subnet=f"{SUBNET}.0/24",
        domain="home.arpa",
        flashed_at=NOW,
        permit_key=pki.permit_modulus(authority()),
        roster=ROSTER,
        interface="eth0",
        stacks=(),
    )


def card(directory: Path, name: str, **more: Any) -> Path:
    """Give the directory of a node whose card was imported; `more` is for `identity`."""
    layout = Layout(boot=str(directory / "boot"), root=str(directory / "root"))
    identity(Path(layout.identity), name, **more)
    Path(layout.node_json).write_text(dump(config(name)))
    return directory


def identity(
    directory: Path,
    name: str,
    *,
    role: str = "",
    generation: int = 1,
    cluster: str = "home",
    of: pki.Authority | None = None,
) -> Path:
    """Give a directory with ca.pem, node.pem and node.key."""
    made = pki.issue(
        of or authority(),
        cluster=cluster,
        role=Role(role or NAMES[name]),
        ticket=ticket(name, generation=generation, permit=None),
    )
    directory.mkdir(parents=True)
    (directory / "ca.pem").write_text(made.ca_pem)
    (directory / "node.pem").write_text(made.cert_pem)
    (directory / "node.key").write_text(made.key_pem.reveal())
    return directory


def charter(epoch: int = 1) -> str:
    text = issue(ticket(epoch=epoch)).charter_json
    assert text
    return text


def leader(name: str = "pi1", **more: Any) -> Hello:
    return sights.hello(name, **{"charter": charter(), **more})


def waiting(name: str, **more: Any) -> Hello:
    return dataclasses.replace(sights.outsider(name), role=NAMES[name], **more)


class Node:
    """A node's process; what it logged is in `log`, a line each."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str,
        python: list[str],
        limits: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        script = Path(__file__).with_name("node.py")
        root = Path(__file__).parents[3]
        self.log: list[str] = []
        self._process = subprocess.Popen(
            [
                *python,
                "-W",
                "error",
                str(script),
                str(directory),
                address,
                json.dumps(limits or {}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {}), "PYTHONPATH": str(root)},
        )
        self._logger = threading.Thread(target=self._read_log, daemon=True)
        self._logger.start()
        self.pid = json.loads(self._line())

    def _read_log(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.log.append(line.rstrip("\n"))

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "\n".join(self.log)
        return line

    def __getattr__(self, name: str) -> Any:
        def ask(**arguments: Any) -> Any:
            assert self._process.stdin
            self._process.stdin.write(json.dumps([name, arguments]) + "\n")
            self._process.stdin.flush()
            return json.loads(self._line())

        return ask

    @property
    def refusals(self) -> list[str]:
        """What the join service logged."""
        return [line for line in self.log if line.startswith("join service: ")]

    def says(self, hello: Hello, **you: str) -> None:
        """Publish a hello."""
        self.publish(hello=dataclasses.asdict(hello), you=you)

    def stop(self) -> None:
        """End it; whatever it wrote to its log is read, and it must have ended by itself."""
        if self._process.poll() is None:
            self.quit()
        self._process.wait(SECONDS)
        self._logger.join(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()
        assert self._process.returncode in (0, -9), "\n".join(self.log)
        assert not any("Traceback" in line for line in self.log), "\n".join(self.log)

    def kill(self) -> None:
        """Take its power away."""
        self._process.kill()
        self._process.wait(SECONDS)


def context(directory: Path | None) -> ssl.SSLContext:
    """Give the context of a caller that trusts everybody and proves what is in the directory."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if directory:
        made.load_cert_chain(directory / "node.pem", directory / "node.key")
    return made


@contextmanager
def plain(address: str, *, source: str = "") -> Iterator[socket.socket]:
    """Give a connection to a node's join service, without TLS."""
    with socket.create_connection(
        (address, PORT), timeout=SECONDS, source_address=(source, 0) if source else None
    ) as made:
        yield made


@contextmanager
def caller(address: str, directory: Path | None, *, source: str = "") -> Iterator[ssl.SSLSocket]:
    """Give a TLS connection to a node's join service, as the caller sees it."""
    with (
        plain(address, source=source) as made,
        context(directory).wrap_socket(made, server_hostname="any") as secure,
    ):
        yield secure


def answer(sock: socket.socket) -> tuple[int, Any]:
    """Read one answer: its status and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("Content-Length"))
    while len(body) < length:
        body += _more(sock)
    return int(lines[0].split()[1]), json.loads(body)


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("closed")
    return data


def post(target: str, body: object) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {target} HTTP/1.1\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


GET_HELLO = b"GET /v1/hello HTTP/1.1\r\nHost: x\r\n\r\n"


def say(
    address: str, directory: Path | None, request: bytes, *, source: str = ""
) -> tuple[int, Any]:
    """Connect, say one thing, give the answer. OSError if there is none."""
    with caller(address, directory, source=source) as sock:
        sock.sendall(request)
        return answer(sock)


def until(what: Any, *, seconds: float = SECONDS) -> Any:
    """Give the first truth that `what()` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.01)
    raise AssertionError("it never came")


def closed(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection; waits for it."""
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def this_python() -> list[str]:
    return [sys.executable]


def close_all(socks: Iterable[socket.socket]) -> None:
    for sock in socks:
        sock.close()
