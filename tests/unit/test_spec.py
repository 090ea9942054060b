"""Cluster file text -> ClusterSpec, or all problems.

Bad files are data: tests/unit/cases/spec/*.yaml, each with the problems it must give in its first
lines: `# expect: LINE:COLUMN: path: message`, or `# expect: FILE:LINE:COLUMN: ...`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flasher import cloudconfig, resources, spec
from flasher.cloudconfig import Schemas
from flasher.errors import ClusterFileError
from flasher.model import (
    ClusterSpec,
    ExtraConfig,
    ImageRef,
    LanAddress,
    Location,
    Problem,
    Role,
    Secret,
    Wifi,
)
from flasher.specnet import default_subnet
from tests.support.specs import PROFILE

CASES = Path(__file__).parent / "cases" / "spec"
DATA = resources.data_dir("cloud-init")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f test"
HASH = "$6$saltsalt$" + "x" * 86
HEAD = f"name: home\nuser: {{ssh_authorized_keys: ['{KEY}']}}\n"
NODES = "nodes:\n  pi1: {role: manager}\n  pi2: {role: worker}\n"
WIFI = "network: {wifi: {ssid: home, psk: correct horse, country: DE}}\n"


def judge(extra: ExtraConfig, target: spec.Target) -> tuple[Problem, ...]:
    return cloudconfig.judge(extra, target, profile=PROFILE, schemas=Schemas())


KNOWN = spec.Known(
    schema=json.loads((DATA / "cluster.schema.json").read_text("utf-8")),
    images=["hypriotos-1.12.3"],
    profiles=["hypriotos", "raspios"],
    stacks=["traefik", "minio", "monitoring"],
    read=lambda name: (CASES / "files" / name).read_text("utf-8"),
    judge=judge,
)


def parse(text: str) -> ClusterSpec:
    return spec.parse(text, file="cluster.yaml", known=KNOWN)


def problems(text: str) -> list[str]:
    with pytest.raises(ClusterFileError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


# --- bad files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda case: case.stem)
def test_tells_every_problem_of_a_bad_file_with_its_place(case: Path) -> None:
    text = case.read_text("utf-8")
    expected = re.findall(r"^# expect: (.+)$", text, flags=re.MULTILINE)
    assert expected
    assert problems(text) == [
        f"cluster.yaml:{line}" if line[0].isdigit() else line for line in expected
    ]


def test_the_cases_are_many_and_of_every_kind() -> None:
    kinds: dict[str, int] = {}
    for case in CASES.glob("*.yaml"):
        kind = case.stem.split("-")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    assert sum(kinds.values()) >= 100
    assert kinds["schema"] >= 20
    assert kinds["yaml"] >= 15


def test_the_error_counts_the_problems_and_names_the_remedy() -> None:
    with pytest.raises(ClusterFileError) as caught:
        parse(HEAD + "image: hypriotos-9\nnodes:\n  pi1: {role: mangr}\n")
    error = caught.value
    assert error.exit_code == 3
    assert error.message.startswith("2 problems in cluster.yaml:\ncluster.yaml:3:8: image: ")
    assert error.hint == "correct them, then: piflash check"
    assert [p.location.line for p in error.problems if isinstance(p, Problem)] == [3, 5]


def test_problems_in_a_named_file_point_into_it_beside_the_cluster_file() -> None:
    with pytest.raises(ClusterFileError) as caught:
        spec.parse(HEAD + NODES + "cloud_config: list.yaml\n", file="demo/home.yaml", known=KNOWN)
    assert str(caught.value).splitlines() == [
        "1 problem in demo/list.yaml:",
        "demo/list.yaml:2:1: must be a mapping of cloud-config keys",
        "  correct them, then: piflash check",
    ]


def test_a_time_zone_is_not_judged_where_there_is_no_database() -> None:
    known = spec.Known(KNOWN.schema, KNOWN.images, [], [], read=KNOWN.read, timezones=())
    text = HEAD + NODES + "timezone: Mars/Olympus\n"
    assert spec.parse(text, file="c.yaml", known=known).timezone == "Mars/Olympus"
    assert any("no time zone is called 'Mars/Olympus'" in line for line in problems(text))


# --- good files ---------------------------------------------------------------------------------


def test_defaults_of_a_minimal_file() -> None:
    cluster = parse(HEAD + NODES)
    assert cluster.name == "home"
    assert cluster.image == ImageRef("hypriotos-1.12.3", sha256=None, profile=None)
    assert cluster.domain == "home.home.arpa"
    assert cluster.timezone == "UTC"
    assert cluster.user.name == "pirate"
    assert cluster.user.ssh_authorized_keys == (KEY,)
    assert cluster.user.password_hash is None
    assert cluster.cluster_subnet == "198.18.78.0/24"
    assert cluster.stacks == {}
    assert cluster.seccomp == "allow-all"
    assert cluster.cloud_config is None
    first, second = cluster.nodes
    assert (first.name, first.role, first.seed) == ("pi1", Role.MANAGER, True)
    assert (second.name, second.role, second.seed) == ("pi2", Role.WORKER, False)
    assert (first.cluster_address, second.cluster_address) == ("198.18.78.11", "198.18.78.12")
    assert (first.lan, first.wifi, first.ethernet, first.labels) == (None, None, True, {})


def test_everything_that_can_be_said() -> None:
    cluster = parse(
        f"""
