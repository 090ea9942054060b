from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstboot import wire
from firstboot.model import Claim, Hello, Token
from firstboot.wire import MAX_BODY, Reply, WireError
from tests.unit.firstboot.sights import hello, outsider

TOKEN = Token("SWMTKN-1-" + "3" * 50 + "-" + "7" * 25)
GRANTED = Reply(
    "granted", "pi9 may join", "pi1", TOKEN, address="198.18.0.11:2377", swarm_id="s1", epoch=1
)

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
ids = st.from_regex(r"(?:[0-9A-Za-z][0-9A-Za-z-]{0,63})?", fullmatch=True)
numbers = st.integers(0, 10**9 - 1)
hellos = st.builds(
    Hello,
    name=names,
    role=st.sampled_from(["manager", "worker"]),
    generation=st.integers(1, 10**9 - 1),
    epoch=numbers,
    charter=st.from_regex(r"[ -~\n]{0,400}", fullmatch=True),
    phase=st.from_regex(r"[A-Z]{1,16}", fullmatch=True),
    engine=st.sampled_from(["", "inactive", "pending", "active", "error", "locked"]),
    node_id=ids,
    swarm_id=ids,
    swarm_epoch=numbers,
    was_member=st.booleans(),
    quorum=st.booleans(),
    leader=st.one_of(st.just(""), names),
    grants=st.booleans(),
    ca=ids,
    time=st.floats(0, 253402300799),
    quality=st.sampled_from(["none", "floor", "peer", "ntp"]),
    you=ids,
)


# --- hello --------------------------------------------------------------------------------------


@given(hellos)
def test_a_hello_comes_back_as_it_was(said: Hello) -> None:
    assert wire.parse_hello(wire.dump_hello(said)) == said


def members(body: bytes) -> dict[str, Any]:
    got = json.loads(body)
    assert isinstance(got, dict)
    return got


def changed(**more: object) -> bytes:
    return json.dumps({**members(wire.dump_hello(hello())), **more}).encode()


def test_a_newer_hello_may_say_more() -> None:
    assert wire.parse_hello(changed(leds="green")) == hello()


def test_every_member_of_a_hello_is_needed() -> None:
    whole = members(wire.dump_hello(hello()))
    for key in whole:
        short = {name: value for name, value in whole.items() if name != key}
        with pytest.raises(WireError, match=key):
            wire.parse_hello(json.dumps(short).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "PI1"},
        {"name": "pi1\n"},
        {"name": ""},
        {"role": "boss"},
        {"generation": 0},
        {"generation": True},
        {"generation": "1"},
        {"generation": 1.0},
        {"epoch": -1},
        {"epoch": 10**9},
        {"phase": "ready"},
        {"engine": "fine"},
        {"node_id": "x" * 65},
        {"node_id": "a b"},
        {"quorum": 1},
        {"grants": "true"},
        {"charter": "é"},
        {"charter": "x" * 2561},
        {"time": -1},
        {"time": 1e12},
        {"time": "now"},
        {"time": True},
        {"quality": "good"},
        {"you": None},
        {"ca": ["x"]},
    ],
)
def test_a_wrong_member_is_named(wrong: dict[str, object]) -> None:
    (key,) = wrong
    with pytest.raises(WireError, match=f"^{key}: "):
        wire.parse_hello(changed(**wrong))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 4000,
        b'{"a":' * 800,
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b" " * (MAX_BODY + 1),
    ],
)
def test_what_is_no_bounded_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(WireError, match=r"^body: "):
        wire.parse_hello(body)
    with pytest.raises(WireError, match=r"^body: "):
        wire.parse_reply(body)
    with pytest.raises(WireError, match=r"^body: "):
        wire.parse_joined(body)


@given(st.binary(max_size=200))
def test_garbage_is_an_error_and_nothing_else(body: bytes) -> None:
    for parse in (wire.parse_hello, wire.parse_reply, wire.parse_joined):
        with pytest.raises(WireError):
            parse(body)


