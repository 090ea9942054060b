"""The join service over real sockets and real TLS: who is let in, and what cannot stop it."""

from __future__ import annotations

import os
import random
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firstboot import framing, tls, wire
from firstboot.wire import PORT
from flasher import pki
from tests.contract.join import rig
from tests.contract.join.rig import ADDRESS, GET_HELLO, SECONDS, SUBNET, TOKEN, Node, closed, until
from tests.contract.test_firstboot_py37 import python37
from tests.lab import clocks
from tests.lab.clocks import Clock
from tests.support.tools import need

QUICK = {"handshake": 1.0, "request": 1.0, "send": 1.0, "answer": 1.0}
# Issue: the service stays below 25 MB; a flood may cost what its bounded connections cost.
IDLE_KB = 25_000
FLOODED_KB = 35_000
STRANGER = f"{SUBNET}.200"
HONEST = "127.0.0.1"  # what the kernel takes for who does not say


@pytest.fixture(params=["3.7", "this"])
def python(request: pytest.FixtureRequest) -> list[str]:
    return python37() if request.param == "3.7" else rig.this_python()


@dataclass
class Home:
    """A cluster's cards, and those of their nodes that are on."""

    path: Path
    python: list[str]
    nodes: list[Node]

    def on(
        self, name: str, *, at: str = "", limits: Any = None, environment: Any = None, **card: Any
    ) -> Node:
        """Turn a node on, with a card made for it, at its address or at that of another."""
        directory = self.path / f"node-{len(self.nodes)}"
        rig.card(directory, name, **card)
        node = Node(
            directory,
            address=ADDRESS[at or name],
            python=self.python,
            limits=limits,
            environment=environment,
        )
        self.nodes.append(node)
        return node

    def leader(self, **limits: float) -> Node:
        node = self.on("pi1", limits=limits)
        node.says(rig.leader(), pi9="id-pi9")
        return node

    def identity(self, name: str = "pi9", **more: Any) -> Path:
        return rig.identity(self.path / f"identity-{random.randrange(1 << 40)}", name, **more)


@pytest.fixture
def home(tmp_path: Path, python: list[str]) -> Iterator[Home]:
    made = Home(tmp_path, python, [])
    try:
        yield made
    finally:
        for node in made.nodes:
            node.stop()


@pytest.fixture
def modern(tmp_path: Path) -> Iterator[Home]:
    """A home that runs on the Python of the tests only, where the Python makes no difference."""
    made = Home(tmp_path, rig.this_python(), [])
    try:
        yield made
    finally:
        for node in made.nodes:
            node.stop()


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keep a figure with the test's result (shown by --junit-xml, and by -rP)."""

    def say(figures: str) -> None:
        record_property("figures", figures)
        sys.stdout.write(figures + "\n")

    return say


@pytest.fixture(scope="module")
def neighbour() -> pki.Authority:
    """Another cluster's authority, whose cluster has the same name."""
    return pki.new_authority(cluster="home")


def hello(directory: Path, *, source: str = "") -> Any:
    status, body = rig.say(ADDRESS["pi1"], directory, GET_HELLO, source=source)
    assert status == 200
    return body


def refused(directory: Path | None) -> None:
    """The caller gets no byte of HTTP."""
    with pytest.raises(OSError, match=r".*"):
        rig.say(ADDRESS["pi1"], directory, GET_HELLO)


# --- who is let in ------------------------------------------------------------------------------


def test_a_node_of_the_cluster_gets_a_hello_with_its_own_node_id(home: Home) -> None:
    home.leader()
    before = time.time()

    got = hello(home.identity())

    assert (got["name"], got["leader"], got["grants"], got["you"]) == ("pi1", "pi1", True, "id-pi9")
    assert before <= got["time"] <= time.time(), "the time is that of the answer"
    assert hello(home.identity("pi2"))["you"] == ""


