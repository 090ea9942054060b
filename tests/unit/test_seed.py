"""The seed as a whole: which files, for whom, the same bytes each time, nothing secret shown."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import yaml

from firstboot import nodeconfig
from flasher import seed
from flasher.cloudconfig import Schemas
from flasher.errors import ClusterFileError, ImageError, SeedError
from flasher.model import PermitKind, Problem, Role, Secret, User
from tests.support import specs
from tests.support.baseimage import BOOT_FILES
from tests.support.specs import PROFILE, SHAPES, TEMPLATES, WIFI

COMMON = {
    "user-data",
    "meta-data",
    "network-config",
    "fake-hwclock.data",
    "cmdline.txt",
    "piflash/firstboot.pyz",
    "piflash/node.json",
    "piflash/user-data.kept",
    "piflash/identity/ca.pem",
    "piflash/identity/node.pem",
    "piflash/identity/node.key",
}
STACKED = specs.cluster(stacks={"hello": {"greeting": "hi"}})

each_shape = pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)


def test_seed_of_the_seed_has_a_permit_and_that_of_a_worker_has_not() -> None:
    spec = specs.cluster()
    assert set(specs.names(specs.build(spec))) == COMMON | {
        "piflash/identity/permit.json",
        "piflash/identity/charter.json",
    }
    assert set(specs.names(specs.build(spec, 1))) == COMMON


@each_shape
def test_same_input_gives_the_same_bytes(spec: Any) -> None:
    assert specs.build(spec).files == specs.build(spec).files


@each_shape
def test_every_generated_text_has_unix_line_ends(spec: Any) -> None:
    for path, file in specs.build(spec).files.items():
        if path != "piflash/firstboot.pyz":
            assert b"\r" not in file.content
            assert file.content.endswith(b"}" if path.endswith("permit.json") else b"\n")


def test_instance_id_is_new_for_each_flash_and_for_changed_content() -> None:
    spec = specs.cluster()
    first = specs.build(spec)
    assert first.instance_id.startswith("home-pi1-g1-")
    others = (
        specs.build(spec, of=specs.ticket(spec, generation=2)),
        specs.build(spec, of=specs.ticket(spec, flashed_at=specs.FLASHED_AT + 1)),
        specs.build(spec, firstboot=b"PK other"),
        specs.build(specs.cluster(timezone="UTC")),
    )
    ids = {built.instance_id for built in (first, *others)}
    assert len(ids) == 5
    for built in (first, *others):
        meta = yaml.safe_load(built.files["meta-data"].content)
        assert meta["instance-id"] == built.instance_id


def test_clock_file_is_the_flash_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        built = specs.build(specs.cluster())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert specs.text(built, "fake-hwclock.data") == "2025-06-15 15:06:40\n"


def test_command_line_is_touched_only_if_words_are_missing() -> None:
    spec = specs.cluster()
    whole = {"cmdline.txt": specs.build(spec).files["cmdline.txt"].content}
    assert "cmdline.txt" not in specs.build(spec, boot=whole).files
    short = {"cmdline.txt": b"quiet init=/usr/lib/raspi-config/init_resize.sh\n"}
    line = specs.text(specs.build(spec, boot=short), "cmdline.txt")
    assert line.count("\n") == 1
    assert line.startswith("quiet init=/usr/lib/raspi-config/init_resize.sh ")


def test_image_without_command_line_is_refused() -> None:
    with pytest.raises(ImageError, match=r"cmdline\.txt"):
        specs.build(specs.cluster(), boot={})


def test_no_file_of_the_image_is_replaced_but_those_meant() -> None:
    touched = set(specs.names(specs.build(STACKED))) & set(BOOT_FILES)
    seed = {"user-data", "meta-data", "network-config"}
    assert touched == {*seed, "cmdline.txt", "fake-hwclock.data"}


# --- node.json ----------------------------------------------------------------------------------


@each_shape
def test_node_json_tells_the_node_what_it_is(spec: Any) -> None:
    node = spec.nodes[0]
    config = nodeconfig.parse(specs.text(specs.build(spec), "piflash/node.json"))
    assert (config.name, config.role) == (node.name, node.role.value)
    assert config.interface == ("eth0" if node.ethernet else "wlan0")
    assert (config.address, config.subnet) == (node.cluster_address, spec.cluster_subnet)
    assert [peer.name for peer in config.roster] == [peer.name for peer in spec.nodes]
    assert config.me.labels == node.labels
    assert config.flashed_at == specs.FLASHED_AT


def test_node_json_has_generation_and_epoch_of_the_ticket() -> None:
    spec = specs.cluster()
    of = specs.ticket(spec, generation=7, epoch=3, permit=PermitKind.REBUILD)
    config = nodeconfig.parse(specs.text(specs.build(spec, of=of), "piflash/node.json"))
    assert (config.generation, config.epoch) == (7, 3)
    assert config.permit_key == specs.identity(of).permit_modulus


# --- stacks -------------------------------------------------------------------------------------


def test_stacks_are_on_managers_only_and_named_by_content() -> None:
    manager, worker = specs.build(STACKED), specs.build(STACKED, 1)
    assert specs.text(manager, "piflash/stacks/hello/stack.yml") == (
        'version: "3.8"\n# home.lan hi\n'
    )
    assert specs.text(manager, "piflash/stacks/hello/conf/a.txt") == "{{ as it is }}\n"
    assert not [path for path in worker.files if "stacks" in path]
    (ref,) = nodeconfig.parse(specs.text(manager, "piflash/node.json")).stacks
    prefix = "piflash/stacks/hello/"
    files = {
        path.removeprefix(prefix): file.content
        for path, file in manager.files.items()
        if path.startswith(prefix)
    }
    assert (ref.name, ref.sha256) == ("hello", seed.stack_digest(files))
    assert nodeconfig.parse(specs.text(worker, "piflash/node.json")).stacks == ()


def test_stack_digest_is_that_of_sha256sums_lines() -> None:
    # printf a > a; printf b > d/b; sha256sum a d/b | sha256sum
    assert seed.stack_digest({"d/b": b"b", "a": b"a"}) == (
        "053e00cfa1af87685d41df2e5307a675439197f4e15ea286da5b9d63c658caf0"
    )


def test_setting_that_a_stack_misses_is_named() -> None:
    with pytest.raises(SeedError, match="greeting"):
        specs.build(specs.cluster(stacks={"hello": {}}))


def test_stack_that_does_not_exist_is_named() -> None:
    with pytest.raises(SeedError, match="nope"):
        specs.build(specs.cluster(stacks={"nope": {}}))


def test_stacks_that_ship_are_rendered() -> None:
    root = specs.resources.data_dir("stacks")
    shipped = {
        path.name: {file.name: file.read_bytes() for file in path.glob("*.j2")}
        for path in root.iterdir()
        if path.is_dir()
    }
    built = specs.build(specs.cluster(stacks={name: {} for name in shipped}), stacks=shipped)
    for name in shipped:
        stack = yaml.safe_load(built.files[f"piflash/stacks/{name}/stack.yml"].content)
        assert stack["version"] == "3.8"
        for service in stack["services"].values():
            assert ":" in service["image"]
            assert service["deploy"]["resources"]["limits"]["memory"]
            if any(port.get("mode") == "host" for port in service.get("ports", [])):
                assert service["deploy"]["update_config"]["order"] == "stop-first"


# --- permits ------------------------------------------------------------------------------------


def test_no_permit_is_put_on_a_card_that_is_not_the_seeds() -> None:
    spec = specs.cluster()
    stolen = specs.ticket(spec, 1, permit=PermitKind.GENESIS)
    with pytest.raises(SeedError, match="not the seed"):
        specs.build(spec, 1, of=stolen)
    odd = specs.cluster(replace(spec.nodes[0], role=Role.WORKER))
    with pytest.raises(SeedError, match="not the seed"):
        specs.build(odd)


def test_ticket_and_identity_must_agree() -> None:
    spec = specs.cluster()
    of = specs.ticket(spec)
    with pytest.raises(SeedError, match="disagree"):
        specs.build(spec, who=specs.identity(of, permit_json=None))
    with pytest.raises(SeedError, match="is for pi2"):
        specs.build(spec, of=specs.ticket(spec, 1))


# --- the user's part ----------------------------------------------------------------------------


def test_all_problems_of_the_users_config_are_told_at_once() -> None:
    spec = specs.cluster(
        specs.node(cloud_config=specs.extra("apt: {}\n", file="node.yaml")),
        cloud_config=specs.extra("\nhostname: x\nansible: {}\n", file="all.yaml"),
    )
    with pytest.raises(ClusterFileError) as caught:
        specs.build(spec)
    places = [str(p.location) for p in caught.value.problems if isinstance(p, Problem)]
    assert sorted(places) == ["all.yaml:2:1", "all.yaml:3:1", "node.yaml:1:1"]
    assert caught.value.exit_code == 3
    found = seed.problems(
        spec, spec.nodes[0], profile=PROFILE, templates=TEMPLATES, schemas=Schemas()
    )
    assert set(found) == set(caught.value.problems)


def test_users_part_is_in_user_data() -> None:
    data = yaml.safe_load(specs.build(SHAPES["extra"]).files["user-data"].content)
    assert data["timezone"] == "UTC"
    assert [user["name"] for user in data["users"]] == ["pirate", "guest"]
    assert data["write_files"][-1]["content"] == "Caf\u00e9 \U0001f600\n"


def test_the_nodes_own_part_comes_after_the_clusters() -> None:
    spec = specs.cluster(
        specs.node(cloud_config=specs.extra("locale: C\nruncmd: [two]\n")),
        cloud_config=specs.extra("locale: C.UTF-8\nruncmd: [one]\n"),
    )
    data = yaml.safe_load(specs.build(spec).files["user-data"].content)
    assert data["locale"] == "C"
    assert data["runcmd"][-2:] == ["one", "two"]


def test_rendered_network_config_is_checked() -> None:
    strict = Schemas(network={"properties": {"network": {"maxProperties": 0}}})
    with pytest.raises(SeedError, match="network-config"):
        specs.build(specs.cluster(), schemas=strict)


def test_seed_that_may_not_fit_is_refused() -> None:
    with pytest.raises(SeedError, match="more than"):
        specs.build(specs.cluster(), firstboot=bytes(seed.MAX_BYTES))


# --- secrets ------------------------------------------------------------------------------------

PASSWORD = Secret("$6$salt$hashhash")
SECRETIVE = specs.cluster(
    specs.node(
        wifi=WIFI,
        cloud_config=specs.extra(
            "users:\n- name: g\n  plain_text_passwd: hidden-one\n"
            "write_files:\n- path: /etc/token\n  permissions: '0640'\n  content: hidden-two\n"
            "- path: /etc/open\n  content: shown-one\n"
            "chpasswd: {list: ['g:hidden-three']}\n"
        ),
    ),
    user=User("ops", ("ssh-ed25519 AAAA",), PASSWORD),
)
HIDDEN = (b"hidden-", PASSWORD.reveal().encode(), b"KEY pi1", b'"payload"')


def test_what_is_secret_is_marked() -> None:
    built = specs.build(SECRETIVE)
    secret = {path for path, file in built.files.items() if file.secret}
    identity = "piflash/identity/"
    assert secret == {"user-data", identity + "node.key", identity + "permit.json"}
    plain = specs.build(specs.cluster(), 1)
    assert {path for path, file in plain.files.items() if file.secret} == {identity + "node.key"}


def test_masked_files_show_no_secret_and_keep_the_rest() -> None:
    built = specs.build(SECRETIVE)
    shown = seed.masked(built)
    whole = b"\n".join(built.files[path].content for path in built.files)
    masked = b"\n".join(shown.values())
    for text in HIDDEN:
        assert text in whole
        assert text not in masked
    assert b"shown-one" in masked
    assert b"    psk=***\n" in masked
    assert b"ssid=" in masked
    assert set(shown) == set(built.files)
    assert shown["piflash/node.json"] == built.files["piflash/node.json"].content
    assert yaml.safe_load(shown["user-data"])["hostname"] == "pi1"


def test_wifi_passphrase_is_nowhere_on_the_card() -> None:
    for file in specs.build(SECRETIVE).files.values():
        assert WIFI.psk.reveal().encode() not in file.content


def test_secrets_are_not_in_the_repr() -> None:
    text = repr(specs.build(SECRETIVE))
    assert not [word for word in HIDDEN if word.decode() in text]