def test_the_largest_hello_fits() -> None:
    long = replace(
        hello("p" * 63),
        charter='"' * 1100,
        leader="p" * 63,
        phase="X" * 16,
        node_id="i" * 64,
        swarm_id="i" * 64,
        ca="i" * 64,
        you="i" * 64,
    )
    assert len(wire.dump_hello(long)) <= MAX_BODY


def test_what_cannot_be_said_is_an_error_of_who_says_it() -> None:
    with pytest.raises(WireError, match="time"):
        wire.dump_hello(replace(hello(), time=-5.0))


# --- who says it --------------------------------------------------------------------------------

PI1 = Claim("home", "manager", "pi1", 1)
PI9 = Claim("home", "worker", "pi9", 1)


def test_a_hello_of_the_node_that_its_certificate_names_is_taken() -> None:
    wire.vouch(hello("pi1"), PI1)
    wire.vouch(replace(outsider("pi9"), role="worker"), PI9)


@pytest.mark.parametrize("wrong", [{"name": "pi2"}, {"role": "worker"}, {"generation": 2}])
def test_a_hello_of_another_node_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="but the certificate is of pi1"):
        wire.vouch(replace(hello("pi1"), **wrong), PI1)


def test_an_older_card_is_not_heard_after_a_newer_one() -> None:
    wire.vouch(hello("pi1"), PI1, newest=1)
    with pytest.raises(WireError, match="of generation 1, but there is one of generation 2"):
        wire.vouch(hello("pi1"), PI1, newest=2)


@pytest.mark.parametrize("more", [{"quorum": True}, {"grants": True}])
def test_a_worker_cannot_speak_as_a_manager(more: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="speaks as a manager"):
        wire.vouch(replace(outsider("pi9"), role="worker", **more), PI9)


@pytest.mark.parametrize("more", [{"quorum": False}, {"leader": "pi2"}])
def test_only_a_leader_with_a_quorum_grants(more: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="does not lead"):
        wire.vouch(replace(hello("pi1"), **more), PI1)


# --- certificates -------------------------------------------------------------------------------

SUBJECT = (
    (("organizationName", "home"),),
    (("organizationalUnitName", "worker"),),
    (("commonName", "pi9"),),
)
NAMES = (("DNS", "pi9.home.piflash"), ("URI", "piflash://home/worker/pi9/3"))


def certificate(subject: object = SUBJECT, names: object = NAMES) -> dict[str, object]:
    """As getpeercert() gives it."""
    return {"subject": subject, "subjectAltName": names, "version": 3}


def test_a_certificate_says_who_it_is() -> None:
    assert wire.claim(certificate(), cluster="home") == Claim("home", "worker", "pi9", 3)


def named(dns: str, uri: str) -> tuple[tuple[str, str], ...]:
    return (("DNS", dns), ("URI", uri))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        certificate(names=()),
        certificate(names=NAMES[:1]),
        certificate(names=NAMES[1:]),
        certificate(names=(*NAMES, ("URI", "piflash://home/manager/pi1/3"))),
        certificate(names=(*NAMES, ("DNS", "pi1.home.piflash"))),
        certificate(names=(*NAMES, ("IP Address", "198.18.0.11"))),
        certificate(names=named("pi1.home.piflash", "piflash://home/worker/pi9/3")),
        certificate(names=named("pi9.home.piflash", "piflash://home/worker/pi1/3")),
        certificate(names=named("pi9.home.piflash", "piflash://home/manager/pi9/3")),
        certificate(names=named("pi9.home.piflash", "piflash://home/worker/pi9/0")),
        certificate(names=named("pi9.home.piflash", "piflash://home/worker/pi9/3\n")),
        certificate(names=named("pi9.home.piflash", "piflash://home/worker/pi9/3/4")),
        certificate(names=named("pi9.home.piflash", "https://home/worker/pi9/3")),
        certificate(names=named("pi9.home.piflash\0.evil", "piflash://home/worker/pi9/3")),
        certificate(subject=()),
        certificate(subject=SUBJECT[:2]),
        certificate(subject=(*SUBJECT, (("commonName", "pi9"),))),
        certificate(subject=(*SUBJECT[:2], (("commonName", "pi1"),))),
        certificate(subject=(*SUBJECT[:2], (("commonName", "pi9"), ("commonName", "pi1")))),
    ],
)
def test_a_certificate_whose_parts_do_not_agree_is_of_nobody(wrong: dict[str, object]) -> None:
    with pytest.raises(WireError, match=r"^certificate: "):
        wire.claim(wrong, cluster="home")