def test_no_certificate_is_refused_in_the_handshake_and_told_once(home: Home) -> None:
    leader = home.leader()
    refused(None)
    refused(None)
    assert hello(home.identity())["name"] == "pi1"
    until(lambda: leader.refusals)
    assert leader.refusals == [
        "join service: refused 127.0.0.1: no TLS of this cluster: peer did not return a certificate"
    ]


def test_another_clusters_certificate_is_refused(home: Home, neighbour: pki.Authority) -> None:
    leader = home.leader()
    refused(home.identity(of=neighbour))
    until(lambda: leader.refusals)
    assert "not a certificate of this cluster" in leader.refusals[0]
    assert leader.asks() == []


def test_a_self_signed_certificate_is_refused(home: Home, neighbour: pki.Authority) -> None:
    leader = home.leader()
    directory = home.path / "self-signed"
    directory.mkdir()
    (directory / "node.pem").write_text(neighbour.ca_pem)
    (directory / "node.key").write_text(neighbour.ca_key.reveal())
    refused(directory)
    until(lambda: leader.refusals)
    assert "not a certificate of this cluster" in leader.refusals[0]


def test_a_certificate_of_this_ca_for_another_cluster_is_refused(home: Home) -> None:
    leader = home.leader()
    refused(home.identity(cluster="office"))
    until(lambda: leader.refusals)
    assert leader.refusals[0].endswith("certificate: of cluster office, this is home")


def test_no_older_tls(home: Home) -> None:
    home.leader()
    directory = home.identity()
    context = rig.context(directory)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        rig.plain(ADDRESS["pi1"]) as sock,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
    ):
        context.wrap_socket(sock, server_hostname="any")


@pytest.mark.parametrize(
    "said", [b"GET /v1/hello HTTP/1.1\r\n\r\n", b"\x00" * 50, random.Random(1).randbytes(5000)]
)
def test_what_is_no_tls_is_cut_off(home: Home, said: bytes) -> None:
    leader = home.leader()
    with rig.plain(ADDRESS["pi1"]) as sock:
        sock.sendall(said)
        assert closed(sock)
    assert hello(home.identity())["name"] == "pi1"
    assert len(leader.refusals) <= 1


def test_an_older_card_is_not_judged_here_but_named_as_it_is(home: Home) -> None:
    leader = home.leader()
    with rig.caller(ADDRESS["pi1"], home.identity(generation=7)) as sock:
        sock.sendall(rig.post("/v1/join", {}))
        (ask,) = until(leader.asks)
    assert ask["claim"] == {"cluster": "home", "role": "worker", "name": "pi9", "generation": 7}


# --- join and joined ----------------------------------------------------------------------------


def test_the_token_is_in_the_answer_and_nowhere_else(home: Home) -> None:
    leader = home.leader()
    pi9 = home.on("pi9")
    pi9.says(rig.waiting("pi9"))
    outcome: list[Any] = []
    asking = threading.Thread(target=lambda: outcome.append(pi9.ask_join(name="pi1")))
    asking.start()
    (ask,) = until(leader.asks)
    assert (ask["kind"], ask["claim"]["name"], ask["claim"]["role"]) == ("join", "pi9", "worker")
    granted = {
        "status": "granted",
        "why": "pi9 may join",
        "leader": "pi1",
        "token": TOKEN,
        "address": ADDRESS["pi1"] + ":2377",
        "swarm_id": "swarm-1",
        "epoch": 1,
    }
    assert leader.answer(number=ask["number"], reply=granted)
    asking.join(SECONDS)

    assert outcome[0]["status"] == "granted"
    assert outcome[0]["grant"]["token"] == TOKEN
    assert outcome[0]["grant"]["address"] == ADDRESS["pi1"] + ":2377"
    assert (outcome[0]["grant"]["swarm_id"], outcome[0]["grant"]["epoch"]) == ("swarm-1", 1)
    assert TOKEN not in outcome[0]["shown"]
    assert leader.asks() == []
    assert not leader.answer(number=ask["number"], reply=granted), "answered twice"
    assert "SWMTKN" not in "".join(leader.log + pi9.log) + str(hello(home.identity("pi2")))


