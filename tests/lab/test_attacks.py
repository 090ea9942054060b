"""Attacks over the wire at a swarm that runs: refused, told without secrets, nobody harmed."""

from __future__ import annotations

import datetime
import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.join import rig
from tests.contract.join.rig import GET_HELLO, closed, post
from tests.lab import cards, engine, figures, intruder, judge, measure, secrets
from tests.lab.cards import Cluster
from tests.lab.lab import Lab
from tests.lab.node import PIFLASH, Node

PATIENCE = 240.0
# Seconds for a hello, attack or not, on a machine with other work: who gets none in 4 s takes the
# node for silent (peers.HELLO_PATIENCE).
ANSWERS = 3.0
MOST_FLOODED_MB = 35.0


@dataclass
class Scene:
    """A manager (pi1) and two workers in a swarm; pi2 was flashed twice, `old` is its first card.

    `another`: a card of pi3 of another cluster of the same name. `tokens`: of both roles.
    """

    lab: Lab
    old: Path
    another: Path
    tokens: dict[str, str]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(201))

    @property
    def leader(self) -> Node:
        return self.lab.nodes["pi1"]

    def card(self, name: str) -> Path:
        return self.lab.cluster.boot(name) / "piflash/identity"

    def source(self) -> str:
        return intruder.address(self.lab.switch, next(self._numbers))

    def says(self, identity: Path | None, request: bytes, *, source: str = "") -> tuple[int, Any]:
        """Say one thing to pi1, from an address of its own unless said."""
        source = source or self.source()
        with intruder.inside(self.lab.switch):
            return rig.say(self.leader.lan, identity, request, source=source)

    def gets_nothing(self, identity: Path | None) -> str:
        """The caller gets no byte of HTTP; give what the leader said of it."""
        source = self.source()
        for request in (GET_HELLO, post("/v1/join", {})):
            with pytest.raises((OSError, ConnectionError)):
                self.says(identity, request, source=source)
        return self.told(source)

    def told(self, source: str) -> str:
        """The line in which the leader tells that it refused somebody."""
        start = f"piflash: join service: refused {source}: "
        deadline = time.monotonic() + 10
        while True:
            lines = [one for one in self.leader.log(PIFLASH).splitlines() if one.startswith(start)]
            if lines:
                return lines[0][len(start) :]
            assert time.monotonic() < deadline, self.leader.last_words(40)
            time.sleep(0.05)

    def id(self, name: str) -> str:
        return str(engine.get(self.lab.nodes[name], "/info")["Swarm"]["NodeID"])


@pytest.fixture(scope="module")
def scene(
    base: Path, tmp_path_factory: pytest.TempPathFactory, python: str, library: Path
) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("attacks")
    cluster, another = (
        cards.describe(directory / name, base, managers=1, workers=2) for name in ("one", "two")
    )
    another.flash("pi3")
    cluster.flash()
    old = directory / "old"
    shutil.copytree(cluster.boot("pi2") / "piflash/identity", old)
    cluster.flash("pi2")
    with Lab(directory / "lab", cluster, python=python, library=library) as lab:
        lab.power_on()
        lab.wait_settled(seconds=PATIENCE)
        time.sleep(2)  # the token is changed last
        tokens = engine.get(lab.all[0], "/swarm")["JoinTokens"]
        yield Scene(lab, old, _identity(another, "pi3"), tokens)