def test_a_certificate_of_another_cluster_is_refused() -> None:
    with pytest.raises(WireError, match="of cluster home, this is office"):
        wire.claim(certificate(), cluster="office")


# --- join and joined ----------------------------------------------------------------------------


def test_asks_come_back_as_they_were() -> None:
    wire.parse_join(wire.dump_join())
    assert wire.parse_joined(wire.dump_joined("abc123")) == "abc123"


@pytest.mark.parametrize("more", ["role", "name", "token", "kind"])
def test_an_ask_says_nothing_of_who_asks(more: str) -> None:
    with pytest.raises(WireError, match=f"asks for more than it may: {more}"):
        wire.parse_join(json.dumps({more: "manager"}).encode())
    with pytest.raises(WireError, match=f"asks for more than it may: {more}"):
        wire.parse_joined(json.dumps({"node_id": "x", more: "manager"}).encode())


@pytest.mark.parametrize("node_id", ["", "a b", "--force", "x" * 65, 7, None])
def test_a_node_id_that_is_none_is_refused(node_id: object) -> None:
    with pytest.raises(WireError, match="node_id"):
        wire.parse_joined(json.dumps({"node_id": node_id}).encode())


@given(
    status=st.sampled_from(["bound", "later", "refused", "unknown", "elsewhere"]),
    why=st.text(max_size=400),
    leader=st.one_of(st.just(""), names),
)
def test_a_reply_comes_back_as_one_line(status: str, why: str, leader: str) -> None:
    got = wire.parse_reply(wire.dump_reply(Reply(status, why, leader)))
    assert got == Reply(status, wire.line(why), leader)
    assert len(got.why) <= 300
    assert got.why.isprintable()


def test_a_grant_comes_back_with_its_token() -> None:
    assert wire.parse_reply(wire.dump_reply(GRANTED)) == GRANTED


def test_no_text_of_a_reply_shows_its_token() -> None:
    assert TOKEN.reveal() not in repr(GRANTED)
    leaking = replace(GRANTED, why=f"docker swarm join --token {TOKEN.reveal()} failed")
    body = members(wire.dump_reply(leaking))
    assert body["why"] == "docker swarm join --token *** failed"
    assert body["token"] == TOKEN.reveal()


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "refused"},
        {"status": "yes"},
        {"token": "SWMTKN-1-a"},
        {"token": "-f SWMTKN-1-a-b"},
        {"token": "SWMTKN-1-a-b\n"},
        {"token": 7},
        {"address": ""},
        {"address": "pi1:2377"},
        {"address": "198.18.0.11:"},
        {"address": "198.18.0.011"},
        {"address": "--advertise-addr"},
        {"swarm_id": ""},
        {"epoch": 0},
        {"why": "a\nb"},
        {"why": "x" * 301},
        {"leader": "Pi"},
    ],
)
def test_a_wrong_grant_is_refused_without_a_word_of_its_token(wrong: dict[str, object]) -> None:
    body = json.dumps({**members(wire.dump_reply(GRANTED)), **wrong}).encode()
    with pytest.raises(WireError) as caught:
        wire.parse_reply(body)
    assert "SWMTKN" not in str(caught.value)