def test_joined_carries_the_node_id_and_brings_the_verdict(home: Home) -> None:
    leader = home.leader()
    pi9 = home.on("pi9")
    outcome: list[Any] = []
    asking = threading.Thread(
        target=lambda: outcome.append(pi9.report_joined(name="pi1", node_id="abc123"))
    )
    asking.start()
    (ask,) = until(leader.asks)
    assert (ask["kind"], ask["node_id"]) == ("joined", "abc123")
    leader.answer(number=ask["number"], reply={"status": "bound", "why": "pi9 is node abc123"})
    asking.join(SECONDS)
    assert (outcome[0]["status"], outcome[0]["why"]) == ("bound", "pi9 is node abc123")
    assert outcome[0]["grant"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"name": "pi1"},
        {"role": "manager"},
        {"name": "pi1", "role": "manager", "generation": 9},
        [],
        b"",
        b"{} {}",
        b'{"a": ' * 600,
    ],
)
def test_who_asks_for_more_than_a_worker_token_gets_nothing(modern: Home, body: object) -> None:
    leader = modern.leader()
    status, reply = rig.say(ADDRESS["pi1"], modern.identity(), rig.post("/v1/join", body))
    assert (status, reply["status"], reply["token"]) == (400, "refused", "")
    assert leader.asks() == []
    (line,) = until(lambda: leader.refusals)
    assert line.startswith("join service: refused 127.0.0.1: pi9: ")


def test_the_main_loop_is_woken_by_an_ask(modern: Home) -> None:
    leader = modern.leader()
    before = leader.wakes()
    with rig.caller(ADDRESS["pi1"], modern.identity()) as sock:
        sock.sendall(rig.post("/v1/join", {}))
        until(leader.asks)
    assert leader.wakes() > before


def test_an_ask_without_an_answer_ends_as_later(home: Home) -> None:
    leader = home.leader(answer=0.5)
    status, reply = rig.say(ADDRESS["pi1"], home.identity(), rig.post("/v1/join", {}))
    assert (status, reply["status"], reply["token"]) == (503, "later", "")
    assert leader.asks() == []


def test_an_ask_whose_caller_is_gone_is_closed(home: Home) -> None:
    leader = home.leader()
    with rig.caller(ADDRESS["pi1"], home.identity()) as sock:
        sock.sendall(rig.post("/v1/join", {}))
        (ask,) = until(leader.asks)
    until(lambda: not leader.asks())
    assert not leader.answer(number=ask["number"], reply={"status": "later", "why": ""})


def test_one_certificate_has_one_open_ask(modern: Home) -> None:
    leader = modern.leader()
    directory = modern.identity()
    with rig.caller(ADDRESS["pi1"], directory) as first:
        first.sendall(rig.post("/v1/join", {}))
        (one,) = until(leader.asks)
        with rig.caller(ADDRESS["pi1"], directory) as second:
            second.sendall(rig.post("/v1/join", {}))
            assert rig.answer(first)[1]["why"] == "asked again"
            (two,) = leader.asks()
            assert two["number"] > one["number"]
            leader.answer(number=two["number"], reply={"status": "refused", "why": "no"})
            assert rig.answer(second)[1]["status"] == "refused"


def test_an_honest_nodes_asks_are_all_heard(modern: Home) -> None:
    """Token, report, report after "later", and a new start that asks for a token again."""
    leader, directory = modern.leader(), modern.identity()
    join, joined = rig.post("/v1/join", {}), rig.post("/v1/joined", {"node_id": "x"})
    for request in (join, joined, joined, join):
        with rig.caller(ADDRESS["pi1"], directory) as sock:
            sock.sendall(request)
            (ask,) = until(leader.asks)
            leader.answer(number=ask["number"], reply={"status": "refused", "why": "heard"})
            assert rig.answer(sock)[1]["why"] == "heard"
    assert leader.refusals == []


