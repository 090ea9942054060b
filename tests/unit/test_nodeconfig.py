from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstboot.nodeconfig import ConfigError, NodeConfig, Peer, StackRef, dump, parse

MODULUS = "c" * 768


def config(**changes: Any) -> NodeConfig:
    base = NodeConfig(
        cluster="home",
        name="pi1",
        role="manager",
        generation=1,
        epoch=1,
        address="198.18.0.11",
        subnet="198.18.0.0/24",
        domain="pi.home.arpa",
        flashed_at=1_790_000_000,
        permit_key=MODULUS,
        roster=(
            Peer("pi1", "manager", "198.18.0.11", True, {}),
            Peer("pi2", "worker", "198.18.0.12", False, {"disk": "ssd"}),
        ),
        interface="eth0",
        stacks=(StackRef("traefik", "a" * 64),),
    )
    return dataclasses.replace(base, **changes)


def changed(path: str, value: object) -> str:
    """Give node.json with one value changed; a path like roster.0.name."""
    data = json.loads(dump(config()))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    at: Any = data
    for key in parents:
        at = at[key]
    at[last] = value
    return json.dumps(data)


def without(key: str) -> str:
    data = json.loads(dump(config()))
    del data[key]
    return json.dumps(data)


def test_what_was_dumped_is_parsed_to_the_same() -> None:
    assert parse(dump(config())) == config()


def test_the_text_is_sorted_ascii_and_ends_with_a_newline() -> None:
    text = dump(config(roster=(Peer("pi1", "manager", "198.18.0.11", True, {"ort": "Küche"}),)))
    assert text.isascii()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert parse(text).me.labels == {"ort": "Küche"}


def test_ignores_keys_of_a_newer_piflash() -> None:
    assert parse(changed("colour", {"deep": [1]})) == config()
    assert parse(changed("roster.0.colour", "red")) == config()


def test_names_itself_and_the_seed() -> None:
    worker = config(name="pi2", role="worker", address="198.18.0.12")
    assert worker.me.labels == {"disk": "ssd"}
    assert worker.seed.name == "pi1"


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(NodeConfig)])
def test_refuses_a_missing_key(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: missing"):
        parse(without(key))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 2, "version: 2, but this firstboot reads version 1"),
        ("version", "1", "version: '1' is not a whole number"),
        ("version", True, "version: True is not a whole number"),
        ("cluster", "", "cluster: '' is not a host name"),
        ("cluster", "Home", "cluster: 'Home' is not a host name"),
        ("name", "../x", "name: '../x' is not a host name"),
        ("name", "pi1\n", "name: 'pi1\\\\n' is not a host name"),
        ("name", "a" * 64, "is not a host name"),
        ("name", "pi9", "roster: this node, pi9, is not in it"),
        ("role", "leader", "role: 'leader' is not one of manager, worker"),
        ("role", "worker", "roster: pi1 is a manager at 198.18.0.11, but this node is a worker"),
        ("generation", 0, "generation: 0 is not a whole number of at least 1"),
        ("generation", 1.0, "generation: 1.0 is not a whole number"),
        ("epoch", -1, "epoch: -1 is not"),
        ("address", "198.18.0.300", "address: '198.18.0.300' is not an IPv4 address"),
        ("address", 3323068427, "address: 3323068427 is not an IPv4 address"),
        ("address", "198.18.0.99", "but this node is a manager at 198.18.0.99"),
        ("subnet", "198.18.0.1/24", "subnet: '198.18.0.1/24' is not an IPv4 network"),
        ("subnet", "198.18.9.0/24", "roster: pi1 at 198.18.0.11 is outside of 198.18.9.0/24"),
        ("domain", "a..b", "domain: 'a..b' is not a domain name"),
        ("flashed_at", None, "flashed_at: None is not"),
        ("permit_key", "zz", "permit_key: 'zz' is not an RSA modulus"),
        ("permit_key", "0" * 768, "is not an RSA modulus"),
        ("interface", "usb0", "interface: 'usb0' is not one of eth0, wlan0"),
        ("roster", {}, "roster: {} is not a list"),
        ("roster", ["pi1"], "roster\\[0\\].: not a JSON object"),
        ("roster.1.name", "pi1", "roster: name: pi1 stands there twice"),
        ("roster.1.address", "198.18.0.11", "roster: address: 198.18.0.11 stands there twice"),
        ("roster.1.seed", True, "roster: 2 seeds"),
        ("roster.1.seed", 0, "roster\\[1\\].seed: 0 is not true or false"),
        ("roster.0.seed", False, "roster: 0 seeds"),
        ("roster.1.labels", {"a": 1}, "roster\\[1\\].labels: .* is not an object of texts"),
        ("stacks.0.sha256", "A" * 64, "stacks\\[0\\].sha256: .* is not a SHA-256"),
        ("stacks.0.name", "a/b", "stacks\\[0\\].name: 'a/b' is not"),
    ],
)
def test_refuses_and_says_what_is_wrong(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(changed(path, value))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, " " * (1 << 20) + "{}"])
def test_refuses_what_is_not_an_object(text: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.json"):
        parse(text)


def test_a_seed_that_is_a_worker_is_refused() -> None:
    roster = (
        Peer("pi1", "manager", "198.18.0.11", False, {}),
        Peer("pi2", "worker", "198.18.0.12", True, {}),
    )
    with pytest.raises(ConfigError, match="the seed pi2 is a worker"):
        dump(config(roster=roster))


def test_never_dumps_what_it_would_refuse_to_read() -> None:
    with pytest.raises(ConfigError, match="generation: 0"):
        dump(config(generation=0))


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@st.composite
def configs(draw: st.DrawFn) -> NodeConfig:
    roster_names = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    seed = draw(st.integers(0, len(roster_names) - 1))
    roster = tuple(
        Peer(
            name,
            "manager" if number == seed else draw(st.sampled_from(["manager", "worker"])),
            f"10.0.0.{number + 1}",
            number == seed,
            draw(st.dictionaries(texts, texts, max_size=3)),
        )
        for number, name in enumerate(roster_names)
    )
    me = draw(st.sampled_from(roster))
    stacks = draw(st.lists(names, max_size=3, unique=True))
    return NodeConfig(
        cluster=draw(names),
        name=me.name,
        role=me.role,
        generation=draw(st.integers(1, 2**70)),
        epoch=draw(st.integers(1, 99)),
        address=me.address,
        subnet="10.0.0.0/24",
        domain=draw(names) + "." + draw(names),
        flashed_at=draw(st.integers(0, 2**40)),
        permit_key=draw(st.sampled_from(["8" * 512, "f" * 1024])),
        roster=roster,
        interface=draw(st.sampled_from(["eth0", "wlan0"])),
        stacks=tuple(StackRef(name, "b" * 64) for name in stacks),
    )


@settings(max_examples=40)
@given(configs())
def test_any_valid_configuration_survives_the_round_trip(sample: NodeConfig) -> None:
    assert parse(dump(sample)) == sample
    assert dump(parse(dump(sample))) == dump(sample)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(
    st.sampled_from([field.name for field in dataclasses.fields(NodeConfig)]),
    json_values,
)
def test_any_value_is_either_valid_or_a_short_config_error(key: str, value: object) -> None:
    try:
        message = dump(parse(changed(key, value)))
    except ConfigError as error:
        message = str(error)
    assert len(message) < 3000
