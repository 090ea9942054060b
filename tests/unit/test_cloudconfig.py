"""Merging the user's cloud-config into ours, and what is told of it (cases/cloudconfig)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import cloudconfig, render
from flasher.cloudconfig import Merged, Schemas
from flasher.errors import SeedError
from flasher.model import ExtraConfig, Location, Problem
from flasher.spec import Target
from tests.support import specs
from tests.support.cloudcases import Case, cases
from tests.support.specs import FLASHED_AT, PROFILE, TEMPLATES, extra

SPEC = specs.cluster()
OURS = render.cloud_config(
    SPEC, SPEC.nodes[0], profile=PROFILE, templates=TEMPLATES, flashed_at=FLASHED_AT
)


def merge(*texts: str, ours: Mapping[str, object] = OURS) -> Merged:
    extras = [extra(text, file=f"{number}.yaml") for number, text in enumerate(texts)]
    return cloudconfig.merge(ours, extras, profile=PROFILE)


def problems(*texts: str, schema: Mapping[str, Any] | None = None) -> tuple[Problem, ...]:
    found = cloudconfig.check(merge(*texts), profile=PROFILE, schemas=Schemas(schema))
    return cloudconfig.ordered(found)


OWN_RULES = [case for case in cases("*.yaml") if not case.name.startswith("schema-")]


@pytest.mark.parametrize("case", OWN_RULES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    case.compare(problems(case.text))


def test_the_image_is_told_in_its_own_words() -> None:
    merged = merge("ntp: {servers: [a]}\nusers: [{name: a, uid: 2001}, {name: b, uid: '7'}]\n")
    said = cloudconfig.for_image(merged.data, PROFILE.cloud_init)
    assert said["ntp"] == {"ntp_client": "ntp", "servers": ["a"]}
    assert [user.get("uid") for user in said["users"]] == [None, "2001", "7"]
    assert "ntp" not in cloudconfig.for_image(OURS, PROFILE.cloud_init)


# --- one by itself ------------------------------------------------------------------------------

TARGET = Target(image=SPEC.image, node="pi1", user="pirate")


def judged(text: str, *, target: Target = TARGET, **schema: Any) -> list[str]:
    found = cloudconfig.judge(
        extra(text), target, profile=PROFILE, schemas=Schemas(schema.get("schema"))
    )
    return [str(problem) for problem in cloudconfig.ordered(found)]


@pytest.mark.parametrize("case", OWN_RULES, ids=lambda case: case.name)
def test_judged_by_itself_a_config_has_the_problems_that_it_has_merged(case: Case) -> None:
    found = cloudconfig.judge(extra(case.text), TARGET, profile=PROFILE, schemas=Schemas())
    case.compare(cloudconfig.ordered(found))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hostname: pi1\nmanage_etc_hosts: true\npackage_upgrade: false\n", 0),
        ("hostname: pi2\nmanage_etc_hosts: false\n", 2),
        ("users: [{name: pirate}]\n", 1),
        ("runcmd: []\nusers: []\n", 0),
    ],
)
def test_judged_by_itself_it_may_say_what_its_node_has_anyway(text: str, count: int) -> None:
    assert len(judged(text)) == count


def test_a_config_for_several_nodes_can_name_none_of_them() -> None:
    several = Target(image=SPEC.image, node=None, user=None)
    (told,) = judged("hostname: pi1\nusers: [{name: pirate}]\n", target=several)
    assert "refuses 'hostname'" in told


def test_lists_that_nobody_wrote_are_not_judged() -> None:
    some = {"type": "array", "minItems": 1}
    schema = {"properties": dict.fromkeys(["runcmd", "bootcmd", "users", "write_files"], some)}
    target = Target(image=SPEC.image, node=None, user=None)
    assert judged("locale: C\n", target=target, schema=schema) == []
    (told,) = judged("runcmd: [a, b]\n", schema={"properties": {"runcmd": {"maxItems": 1}}})
    assert told.startswith("extra.yaml:1:10: runcmd[0]: must have at most 1 item")


def test_no_text_is_repeated_with_the_official_schema_either() -> None:
    kinds = {"write_files": {"items": {"type": "object"}}, "final_message": {"enum": ["C"]}}
    told = judged("write_files: [hunter2]\nfinal_message: hunter2\n", schema={"properties": kinds})
    assert told == [
        "extra.yaml:1:15: write_files[0]: must be a mapping, not a string",
        "extra.yaml:2:1: final_message: must be C, not the value",
    ]


def test_an_inline_config_is_told_by_its_path_in_the_cluster_file() -> None:
    inline = replace(extra("runcmd: x\nlocal: y\n"), path=("nodes", "pi1", "cloud_config"))
    merged = cloudconfig.merge(OURS, [inline], profile=PROFILE)
    found = cloudconfig.check(merged, profile=PROFILE, schemas=Schemas())
    assert [problem.path for problem in found] == [
        "nodes.pi1.cloud_config.runcmd",
        "nodes.pi1.cloud_config.local",
    ]


def test_no_secret_is_repeated_in_a_message() -> None:
    text = "users:\n  - name: a\n    passwords: hunter2\n    plain_text_passwd: [hunter2]\n"
    (found,) = problems(text)
    assert "hunter2" not in str(found)


# --- merging ------------------------------------------------------------------------------------


def test_lists_are_appended_cluster_first_and_node_last() -> None:
    merged = merge("runcmd: [a]\n", "runcmd: [b, c]\n")
    assert merged.data["runcmd"] == [*OURS["runcmd"], "a", "b", "c"]
    assert merged.problems == ()


def test_mappings_are_merged_and_the_later_scalar_wins() -> None:
    merged = merge(
        "ntp: {enabled: true, servers: [a]}\nlocale: x\n", "ntp: {enabled: false, servers: [b]}\n"
    )
    assert merged.data["ntp"] == {"enabled": False, "servers": ["a", "b"]}
    assert merged.data["locale"] == "x"


def test_user_may_change_our_scalars() -> None:
    assert merge("timezone: UTC\nssh_pwauth: true\n").data["timezone"] == "UTC"


def test_value_equal_to_ours_is_no_problem() -> None:
    assert problems("hostname: pi1\nmanage_etc_hosts: true\n") == ()
    assert len(problems("hostname: pi2\nmanage_etc_hosts: false\n")) == 2


def test_merging_changes_nothing_that_it_was_given() -> None:
    before = copy.deepcopy(OURS)
    one = extra("ntp: {servers: [a]}\nrsyslog: {configs: [a]}\nruncmd: [x]\n")
    two = extra("ntp: {servers: [b]}\nrsyslog: {configs: [b]}\nruncmd: [y]\n")
    kept = copy.deepcopy((one.data, two.data))
    first = cloudconfig.merge(OURS, [one, two], profile=PROFILE)
    assert cloudconfig.merge(OURS, [one, two], profile=PROFILE) == first
    assert (OURS, (one.data, two.data)) == (before, kept)


def test_nothing_to_merge_leaves_ours() -> None:
    merged = merge()
    assert (merged.data, merged.origins, merged.problems) == (OURS, {}, ())


def test_appended_items_know_where_they_come_from() -> None:
    merged = merge("runcmd:\n  - a\n", "runcmd:\n  - b\n  - [c, d]\n")
    count = len(OURS["runcmd"])
    places = {
        index: (merged.origins[("runcmd", index)].location, merged.origins[("runcmd", index)].path)
        for index in range(count, count + 3)
    }
    assert places == {
        count: (Location("0.yaml", 2, 5), ("runcmd", 0)),
        count + 1: (Location("1.yaml", 2, 5), ("runcmd", 0)),
        count + 2: (Location("1.yaml", 3, 5), ("runcmd", 1)),
    }
    assert merged.origins[("runcmd", count + 2, 1)].location == Location("1.yaml", 3, 9)
    assert ("runcmd", 0) not in merged.origins


def test_place_of_the_parent_is_told_where_a_path_has_none() -> None:
    place = Location("cluster.yaml", 9, 3)
    config = ExtraConfig({"users": [{"name": "pirate"}]}, {("users",): place})
    (found,) = cloudconfig.merge(OURS, [config], profile=PROFILE).problems
    assert found.location == place


keys = st.sampled_from(["runcmd", "bootcmd", "locale", "ntp", "rsyslog", "groups", "swap"])
values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> dict[Any, Location]:
    found = {path: Location("f", 1 + len(path), 1)}
    items = enumerate(value) if isinstance(value, list) else ()
    for step, item in value.items() if isinstance(value, dict) else items:
        found |= places(item, (*path, step))
    return found


@given(first=st.dictionaries(keys, values), second=st.dictionaries(keys, values))
@settings(max_examples=25, deadline=None)
def test_every_part_is_ours_or_has_the_origin_that_it_came_from(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    extras = [ExtraConfig(data, places(data)) for data in (first, second)]
    merged = cloudconfig.merge(OURS, extras, profile=PROFILE)
    for key, ours in OURS.items():
        if isinstance(ours, list):
            assert merged.data[key][: len(ours)] == ours
        else:
            assert merged.data[key] == ours
    for path, origin in merged.origins.items():
        value: Any = merged.data
        for step in path:
            value = value[step]
        theirs: list[Any] = []
        for data in (first, second):
            part: Any = data
            try:
                for step in origin.path:
                    part = part[step]
            except (KeyError, IndexError, TypeError):
                continue
            theirs.append(part)
        assert any(value == part or isinstance(value, (dict, list)) for part in theirs), (
            path,
            origin,
        )


# --- the official schema's part -----------------------------------------------------------------

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **{key: {} for key in OURS},
        "timezone": {"type": "string"},
        "locale": {"type": "string"},
        "runcmd": {"type": "array", "uniqueItems": True},
        "users": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {key: {} for key in [*OURS["users"][0], "lock-passwd"]},
            },
        },
    },
}


def test_schema_violation_stands_at_the_users_place() -> None:
    (found,) = problems("locale: x\n", "\nlocale: [x]\n", schema=SCHEMA)
    assert (str(found.location), found.path) == ("1.yaml:2:1", "locale")


def test_our_words_take_the_place_of_the_schemas() -> None:
    found = problems("users:\n- name: a\n  ssh_pwauth: true\nansible: {}\n", schema=SCHEMA)
    assert [problem.path for problem in found] == ["users[0].ssh_pwauth", "ansible"]
    assert "belongs at the top level" in found[0].message


def test_what_is_wrong_with_a_whole_list_is_told_at_what_the_user_added() -> None:
    (found,) = problems("runcmd: [a, a]\n", schema=SCHEMA)
    assert (found.path, str(found.location)) == ("runcmd[0]", "0.yaml:1:10")


def test_violation_in_our_own_part_is_a_bug_of_ours() -> None:
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "timezone": {"type": "integer"}}}
    with pytest.raises(SeedError, match="timezone") as caught:
        problems("locale: x\n", schema=schema)
    assert "bug of piflash" in caught.value.hint
    (found,) = problems("timezone: x\n", schema=schema)
    assert found.path == "timezone"


def test_network_config_is_all_ours() -> None:
    schema = {"properties": {"network": {"properties": {"version": {"const": 1}}}}}
    cloudconfig.check_network({"version": 1}, schemas=Schemas(network=schema))
    cloudconfig.check_network({"version": 2}, schemas=Schemas())
    with pytest.raises(SeedError, match="network-config"):
        cloudconfig.check_network({"version": 2}, schemas=Schemas(network=schema))