def test_a_card_that_asks_without_end_leaves_the_main_loop_time_for_more(modern: Home) -> None:
    """Over several connections, join and joined in turn: the main loop answers asks first."""
    leader, directory, ending = modern.leader(), modern.identity(), threading.Event()
    said = {
        "/v1/join": rig.post("/v1/join", {}),
        "/v1/joined": rig.post("/v1/joined", {"node_id": "x"}),
    }
    whys: list[str] = []

    def attack(target: str) -> None:
        with rig.caller(ADDRESS["pi1"], directory) as sock:
            while not ending.is_set():
                sock.sendall(said[target])
                whys.append(rig.answer(sock)[1]["why"])

    attackers = [threading.Thread(target=attack, args=(target,)) for target in [*said, *said][:3]]
    begun, free, most, answered = time.monotonic(), 0, 0, 0
    for one in attackers:
        one.start()
    try:
        while time.monotonic() - begun < 4.0:
            asks = leader.asks()
            most, free, answered = max(most, len(asks)), free + (not asks), answered + len(asks)
            for ask in asks:
                leader.answer(number=ask["number"], reply={"status": "later", "why": "heard"})
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        with rig.caller(ADDRESS["pi1"], modern.identity("pi2")) as honest:
            honest.sendall(said["/v1/join"])
            until(lambda: any(ask["claim"]["name"] == "pi2" for ask in leader.asks()))
    finally:
        ending.set()
        for ask in leader.asks():
            leader.answer(number=ask["number"], reply={"status": "later", "why": "heard"})
        for one in attackers:
            one.join(SECONDS)
    assert most == 1
    assert 0 < answered <= 4 + seconds + 1, "a burst, and one a second"
    assert free > answered
    assert "pi9 asks too often" in whys
    assert leader.refusals == ["join service: refused 127.0.0.1: pi9 asks too often"]


def test_the_open_asks_are_bounded(modern: Home) -> None:
    leader = modern.leader(asks=3)
    with (
        rig.caller(ADDRESS["pi1"], modern.identity(generation=1)) as one,
        rig.caller(ADDRESS["pi1"], modern.identity(generation=2)) as two,
        rig.caller(ADDRESS["pi1"], modern.identity(generation=3)) as three,
    ):
        for number, sock in enumerate((one, two, three), start=1):
            sock.sendall(rig.post("/v1/join", {}))
            until(lambda wanted=number: len(leader.asks()) == wanted)
        status, reply = rig.say(
            ADDRESS["pi1"], modern.identity("pi2"), rig.post("/v1/joined", {"node_id": "x"})
        )
        assert (status, reply["status"]) == (503, "later")
        assert [ask["claim"]["generation"] for ask in leader.asks()] == [1, 2, 3]


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (rig.post("/v1/join", b" " * 5000), 413),
        (rig.post("/v1/join", b"{}") + b"more", 400),
        (b"GET /v1/hello HTTP/1.1\r\nX: " + b"y" * 3000, 431),
        (b"GET /v1/hello HTTP/1.1\r\n" + b"X: y\r\n" * 500, 431),
        (b"POST /v1/join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (b"POST /v1/hello HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /v1/join HTTP/1.1\r\n\r\n", 405),
        (b"GET /v1/tokens HTTP/1.1\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
    ],
)
def test_a_bad_request_is_told_and_ends_the_connection(
    modern: Home, request_: bytes, status: int
) -> None:
    leader = modern.leader()
    with rig.caller(ADDRESS["pi1"], modern.identity()) as sock:
        sock.sendall(request_)
        got, reply = rig.answer(sock)
        assert (got, reply["status"]) == (status, "refused")
        assert closed(sock)
    assert leader.asks() == []


