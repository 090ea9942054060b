"""No key and no token where it does not belong: on the wire, in logs, on FAT, in an argv."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import engine, orders, secrets
from tests.lab.capture import Wire, said
from tests.lab.cards import Cluster
from tests.lab.engine import SilentError
from tests.lab.lab import Lab
from tests.lab.node import Node

CANARY = "a word that is said over the wire in clear, in two pieces"


@dataclass
class Sight:
    """What was seen while a cluster formed. `tokens`: all that the swarm ever had."""

    lab: Lab
    wire: bytes
    tokens: set[str]
    argv: list[bytes]


class _Watch:
    """Looks again and again, while the swarm forms, at its tokens and at all command lines."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self.tokens: set[str] = set()
        self.argv: set[bytes] = set()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.03):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.argv.add(path.read_bytes())
            for node in self._lab.all:
                with suppress(SilentError, KeyError, TypeError):
                    tokens: Mapping[str, str] = engine.get(node, "/swarm")["JoinTokens"]
                    self.tokens |= set(tokens.values())


@pytest.fixture(scope="module")
def sight(
    five: Cluster, tmp_path_factory: pytest.TempPathFactory, python: str, library: Path
) -> Iterator[Sight]:
    """Three managers and two workers that formed a swarm under the eyes of a listener."""
    directory = tmp_path_factory.mktemp("secrets")
    with (
        Lab(directory, five, python=python, library=library) as lab,
        Wire(lab.switch, directory / "frames") as wire,
        _watching(lab) as watch,
    ):
        orders.power_on(lab, orders.at_once([one.name for one in five.members]))
        lab.wait_settled(seconds=240)
        # The user-data is scrubbed in its own time.
        _wait_scrubbed(lab, seconds=120)
        _say(lab.all[4], CANARY, to=lab.all[0])
        watch.stop()
        yield Sight(lab, wire.stop(), watch.tokens, sorted(watch.argv))


@contextmanager
def _watching(lab: Lab) -> Iterator[_Watch]:
    watch = _Watch(lab)
    try:
        yield watch
    finally:
        watch.stop()


def _wait_scrubbed(lab: Lab, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not all((node.root / "var/lib/piflash/scrubbed").exists() for node in lab.all):
        assert time.monotonic() < deadline, lab.last_words("the user-data is not scrubbed")
        time.sleep(0.1)


def _say(node: Node, word: str, *, to: Node) -> None:
    hear = (
        "import socket; s = socket.socket(); s.bind(('', 9999)); s.listen(1)\n"
        "c, _ = s.accept()\n"
        "while c.recv(99): pass\n"
    )
    half = len(word) // 2
    say = (
        "import socket, time; time.sleep(1)\n"
        f"c = socket.create_connection(('{to.lan}', 9999))\n"
        f"c.send({word[:half].encode()!r}); time.sleep(0.3); c.send({word[half:].encode()!r})\n"
        "time.sleep(0.3)\n"
    )
    listener = threading.Thread(target=to.run, args=("python3", "-c", hear))
    listener.start()
    node.run("python3", "-c", say)
    listener.join()


def _all(sight: Sight) -> dict[str, list[bytes]]:
    cluster = sight.lab.cluster
    return {
        **secrets.of_operator(cluster),
        **secrets.of_cards(cluster),
        **secrets.of_user_data(),
        **secrets.of_tokens(sight.tokens),
    }


def test_no_secret_crosses_the_wire_in_clear(sight: Sight) -> None:
    assert CANARY.encode() in sight.wire, "the listener is deaf"
    assert len(sight.wire) > 100_000
    assert secrets.found_in(sight.wire, _all(sight)) == []


def test_tokens_were_changed_while_the_swarm_formed(sight: Sight) -> None:
    # Two roles, before and after the CA's rotation at least: else the watch saw nothing.
    assert len(sight.tokens) >= 4


def test_no_log_holds_a_secret(sight: Sight) -> None:
    for node in sight.lab.all:
        assert node.log("piflash.service"), "no log to look at"
        assert list(secrets.files_with(node.directory / "lab/log", _all(sight))) == []


def test_no_command_line_holds_a_token_or_key(sight: Sight) -> None:
    assert any(b"firstboot.pyz" in line for line in sight.argv), "the watch saw no service"
    assert [line for line in sight.argv if secrets.found_in(line, _all(sight))] == []


def test_no_secret_is_left_on_the_boot_partition(sight: Sight) -> None:
    for node in sight.lab.all:
        assert list(secrets.files_with(node.boot, _all(sight))) == []
        assert not list((node.boot / "piflash/identity").glob("*"))


def test_no_secret_is_left_in_what_cloud_init_keeps(sight: Sight) -> None:
    for node in sight.lab.all:
        assert list(secrets.files_with(node.root / "var/lib/cloud", _all(sight))) == []


def test_a_node_keeps_its_own_key_in_one_place_and_no_other_secret(sight: Sight) -> None:
    for node in sight.lab.all:
        own = {node.name: secrets.of_cards(sight.lab.cluster)[node.name]}
        assert list(secrets.files_with(node.root, own)) == [
            f"var/lib/piflash/identity/node.key: {node.name}"
        ]
        others = {name: forms for name, forms in _all(sight).items() if name != node.name}
        assert list(secrets.files_with(node.root, others)) == []
        assert list(secrets.files_with(node.directory / "docker", others)) == []


def test_a_card_carries_its_own_key_and_nobody_elses(sight: Sight) -> None:
    cluster = sight.lab.cluster
    keys = {**secrets.of_operator(cluster), **secrets.of_cards(cluster)}
    for member in cluster.members:
        assert secrets.found_in(cluster.card(member.name).read_bytes(), keys) == [member.name]


def test_the_listener_puts_a_stream_together_in_order() -> None:
    def frame(number: int, payload: bytes) -> bytes:
        tcp = bytes([0, 1, 0, 2]) + number.to_bytes(4, "big") + bytes(4) + b"\x50" + bytes(7)
        total = (20 + len(tcp) + len(payload)).to_bytes(2, "big")
        ip = b"\x45\0" + total + bytes(5) + b"\x06" + bytes(2) + bytes(8)
        whole = bytes(12) + b"\x08\0" + ip + tcp + payload
        return len(whole).to_bytes(4, "big") + whole

    first, second = frame(1, b"SWMTK"), frame(6, b"N-1-" + b"a" * 50)
    assert b"SWMTKN-1-a" in said(second + first + first)
    assert secrets.found_in(said(second + first), {}) == ["a join token"]