def _identity(cluster: Cluster, name: str) -> Path:
    return cluster.boot(name) / "piflash/identity"


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attack the service answers, the swarm is as it was, and no log has a secret."""
    scene: Scene = request.getfixturevalue("scene")
    before = {node.name: scene.id(node.name) for node in scene.lab.all}
    process = scene.leader.service()
    yield
    begun = time.monotonic()
    assert scene.says(scene.card("pi3"), GET_HELLO)[0] == 200
    assert time.monotonic() - begun < ANSWERS
    scene.lab.wait_settled(seconds=60)
    assert {node.name: scene.id(node.name) for node in scene.lab.all} == before
    assert scene.leader.service() == process, "the service was started again"
    now = engine.get(scene.leader, "/swarm")["JoinTokens"]
    _no_secret_in_logs(scene, {**scene.tokens, **now})


def _no_secret_in_logs(scene: Scene, tokens: dict[str, str]) -> None:
    cluster = scene.lab.cluster
    all_ = {**secrets.of_cards(cluster), **secrets.of_tokens(tokens.values())}
    for node in scene.lab.all:
        assert list(secrets.files_with(node.directory / "lab/log", all_)) == []


def _has_no_token(scene: Scene, reply: Any) -> None:
    assert not reply.get("token")
    assert secrets.found_in(repr(reply).encode(), secrets.of_tokens(scene.tokens.values())) == []


# --- who is no node of this cluster -------------------------------------------------------------


def test_no_certificate(scene: Scene) -> None:
    assert "no TLS of this cluster: peer did not return a certificate" in scene.gets_nothing(None)


def test_another_clusters_certificate(scene: Scene) -> None:
    assert "not a certificate of this cluster" in scene.gets_nothing(scene.another)


def test_a_worker_that_signs_itself_a_managers_certificate(scene: Scene, tmp_path: Path) -> None:
    forged = _signed_by_a_node(scene.card("pi3"), tmp_path / "forged")
    assert "not a certificate of this cluster" in scene.gets_nothing(forged)


def _signed_by_a_node(card: Path, target: Path) -> Path:
    """A certificate for pi1, made with pi3's key as if that was a CA's."""
    authority = x509.load_pem_x509_certificate((card / "node.pem").read_bytes())
    signer = serialization.load_pem_private_key((card / "node.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    then = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(
            issuer_name=authority.subject,
            subject_name=x509.Name.from_rfc4514_string(
                authority.subject.rfc4514_string().replace("pi3", "pi1").replace("work", "manag")
            ),
            public_key=key.public_key(),
            serial_number=7,
            not_valid_before=then,
            not_valid_after=then.replace(year=2090),
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("pi1.lab.piflash"),
                    x509.UniformResourceIdentifier("piflash://lab/manager/pi1/1"),
                ]
            ),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    target.mkdir()
    pem = serialization.Encoding.PEM
    chain = made.public_bytes(pem) + authority.public_bytes(pem)
    (target / "node.pem").write_bytes(chain)
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (target / "node.key").write_bytes(key.private_bytes(pem, *form))
    return target


# --- who is one, and wants more -----------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v1/join", "/v1/joined"])
def test_an_expired_generation(scene: Scene, target: str) -> None:
    body = {"node_id": scene.id("pi2")} if target == "/v1/joined" else {}
    _, reply = scene.says(scene.old, post(target, body))
    assert reply["status"] == "refused"
    assert reply["why"].startswith("superseded: generation 1 of pi2, the swarm has seen 2")
    _has_no_token(scene, reply)


@pytest.mark.parametrize(
    "request_",
    [
        post("/v1/join", {"role": "manager"}),
        post("/v1/join", {"name": "pi1"}),
        post("/v1/joined", {"node_id": "x", "role": "manager"}),
    ],
)
def test_a_worker_that_asks_for_a_managers_rights(scene: Scene, request_: bytes) -> None:
    source = scene.source()
    status, reply = scene.says(scene.card("pi3"), request_, source=source)
    assert (status, reply["status"]) == (400, "refused")
    assert "asks for more than it may" in reply["why"]
    _has_no_token(scene, reply)
    assert "asks for more than it may" in scene.told(source)


def test_a_worker_that_asks_for_a_manager_token_by_another_path(scene: Scene) -> None:
    for target in ("/v1/join?role=manager", "/v1/token", "/v1/join/manager"):
        status, reply = scene.says(scene.card("pi3"), post(target, {}))
        assert (status, reply["status"]) == (404, "refused")
        _has_no_token(scene, reply)


def test_a_card_that_is_copied_gets_no_token_while_its_node_lives(scene: Scene) -> None:
    _, reply = scene.says(scene.card("pi3"), post("/v1/join", {}))
    assert (reply["status"], reply["why"]) == (
        "later",
        "a node of this name is in the swarm and lives",
    )
    _has_no_token(scene, reply)


@pytest.mark.parametrize("other", ["pi1", "pi2"])
def test_node_as_identity_for_node_b(scene: Scene, other: str) -> None:
    request = post("/v1/joined", {"node_id": scene.id(other)})
    _, reply = scene.says(scene.card("pi3"), request)
    assert (reply["status"], reply["why"]) == ("refused", f"this node id belongs to {other}")
    roles = {
        one["Description"]["Hostname"]: one["Spec"]["Role"]
        for one in engine.get(scene.leader, "/nodes")
    }
    assert roles == {"pi1": "manager", "pi2": "worker", "pi3": "worker"}


def test_the_leaders_own_name_by_a_copied_card(scene: Scene) -> None:
    _, reply = scene.says(scene.card("pi1"), post("/v1/join", {}))
    assert (reply["status"], reply["why"]) == ("refused", "pi1 leads this swarm")
    _has_no_token(scene, reply)


# --- who wants nothing but trouble --------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 4097\r\n\r\n", "a body larger than 4096"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "a length"),
        (b"GET /v1/hello HTTP/1.1\r\nX: " + b"x" * 100_000, "headers larger than 2048"),
        (b"GET /" + b"x" * 100_000, "headers larger than 2048"),
    ],
    ids=["body", "length", "header", "target"],
)
def test_oversized_requests(scene: Scene, request_: bytes, told: str) -> None:
    source = scene.source()
    with (
        intruder.inside(scene.lab.switch),
        rig.caller(scene.leader.lan, scene.card("pi3"), source=source) as sock,
    ):
        try:
            sock.sendall(request_)
            status, reply = rig.answer(sock)
        except OSError:
            status, reply = 0, {}  # it hung up while we were still talking
        assert status in (0, 400, 413, 431)
        _has_no_token(scene, reply)
        assert closed(sock)
    assert told in scene.told(source)


@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "half"])
def test_a_thousand_slow_connections(scene: Scene, say: bytes) -> None:
    """Under them an honest node is answered, and one that was off comes back to its place."""
    lab, honest = scene.lab, scene.source()
    sources = [scene.source() for _ in range(4)]
    pid = scene.leader.service()
    with intruder.inside(lab.switch):
        slow = intruder.flood(scene.leader.lan, sources=sources, count=1000, say=say)
    taken: list[float] = []
    try:
        lab.nodes["pi3"].pull_the_plug()
        # What it said before the power cut is not what is waited for.
        (lab.nodes["pi3"].boot / "piflash/status.txt").unlink()
        lab.nodes["pi3"].power_on()
        deadline = time.monotonic() + PATIENCE
        while len(taken) < 5 or judge.told(lab.all, lab.cluster.members):
            begun = time.monotonic()
            assert scene.says(scene.card("pi2"), GET_HELLO, source=honest)[0] == 200
            taken.append(time.monotonic() - begun)
            assert time.monotonic() < deadline, lab.last_words("pi3 does not come back")
            time.sleep(0.1)
        size = measure.megabytes(scene.leader, pid)
    finally:
        rig.close_all(slow)
    kind = "silent" if not say else "half a handshake"
    figures.note(
        f"1,000 slow connections ({kind})",
        f"a hello took at most {max(taken):.2f} s, the service {size:.1f} MB",
    )
    assert max(taken) < ANSWERS
    assert size < MOST_FLOODED_MB