def drip(sock: socket.socket, data: bytes) -> float:
    """Send a byte every 50 ms until the other side has enough; give the seconds that took."""
    begun = time.monotonic()
    sock.settimeout(0.05)
    try:
        for number in range(len(data)):
            sock.sendall(data[number : number + 1])
            if closed(sock):
                break
    except OSError:
        pass
    return time.monotonic() - begun


def test_whoever_is_slow_is_cut_off_however_steadily_it_sends(home: Home) -> None:
    home.leader(**QUICK)
    directory = home.identity()
    with rig.plain(ADDRESS["pi1"]) as sock:
        begun = time.monotonic()
        assert closed(sock), "says nothing"
        assert 0.8 < time.monotonic() - begun < 4.0
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = rig.context(directory).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with rig.plain(ADDRESS["pi1"]) as sock:
        assert 0.8 < drip(sock, outgoing.read()) < 4.0, "slow in the handshake"
    with rig.caller(ADDRESS["pi1"], directory) as secure:
        assert 0.8 < drip(secure, GET_HELLO.replace(b"x", b"x" * 500)) < 4.0, "slow in the request"


def flood(count: int, *, sources: Callable[[int], str], say: bytes) -> list[socket.socket]:
    """Open many connections that say the beginning of something and then wait."""
    socks = []
    for number in range(count):
        sock = socket.socket()
        sock.bind((sources(number), 0))
        sock.setblocking(False)
        sock.connect_ex((ADDRESS["pi1"], PORT))
        socks.append(sock)
    for sock in socks:
        try:
            sock.send(say)
        except OSError:
            continue
    return socks


@pytest.mark.parametrize("sources", ["one", "250", "the honest peer's"])
@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "half"])
def test_a_thousand_slow_connections_do_not_keep_an_honest_peer_out(
    home: Home, sources: str, say: bytes, report: Callable[[str], None]
) -> None:
    leader = home.leader()
    directory = home.identity()
    hello(directory)
    idle = leader.memory()
    assert idle["VmRSS"] < IDLE_KB, idle

    def source(number: int) -> str:
        many = f"{SUBNET}.{number % 250 + 1}"
        return {"one": STRANGER, "250": many}.get(sources, HONEST)

    taken = []
    socks = flood(1000, sources=source, say=say)
    try:
        for _ in range(5):
            begun = time.monotonic()
            assert hello(directory)["name"] == "pi1"
            taken.append(time.monotonic() - begun)
        memory = leader.memory()
        opened = len(os.listdir(f"/proc/{leader.pid}/fd"))
    finally:
        rig.close_all(socks)
    report(f"idle {idle}, flooded {memory}, hello in at most {max(taken):.3f} s")
    assert max(taken) < 1.0
    assert opened < 64 + 20
    assert memory["VmHWM"] < FLOODED_KB
    assert memory["Threads"] == idle["Threads"]


def test_connections_without_end_do_not_keep_an_honest_peer_out(home: Home) -> None:
    leader = home.leader()
    directory = home.identity()
    ending = threading.Event()

    def attack() -> None:
        while not ending.is_set():
            rig.close_all(flood(50, sources=lambda _: STRANGER, say=b"\x16\x03\x01"))

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        begun = time.monotonic()
        for _ in range(10):
            hello(directory)
        taken = (time.monotonic() - begun) / 10
    finally:
        ending.set()
        attacker.join(SECONDS)
    assert taken < 1.0
    assert len(leader.refusals) <= 2, "once a source and minute"


def test_it_survives_that_the_system_has_no_more_files(modern: Home) -> None:
    leader = modern.leader(handshake=1.0)
    directory = modern.identity()
    opened = len(os.listdir(f"/proc/{leader.pid}/fd"))
    resource.prlimit(leader.pid, resource.RLIMIT_NOFILE, (opened + 10, opened + 10))
    socks = flood(100, sources=lambda number: f"{SUBNET}.{number + 1}", say=b"")
    try:
        until(lambda: any("all: cannot take calls: Too many" in line for line in leader.refusals))
        begun = leader.cpu()
        time.sleep(0.5)
        assert leader.cpu() - begun < 0.1, "it waits, it does not spin"
    finally:
        rig.close_all(socks)
    assert hello(directory)["name"] == "pi1"