version: 1
name: attic
image: {{url: "https://example.org/my.img.zip", sha256: {"AB" * 32}, profile: raspios}}
domain: attic.lan
timezone: Europe/Berlin
user: {{name: me, password_hash: "{HASH}", ssh_authorized_keys: ["{KEY} \\n"]}}
network:
  cluster_subnet: 198.18.42.0/24
  lan: {{gateway: 192.168.1.1, dns: [1.1.1.1, "2606:4700::1111"]}}
  wifi: {{ssid: Wohnung 3, psk: "correct horse", country: "NO"}}
nodes:
  pi1: {{role: manager, seed: false}}
  pi2: {{role: manager, address: 198.18.42.7, lan: 192.168.1.12/24}}
  pi3: {{role: manager, wifi: true, ethernet: false, labels: {{edge: "true", a.b_c-d: ""}}}}
seed: pi3
stacks: {{traefik: {{email: me@example.org}}, minio: }}
docker: {{seccomp: default}}
"""
    )
    assert cluster.image == ImageRef("https://example.org/my.img.zip", "ab" * 32, "raspios")
    assert (cluster.domain, cluster.timezone) == ("attic.lan", "Europe/Berlin")
    assert cluster.user.ssh_authorized_keys == (KEY,)
    assert cluster.user.password_hash == Secret(HASH)
    pi1, pi2, pi3 = cluster.nodes
    assert [node.cluster_address for node in cluster.nodes] == [
        "198.18.42.11",
        "198.18.42.7",
        "198.18.42.12",
    ]
    assert pi2.lan == LanAddress("192.168.1.12/24", "192.168.1.1", ("1.1.1.1", "2606:4700::1111"))
    assert pi3.wifi == Wifi("Wohnung 3", Secret("correct horse"), "NO")
    assert (pi1.wifi, pi3.ethernet) == (None, False)
    assert pi3.labels == {"edge": "true", "a.b_c-d": ""}
    assert [node.seed for node in cluster.nodes] == [False, False, True]
    assert cluster.stacks == {"traefik": {"email": "me@example.org"}, "minio": {}}
    assert cluster.seccomp == "default"
    assert len(cluster.managers) == 3


def test_the_seed_is_the_first_manager_that_may_be_it() -> None:
    def seed(nodes: str) -> list[str]:
        return [node.name for node in parse(HEAD + "nodes:\n" + nodes).nodes if node.seed]

    three = (
        "  a: {role: worker}\n  b: {role: manager%s}\n  c: {role: manager}\n  d: {role: manager}\n"
    )
    assert seed(three % "") == ["b"]
    assert seed(three % ", seed: true") == ["b"]
    assert seed(three % ", seed: false") == ["c"]
    assert seed(three % ", seed: true" + "seed: b\n") == ["b"]
    assert seed(three % "" + "seed: d\n") == ["d"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("hypriotos-1.12.3", ImageRef("hypriotos-1.12.3")),
        ("./a.img", ImageRef("./a.img", profile="hypriotos")),
        ("my.img.zip", ImageRef("my.img.zip", profile="hypriotos")),
        ("https://example.org/a.zip", ImageRef("https://example.org/a.zip", profile="hypriotos")),
        ("{path: img/a, profile: raspios}", ImageRef("img/a", profile="raspios")),
        (
            "{url: 'http://h/a', sha256: '" + "0" * 64 + "'}",
            ImageRef("http://h/a", sha256="0" * 64, profile="hypriotos"),
        ),
    ],
)
def test_an_image_is_an_id_a_path_or_an_address(image: str, expected: ImageRef) -> None:
    assert parse(HEAD + NODES + f"image: {image}\n").image == expected


@pytest.mark.parametrize(
    "key",
    [
        KEY.rsplit(" ", 1)[0],
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAwEAAQ== old",
        f'from="10.0.0.0/8,::1",command="echo \\"hi there\\"" {KEY}',
        f"no-pty {KEY}",
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAAXgAAAAEc3NoOg== k",
        f"{KEY} and a comment with blanks, ünïcode",
    ],
)
def test_accepts_what_sshd_accepts(key: str) -> None:
    text = f"name: home\nuser: {{ssh_authorized_keys: {json.dumps([key])}}}\n" + NODES
    assert parse(text).user.ssh_authorized_keys == (key,)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("/home/me/key", "looks like a file name"),
        ("key.pub", "looks like a file name"),
        ("~/.ssh/id_rsa", "looks like a file name"),
        ("ssh-rsa AAAAB3NzaC1yc2E= only-the-type", "is damaged or cut off"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAAA empty", "is damaged or cut off"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAAB short", "is damaged or cut off"),
        (f"no-pty,from=home{KEY}", "must be a public key line"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "must be a public key line"),
        ("", "must be a public key line"),
    ],
)
def test_says_what_is_wrong_with_a_key(key: str, words: str) -> None:
    (problem,) = problems(
        f"name: home\nuser: {{ssh_authorized_keys: {json.dumps([key])}}}\n" + NODES
    )
    assert problem.startswith(f"cluster.yaml:2:30: user.ssh_authorized_keys[0]: {words}")


@pytest.mark.parametrize("managers", [1, 3, 5, 7])
def test_an_odd_number_of_managers_up_to_seven_is_allowed(managers: int) -> None:
    nodes = "".join(f"  pi{index}: {{role: manager}}\n" for index in range(managers))
    assert len(parse(HEAD + "nodes:\n" + nodes).managers) == managers


@pytest.mark.parametrize(
    "lan", ["10.255.255.254/8", "192.168.1.1/30", "192.168.1.254/24", "172.16.5.0/16"]
)
def test_any_address_of_a_host_in_a_home_network_is_allowed(lan: str) -> None:
    nodes = f"nodes:\n  pi1: {{role: manager, lan: {lan}}}\n"
    address = parse(HEAD + "network: {lan: {}}\n" + nodes).nodes[0].lan
    assert address is not None
    assert address.address == lan


@pytest.mark.parametrize(
    "subnet", ["198.18.0.0/16", "198.19.255.240/28", "172.16.0.0/16", "172.16.9.0/24"]
)
def test_subnets_that_nothing_else_uses_are_allowed(subnet: str) -> None:
    assert parse(HEAD + f"network: {{cluster_subnet: {subnet}}}\n" + NODES).cluster_subnet == subnet


def test_a_wireless_name_has_up_to_32_bytes() -> None:
    assert parse(HEAD + WIFI.replace("ssid: home", "ssid: " + "ä" * 16) + NODES)


def test_a_wrong_wifi_flag_is_told_once() -> None:
    nodes = "nodes:\n  pi1: {role: manager, ethernet: false, wifi: 'yes'}\n"
    (problem,) = problems(HEAD + WIFI + nodes)
    assert problem.startswith("cluster.yaml:5:47: nodes.pi1.wifi: must be a boolean")


def test_a_list_item_that_is_no_text_is_told_once() -> None:
    (problem,) = problems(f"name: home\nuser: {{ssh_authorized_keys: ['{KEY}', 5]}}\n" + NODES)
    assert "ssh_authorized_keys[1]: must be a string, not an integer" in problem


@pytest.mark.parametrize(
    "text", ["$1$salt$" + "x" * 22, "$5$rounds=5000$s$" + "." * 43, HASH, "$6$a$" + "/" * 86]
)
def test_a_password_hash_alone_lets_somebody_in(text: str) -> None:
    cluster = parse(f"name: home\nuser: {{password_hash: {json.dumps(text)}}}\n" + NODES)
    assert cluster.user.password_hash == Secret(text)
    assert text not in repr(cluster)


def test_static_addresses_ask_the_gateway_for_names_by_default() -> None:
    nodes = "nodes:\n  pi1: {role: manager, lan: 192.168.1.11/24}\n"
    lan = "network: {lan: {gateway: 192.168.1.1%s}}\n"
    assert parse(HEAD + lan % "" + nodes).nodes[0].lan == LanAddress(
        "192.168.1.11/24", "192.168.1.1", ("192.168.1.1",)
    )
    alone = parse(HEAD + lan % ", dns: []" + nodes).nodes[0].lan
    assert alone == LanAddress("192.168.1.11/24", "192.168.1.1", ())
    cut_off = parse(HEAD + "network: {lan: {}}\n" + nodes).nodes[0].lan
    assert cut_off == LanAddress("192.168.1.11/24", None, ())


def test_the_psk_never_shows_in_the_spec() -> None:
    cluster = parse(HEAD + WIFI + "nodes:\n  pi1: {role: manager, wifi: true}\n")
    assert cluster.nodes[0].wifi is not None
    assert cluster.nodes[0].wifi.psk.reveal() == "correct horse"
    assert "correct horse" not in repr(cluster)


def test_extra_cloud_config_keeps_its_places_in_the_cluster_file() -> None:
    cluster = parse(
        HEAD
        + "cloud_config:\n  runcmd:\n    - [ls]\n"
        + "nodes:\n  pi1:\n    role: manager\n    cloud_config: {ntp: {enabled: true}}\n"
    )
    assert cluster.cloud_config is not None
    assert cluster.cloud_config.data == {"runcmd": [["ls"]]}
    assert cluster.cloud_config.locations == {
        (): Location("cluster.yaml", 3, 1),
        ("runcmd",): Location("cluster.yaml", 4, 3),
        ("runcmd", 0): Location("cluster.yaml", 5, 7),
        ("runcmd", 0, 0): Location("cluster.yaml", 5, 8),
    }
    extra = cluster.nodes[0].cloud_config
    assert extra is not None
    assert extra.data == {"ntp": {"enabled": True}}
    assert extra.locations[("ntp", "enabled")] == Location("cluster.yaml", 9, 26)


def test_extra_cloud_config_from_a_file_keeps_its_places_in_that_file() -> None:
    cluster = parse(HEAD + NODES + "cloud_config: good.yaml\n")
    assert cluster.cloud_config is not None
    assert cluster.cloud_config.data == {"write_files": [{"path": "/etc/motd", "content": "hello"}]}
    assert cluster.cloud_config.locations[("write_files", 0, "content")] == Location(
        "good.yaml", 4, 5
    )


def test_anchors_save_repetition() -> None:
    cluster = parse(
        HEAD
        + "nodes:\n  pi1: {role: manager}\n  pi2: &worker {role: worker, labels: {a: b}}\n"
        + "  pi3: *worker\n  pi4: {<<: *worker, labels: {c: d}}\n"
    )
    assert [node.labels for node in cluster.nodes] == [{}, {"a": "b"}, {"a": "b"}, {"c": "d"}]


# --- addresses ----------------------------------------------------------------------------------


def test_the_default_subnet_of_a_name_never_changes() -> None:
    # Cards that are out there hold these.
    assert [str(default_subnet(name)) for name in ("home", "a", "lab-2")] == [
        "198.18.78.0/24",
        "198.18.202.0/24",
        "198.18.79.0/24",
    ]


@st.composite
def _rosters(draw: st.DrawFn) -> list[int | None]:
    """Nodes of a cluster on 198.18.42.0/27: a written last octet each, or none."""
    octets = st.one_of(st.none(), st.integers(1, 30))
    return draw(st.lists(octets, min_size=1, max_size=30))


def _addresses(roster: list[int | None]) -> list[str] | None:
    lines = ["network: {cluster_subnet: 198.18.42.0/27}", "nodes:"]
    for index, octet in enumerate(roster):
        address = "" if octet is None else f", address: 198.18.42.{octet}"
        lines.append(f"  n{index}: {{role: {'worker' if index else 'manager'}{address}}}")
    try:
        return [node.cluster_address for node in parse(HEAD + "\n".join(lines)).nodes]
    except ClusterFileError:
        return None


@settings(max_examples=25, deadline=None)
@given(_rosters())
@example([None] * 30)
@example([None, 11])
@example([12, None, None])
def test_an_appended_node_never_changes_the_addresses_before_it(roster: list[int | None]) -> None:
    addresses = _addresses(roster)
    before = _addresses(roster[:-1]) if len(roster) > 1 else []
    if addresses is None:
        return
    assert before == addresses[:-1]
    assert len(set(addresses)) == len(roster)
    hosts = set(ipaddress.IPv4Network("198.18.42.0/27").hosts())
    assert {ipaddress.IPv4Address(address) for address in addresses} <= hosts
    for octet, address in zip(roster, addresses, strict=True):
        assert octet is None or address == f"198.18.42.{octet}"


def test_a_subnet_is_filled_to_its_last_address() -> None:
    addresses = _addresses([None] * 30)
    assert addresses is not None
    assert addresses[0] == "198.18.42.11"
    assert addresses[19:21] == ["198.18.42.30", "198.18.42.1"]
    assert _addresses([None] * 31) is None


# --- the example and the reference --------------------------------------------------------------


def _example() -> str:
    text = (DATA / "cluster.example.yaml").read_text("utf-8")
    assert all(text.count(f"@{name}@") == 1 for name in ("NAME", "SSH_KEY", "SCHEMA"))
    return text.replace("@NAME@", "home").replace("@SSH_KEY@", KEY)


def test_the_example_is_one_manager_and_three_workers() -> None:
    cluster = parse(_example())
    assert [node.role.value for node in cluster.nodes] == ["manager"] + ["worker"] * 3


def test_the_example_without_a_key_is_refused_for_just_that() -> None:
    text = _example().replace(KEY, "@SSH_KEY@")
    (problem,) = problems(text)
    assert "ssh_authorized_keys[0]: is still a placeholder" in problem


def _keys(node: object) -> set[str]:
    """Give every key that the schema knows."""
    if isinstance(node, list):
        return {key for below in node for key in _keys(below)}
    if not isinstance(node, dict):
        return set()
    own = set(node["properties"]) if isinstance(node.get("properties"), dict) else set()
    return own | {key for below in node.values() for key in _keys(below)}


def test_every_option_of_the_example_is_valid_once_its_mark_is_removed() -> None:
    text = re.sub(r"^( *)#( *[a-z_]+:)", r"\1\2", _example(), flags=re.MULTILINE)
    text = text.replace("image: hypriotos-1.12.3 ", "#")
    text = text.replace("64 hexadecimal digits", "0" * 64).replace("$6$salt$hash", HASH)
    text = text.replace("pi4.yaml", "good.yaml")
    cluster = parse(text)
    assert cluster.cloud_config is not None
    assert cluster.nodes[2].wifi is not None
    assert cluster.nodes[3].cloud_config is not None
    used = {part for line in text.splitlines() for part in re.findall(r"([a-z_0-9]+):", line)}
    assert _keys(KNOWN.schema) - used == {"path"}


def test_the_reference_explains_every_key() -> None:
    reference = Path(__file__).parents[2] / "docs" / "cluster-file.md"
    text = reference.read_text("utf-8")
    missing = {
        key for key in _keys(KNOWN.schema) if not re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", text)
    }
    assert missing == set()


@pytest.mark.parametrize("name", ["cluster-file.md", "cloud-config.md"])
def test_the_references_examples_are_valid(name: str) -> None:
    reference = Path(__file__).parents[2] / "docs" / name
    blocks = re.findall(r"```yaml\n(.*?)```", reference.read_text("utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        parse(block.replace("AAAAC3Nza...", KEY.split()[1]))


# --- anything at all ----------------------------------------------------------------------------

_TEMPTING = (
    KEY,
    *("pi1", "pi2", "manager", "a.img", "http://", "../x", "absent.yaml", "list.yaml", "good.yaml"),
    *("198.18.42.0/24", "10.0.0.1/33", "1.2.3.4", "::1/64", "198.18.42.11", "192.168.1.1"),
    *("0.0.0.0/0", "255.255.255.255/30", "\x00", "/", "Europe/Berlin", "@SSH_KEY@", "$6$"),
)
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.dates(),
        st.binary(max_size=3),
        st.text(max_size=6),
        st.sampled_from(_TEMPTING),
    ),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=4), below, max_size=3)
    ),
    max_leaves=5,
)
_FULL: dict[str, Any] = {
    "version": 1,
    "name": "home",
    "image": {"url": "https://h/a.zip", "sha256": "0" * 64, "profile": "hypriotos"},
    "domain": "home.lan",
    "timezone": "UTC",
    "user": {"name": "me", "ssh_authorized_keys": [KEY], "password_hash": HASH},
    "network": {
        "cluster_subnet": "198.18.42.0/24",
        "lan": {"gateway": "192.168.1.1", "dns": ["192.168.1.1"]},
        "wifi": {"ssid": "home", "psk": "correct horse", "country": "DE"},
    },
    "nodes": {
        "pi1": {"role": "manager", "seed": True, "address": "198.18.42.11"},
        "pi2": {"role": "worker", "lan": "192.168.1.12/24", "wifi": True, "ethernet": False},
        "pi3": {"role": "worker", "labels": {"edge": "true"}, "cloud_config": {"locale": "C"}},
    },
    "seed": "pi1",
    "stacks": {"traefik": {}},
    "docker": {"seccomp": "default"},
    "cloud_config": "good.yaml",
}


def _paths(node: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below: list[tuple[Any, ...]] = []
    if isinstance(node, dict):
        below = [p for key, value in node.items() for p in _paths(value, (*path, key))]
    return [path, *below]


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """Give a full cluster file with one to three places replaced, removed or added to."""
    data: dict[str, Any] = json.loads(json.dumps(_FULL))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(data)[1:]))
        node: Any = data
        for step in path[:-1]:
            node = node[step]
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "remove":
            del node[path[-1]]
        elif what == "add":
            node[draw(st.text(max_size=5))] = draw(_VALUES)
        else:
            node[path[-1]] = draw(_VALUES)
        if not data:
            break
    return yaml.safe_dump(data, sort_keys=False)


def test_the_full_file_is_valid_before_it_is_damaged() -> None:
    assert parse(yaml.safe_dump(_FULL)).nodes[1].wifi is not None


@settings(max_examples=70, deadline=None)
@given(
    st.one_of(
        _damaged(),
        st.text(max_size=80),
        st.text(alphabet="abn:- \n{}[],&*!'\"|>#?%@0.\t", max_size=60),
        _VALUES.map(yaml.safe_dump),
    )
)
@example("nodes: {pi1: [], pi2: {role: []}}\nseed: {}\n")
@example("{user: [], network: 5, nodes: 7, image: [], stacks: x}")
@example("name: 0x" + "f" * 5000)
@example("name: home\nnodes: {pi1: &a {role: manager, cloud_config: {x: [1, {y: *b}]}}}\n")
def test_any_text_gives_a_spec_or_problems_with_places(text: str) -> None:
    found: tuple[object, ...] = ()
    cluster: ClusterSpec | None = None
    try:
        cluster = parse(text)
    except ClusterFileError as error:
        found = error.problems
        assert str(error).count("\n") == len(found) + 1  # noqa: PT017
    assert (cluster is None) == bool(found)
    for problem in found:
        assert isinstance(problem, Problem)
        assert problem.location.line >= 1
        assert problem.location.column >= 1
        assert problem.message
    if cluster is not None:
        assert sum(node.seed for node in cluster.nodes) == 1
        assert len(cluster.managers) % 2 == 1
        assert len({node.cluster_address for node in cluster.nodes}) == len(cluster.nodes)
        assert cluster.user.ssh_authorized_keys or cluster.user.password_hash


_MARK = "Zq7vXw"
_ODD = st.text(alphabet="abn019*&!%@:#- '\"{}[]|>~?,$\\.\t\n", max_size=12)


@settings(max_examples=60, deadline=None)
@given(_ODD, _ODD, st.sampled_from(["psk: ", "password_hash: ", "ssh_authorized_keys:\n     - "]))
@example("2020-99-99", "", "psk: ")
@example("", ": hunter", "psk: ")
@example("*", "", "psk: ")
@example("&", "", "psk: ")
@example("!", "", "psk: ")
@example("", "", "password_hash: ")
@example("ssh-rsa ", "", "ssh_authorized_keys:\n     - ")
@example("-----BEGIN RSA PRIVATE KEY-----", "", "ssh_authorized_keys:\n     - ")
def test_no_problem_repeats_a_secret(before: str, after: str, key: str) -> None:
    section = "network:\n  wifi:" if key == "psk: " else "user:"
    text = f"name: home\n{section}\n    {key}{before}{_MARK}{after}\nnodes: {{}}\n"
    told = [line for line in problems(text) if _MARK in line]
    # A secret that YAML takes for a key of its own is no secret any more.
    assert [
        line for line in told if "unknown key" not in line and "duplicate key" not in line
    ] == []


# Every kind of rule that cloud-init's official schema has.
_TYPES: dict[str, Any] = {
    "properties": {
        "users": {"items": {"oneOf": [{"type": "array"}, {"$ref": "#/$defs/user"}]}},
        "chpasswd": {"type": "object", "properties": {"list": {"pattern": "^.+:.+$"}}},
        "ntp": {"properties": {"enabled": {"type": "boolean"}, "servers": {"type": "array"}}},
        "runcmd": {"type": "array", "items": {"anyOf": [{"type": "array"}, {"type": "null"}]}},
        "write_files": {"type": "array", "items": {"type": "object"}},
        "swap": {"properties": {"size": {"oneOf": [{"type": "integer"}, {"pattern": "^[0-9]G"}]}}},
        "output": {"enum": ["all", "none"]},
        "locale": {"type": "boolean"},
    },
    "$defs": {"user": {"type": "object", "properties": {"shell": {"const": "/bin/sh"}}}},
}
_SECRETIVE: dict[str, Any] = _FULL | {
    "cloud_config": {
        "users": [{"name": "guest", "shell": "/bin/sh", "passwd": HASH, "lock_passwd": False}],
        "chpasswd": {"list": "a:b", "expire": False},
        "ntp": {"enabled": True, "servers": ["a"]},
        "runcmd": [["ls"], None],
        "write_files": [
            {
                "path": "/a",
                "content": "b",
                "owner": "root",
                "encoding": "b64",
                "permissions": "0600",
            }
        ],
        "swap": {"size": 5},
        "output": "all",
        "locale": True,
        "hostname": "pi1",
        "manage_etc_hosts": True,
    }
}


def _values_of(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = enumerate(node) if isinstance(node, list) else ()
    items = node.items() if isinstance(node, dict) else items
    return [path, *(below for step, value in items for below in _values_of(value, (*path, step)))]


_PRIVATE = [
    path
    for path in _values_of(_SECRETIVE)
    if path[:1] in (("user",), ("stacks",), ("cloud_config",))
    or path[:2] == ("network", "wifi")
    or (path[3:] and path[2] == "cloud_config")
]
_AROUND = ("", " ", "/", "/var/lib/piflash/", "$6$", "systemd-", "ssh-rsa ", "~/", ": ", "\n")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(_PRIVATE), min_size=1, max_size=3),
    st.sampled_from(_AROUND),
    st.sampled_from(["", " ", ".pub", "\n"]),
    st.sampled_from([lambda x: x, lambda x: [x], lambda x: {"path": x}, lambda x: [{"name": x}]]),
)
def test_no_problem_repeats_a_text_of_a_private_section(
    paths: list[tuple[Any, ...]], before: str, after: str, wrap: Callable[[str], object]
) -> None:
    data: dict[str, Any] = json.loads(json.dumps(_SECRETIVE))
    for path in sorted(paths, key=len, reverse=True):
        node: Any = data
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = wrap(f"{before}{_MARK}{after}")

    def judge(extra: ExtraConfig, target: spec.Target) -> tuple[Problem, ...]:
        return cloudconfig.judge(extra, target, profile=PROFILE, schemas=Schemas(_TYPES))

    text = yaml.safe_dump(data, sort_keys=False)
    try:
        spec.parse(text, file="c.yaml", known=replace(KNOWN, judge=judge))
    except ClusterFileError as error:
        assert _MARK not in str(error)  # noqa: PT017