def test_a_card_that_calls_without_end_does_not_keep_others_out(modern: Home) -> None:
    leader = modern.leader()
    directory, other = modern.identity(), modern.identity("pi2")
    socks = []
    try:
        for _ in range(40):
            sock = rig.context(directory).wrap_socket(
                socket.create_connection((ADDRESS["pi1"], PORT)), server_hostname="any"
            )
            sock.sendall(GET_HELLO)
            assert rig.answer(sock)[0] == 200
            socks.append(sock)
        open_ = [sock for sock in socks if not _ended(sock)]
        assert len(open_) == 4
        assert hello(other)["name"] == "pi1"
    finally:
        rig.close_all(socks)
    until(lambda: leader.refusals)
    assert leader.refusals == ["join service: refused 127.0.0.1: too many connections"]


def _ended(sock: socket.socket) -> bool:
    sock.settimeout(0.05)
    return closed(sock)


def test_without_news_of_its_main_loop_it_says_no_hello(modern: Home) -> None:
    node = modern.on("pi1", limits={"snapshot": 1.0})
    directory = modern.identity()
    assert rig.say(ADDRESS["pi1"], directory, GET_HELLO)[0] == 503, "nothing published yet"
    node.says(rig.leader())
    assert rig.say(ADDRESS["pi1"], directory, GET_HELLO)[0] == 200
    time.sleep(1.1)
    assert rig.say(ADDRESS["pi1"], directory, GET_HELLO)[0] == 503, "too old to be true"


# --- the client ---------------------------------------------------------------------------------


def contact(node: Node, name: str) -> Any:
    return node.contacts().get(name)


def heard(node: Node, name: str) -> Any:
    """The hello of a peer that answers, else None."""
    got = contact(node, name)
    return got["hello"] if got and got["silent_since"] is None else None


def silent(node: Node, name: str) -> bool:
    got = contact(node, name)
    return bool(got) and got["silent_since"] is not None


def test_nodes_hear_of_each_other(home: Home) -> None:
    leader, pi9 = home.on("pi1"), home.on("pi9")
    pi9.says(rig.waiting("pi9"))
    leader.says(rig.leader(), pi9="id-9")
    assert until(lambda: heard(pi9, "pi1"))["you"] == "id-9"
    assert until(lambda: heard(leader, "pi9"))["phase"] == "PROBE"
    assert "pi9" not in pi9.contacts()
    until(lambda: silent(pi9, "pi2"))


def test_who_leads_tells_what_is_new_without_being_asked(home: Home) -> None:
    leader, pi9 = home.on("pi1"), home.on("pi9")
    # A worker that is ready asks every 8 s.
    pi9.says(rig.waiting("pi9", phase="READY"))
    leader.says(rig.leader(grants=False))
    until(lambda: heard(pi9, "pi1"))
    for number in range(5):
        leader.says(rig.leader(), pi9=f"id-{number}")
        until(lambda wanted=f"id-{number}": heard(pi9, "pi1")["you"] == wanted, seconds=3.0)


def test_node_as_identity_is_of_no_use_at_the_address_of_node_b(home: Home) -> None:
    """Invariant I11: the certificate must be of the name that was called."""
    thief = home.on("pi2", at="pi1")
    thief.says(rig.leader())
    pi9 = home.on("pi9")
    pi9.says(rig.waiting("pi9"))
    until(lambda: silent(pi9, "pi1"))
    assert contact(pi9, "pi1")["hello"] is None
    outcome = pi9.ask_join(name="pi1")
    assert outcome["failure"].startswith("pi1: not who it should be: Hostname mismatch")
    assert thief.asks() == []


def test_another_clusters_server_is_not_heard(home: Home, neighbour: pki.Authority) -> None:
    other = home.on("pi1", of=neighbour)
    other.says(rig.leader())
    pi9 = home.on("pi9")
    pi9.says(rig.waiting("pi9"))
    until(lambda: silent(pi9, "pi1"))
    assert "not who it should be" in pi9.ask_join(name="pi1")["failure"]
    assert contact(pi9, "pi1")["hello"] is None


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"name": "pi2"}, "but the certificate is of pi1"),
        ({"generation": 2}, "but the certificate is of pi1"),
        ({"charter": ""}, "not JSON"),
        ({"charter": rig.charter().replace("3aa8", "3aa9")}, "signature"),
        ({"swarm_epoch": 2}, "did not allow epoch 2"),
        ({"leader": "pi2"}, "does not lead"),
    ],
)
def test_a_hello_that_says_more_than_it_may_is_not_heard(
    modern: Home, lie: dict[str, Any], told: str
) -> None:
    liar = modern.on("pi1")
    liar.says(rig.leader(**lie))
    pi9 = modern.on("pi9")
    pi9.says(rig.waiting("pi9"))
    until(lambda: silent(pi9, "pi1") and any(told in line for line in pi9.log))
    assert contact(pi9, "pi1")["hello"] is None


def test_a_workers_card_can_neither_lead_nor_grant(modern: Home) -> None:
    upstart = modern.on("pi1", role="worker")
    upstart.says(rig.leader(role="worker"))
    pi9 = modern.on("pi9")
    pi9.says(rig.waiting("pi9"))
    until(lambda: any("speaks as a manager" in line for line in pi9.log))
    outcome: list[Any] = []
    asking = threading.Thread(target=lambda: outcome.append(pi9.ask_join(name="pi1")))
    asking.start()
    (ask,) = until(upstart.asks)
    upstart.answer(number=ask["number"], reply={"status": "later", "why": "come back"})
    asking.join(SECONDS)
    assert outcome[0]["failure"] == "pi1: its certificate is not a manager's"


def test_a_quorate_hello_of_a_later_epoch_needs_its_charter_only(modern: Home) -> None:
    leader, pi9 = modern.on("pi1"), modern.on("pi9")
    pi9.says(rig.waiting("pi9"))
    leader.says(rig.leader(epoch=2, swarm_epoch=2, charter=rig.charter(2)))
    assert until(lambda: heard(pi9, "pi1"))["swarm_epoch"] == 2


def test_clocks_that_are_decades_apart_do_not_matter(home: Home) -> None:
    need("gcc")
    library = clocks.build(home.path)
    begun = {"pi1": 0.0, "pi9": 2_840_140_800.0}  # 1970 and 2060
    nodes = {}
    for name, when in begun.items():
        clock = Clock(home.path / f"clock-{name}")
        clock.shift(when - time.time())
        nodes[name] = home.on(name, environment=clock.environment(library))
    nodes["pi9"].says(rig.waiting("pi9"))
    nodes["pi1"].says(rig.leader())
    for one, other in (("pi1", "pi9"), ("pi9", "pi1")):
        told = until(lambda one=one, other=other: heard(nodes[one], other))["time"]
        assert 0 <= told - begun[other] < SECONDS


def test_hellos_use_one_connection(modern: Home) -> None:
    leader, pi9 = modern.on("pi1"), modern.on("pi9")
    pi9.says(rig.waiting("pi9"))
    leader.says(rig.leader())
    until(lambda: heard(pi9, "pi1"))
    first, ports = contact(pi9, "pi1")["heard"], _ports(pi9.pid)
    until(lambda: contact(pi9, "pi1")["heard"] > first + 1.5)
    assert len(ports) == 1
    assert _ports(pi9.pid) == ports


def _ports(pid: int) -> set[str]:
    """Local ports of the connections to pi1's service, as the kernel writes them."""
    address = "".join(f"{int(part):02X}" for part in reversed(ADDRESS["pi1"].split(".")))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    there = f"{address}:{PORT:04X}"
    return {fields[1] for fields in lines if fields[2] == there and fields[3] == "01"}


def test_a_line_that_breaks_under_a_hello_is_made_anew_before_anybody_counts_as_silent(
    modern: Home,
) -> None:
    directory = modern.identity("pi1")
    with socket.create_server((ADDRESS["pi1"], PORT)) as listener:
        listener.settimeout(SECONDS)
        pi9 = modern.on("pi9")
        pi9.says(rig.waiting("pi9"))
        served = []
        for requests in (2, 1):
            plain, _ = listener.accept()
            plain.settimeout(SECONDS)
            context = tls.server_context(str(directory))
            with context.wrap_socket(plain, server_side=True) as sock:
                for number in range(requests):
                    served.append(sock.recv(4096).split(b" ")[1])
                    if number == 0:
                        body = wire.dump_hello(rig.leader())
                        sock.sendall(framing.response(200, body, last=False))
                        until(lambda: heard(pi9, "pi1"))
    assert served == [b"/v1/hello"] * 3
    assert not any("hello of pi1" in line for line in pi9.log)


def test_small_messages_are_not_held_back(modern: Home) -> None:
    """Without TCP_NODELAY each hello takes 40 ms more, the time of a delayed acknowledgement."""
    modern.leader()
    directory = modern.identity()
    taken = []
    for _ in range(20):
        begun = time.monotonic()
        hello(directory)
        taken.append(time.monotonic() - begun)
    assert min(taken) < 0.04


def test_a_peer_without_power_is_silent_and_comes_back(home: Home) -> None:
    leader, pi9 = home.on("pi1"), home.on("pi9")
    pi9.says(rig.waiting("pi9"))
    leader.says(rig.leader())
    until(lambda: heard(pi9, "pi1"))
    leader.kill()
    until(lambda: silent(pi9, "pi1"), seconds=6.0)
    assert contact(pi9, "pi1")["hello"]["name"] == "pi1", "its last word is kept"
    assert "Connection refused" in pi9.ask_join(name="pi1")["failure"]
    again = home.on("pi1")
    again.says(rig.leader())
    until(lambda: heard(pi9, "pi1"), seconds=3.0)


def test_a_peer_that_never_answers_costs_four_seconds_and_stops_nobody(modern: Home) -> None:
    with socket.create_server((ADDRESS["pi2"], PORT)) as deaf:
        deaf.settimeout(SECONDS)
        pi9 = modern.on("pi9")
        pi9.says(rig.waiting("pi9"))
        leader = modern.on("pi1")
        leader.says(rig.leader())
        until(lambda: heard(pi9, "pi1"))
        until(lambda: "hello of pi2: no answer in time" in pi9.log)
        last = contact(pi9, "pi1")["heard"]
        until(lambda: contact(pi9, "pi1")["heard"] > last, seconds=2.0)


def test_an_idle_node_stays_small(home: Home, report: Callable[[str], None]) -> None:
    leader, pi9, pi2 = home.on("pi1"), home.on("pi9"), home.on("pi2")
    leader.says(rig.leader())
    pi9.says(rig.waiting("pi9", phase="READY"))
    pi2.says(rig.waiting("pi2", phase="READY"))
    until(lambda: heard(leader, "pi9") and heard(leader, "pi2"))
    begun = leader.cpu()
    time.sleep(3.0)
    used = (leader.cpu() - begun) / 3.0
    report(f"leader {leader.memory()}, {used:.2%} of a core; worker {pi9.memory()}")
    assert leader.memory()["VmRSS"] < IDLE_KB
    assert leader.memory()["Threads"] == 3
    assert used < 0.01
