"""JSON-schema violations in our words."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import resources, schema
from flasher.schema import Violation

CLUSTER = json.loads((resources.data_dir("cloud-init") / "cluster.schema.json").read_text("utf-8"))

# The shapes of cloud-init's official schema on which jsonschema's best_match goes wrong.
USERS: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "$defs": {
        "user": {
            "type": "object",
            "anyOf": [{"required": ["name"]}, {"required": ["snapuser"]}],
            "properties": {
                "name": {"type": "string"},
                "snapuser": {"type": "string"},
                "lock_passwd": {"type": "boolean"},
                "passwd": {"type": "string"},
                "sudo": {"oneOf": [{"type": "string"}, {"type": "null"}, {"enum": [False]}]},
                "groups": {
                    "oneOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}},
                    ]
                },
            },
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {
        "users": {
            "type": "array",
            "items": {
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}},
                    {"$ref": "#/$defs/user"},
                ]
            },
        },
        "runcmd": {
            "type": "array",
            "items": {
                "oneOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "string"},
                    {"type": "null"},
                ]
            },
        },
        "delay": {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\+?[0-9]+$"},
                {"enum": ["now"]},
            ]
        },
        "code": {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]+$"},
                {"type": "string", "pattern": "^[A-Z]+$"},
            ]
        },
        "network": {
            "anyOf": [
                {
                    "type": "object",
                    "required": ["type"],
                    "properties": {
                        "type": {"enum": ["nameserver"]},
                        "address": {"type": "string"},
                    },
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "required": ["type", "name"],
                    "properties": {
                        "type": {"enum": ["physical"]},
                        "name": {"type": "string"},
                        "mtu": {"type": "integer"},
                    },
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": ["loopback"]}},
                    "additionalProperties": False,
                },
            ]
        },
    },
}


def told(data: object, wanted: dict[str, Any], **options: bool) -> list[tuple[str, str]]:
    return [
        ("/".join(map(str, v.path)), v.message) for v in schema.violations(data, wanted, **options)
    ]


@pytest.mark.parametrize(
    ("wanted", "value", "message"),
    [
        ({"type": "string"}, None, "must be a string, not empty"),
        (
            {"type": "string"},
            False,
            "must be a string, not the boolean false (quote it: YAML reads yes, no, on and off "
            "as booleans)",
        ),
        ({"type": "string"}, 8, "must be a string, not the integer 8 (quote it)"),
        ({"type": "string"}, 1.5, "must be a string, not the number 1.5 (quote it)"),
        (
            {"type": "string"},
            datetime.date(2020, 1, 2),
            "must be a string, not the date 2020-01-02 (quote it)",
        ),
        (
            {"type": "string"},
            10**99,
            "must be a string, not a huge integer (quote it)",
        ),
        ({"type": "string"}, b"x", "must be a string, not binary data (quote it)"),
        ({"type": "string"}, [1], "must be a string, not a list"),
        ({"type": "string"}, {}, "must be a string, not a mapping"),
        ({"type": "object"}, "x", "must be a mapping, not a string"),
        ({"type": "array"}, {}, "must be a list, not a mapping"),
        (
            {"type": "boolean"},
            "yes",
            "must be a boolean (true or false), not a string (write it without quotes)",
        ),
        ({"type": "integer"}, "5", "must be an integer, not a string (write it without quotes)"),
        ({"type": "integer"}, "five", "must be an integer, not a string"),
        ({"type": "integer"}, True, "must be an integer, not the boolean true"),
        (
            {"type": ["object", "array", "null"]},
            "x",
            "must be a mapping, a list or empty, not a string",
        ),
        (
            {"enum": ["manager", "worker"]},
            "mangr",
            "'mangr' is not one of manager, worker; did you mean 'manager'?",
        ),
        ({"enum": ["a", "b"]}, "zzzz", "'zzzz' is not one of a, b"),
        ({"enum": ["a", True]}, 5, "the integer 5 is not one of a, true"),
        ({"const": 1}, 2, "must be 1, not the integer 2"),
        ({"pattern": "^a+$"}, "b", "'b' must match the pattern ^a+$"),
        ({"pattern": "^a+$"}, "a\n", "'a\\n' must match the pattern ^a+$"),
        ({"pattern": "x", "patternErrorMessage": "must be x"}, "b", "'b' must be x"),
        ({"minLength": 1}, "", "must have at least 1 character"),
        ({"minLength": 2}, "a", "must have at least 2 characters"),
        ({"maxLength": 1}, "aa", "must have at most 1 character"),
        ({"minItems": 1}, [], "must have at least 1 item"),
        ({"maxItems": 2}, [1, 2, 3], "must have at most 2 items"),
        ({"minProperties": 1}, {}, "must have at least 1 entry"),
        ({"minimum": 5}, 4, "must be at least 5"),
        ({"maximum": 5}, 6, "must be at most 5"),
        ({"uniqueItems": True}, [1, 1], "must not hold the same item twice"),
        ({"not": {}}, 1, "is not allowed in this form"),
        ({"contains": {"const": 1}}, [2], "does not fit the rule 'contains' of the schema"),
        ({"oneOf": [{}, {}]}, 1, "does not fit exactly one of the forms that are allowed here"),
    ],
)
def test_says_each_rule_in_our_words(wanted: dict[str, Any], value: object, message: str) -> None:
    wrapped = {"properties": {"a": wanted}}
    assert told({"a": value}, wrapped) == [("a", message)]


def test_a_long_value_is_cut() -> None:
    (violation,) = schema.violations("x" * 1000, {"enum": ["a", "b"]})
    assert violation.message == "'" + "x" * 37 + "...' is not one of a, b"


def test_unknown_key_is_told_at_the_key_with_the_nearest_name() -> None:
    wanted = {"properties": {"role": {}, "labels": {}}, "additionalProperties": False}
    assert schema.violations({"role": 1, "rol": 2, "zzz": 3}, wanted) == (
        Violation(("rol",), "unknown key 'rol'; did you mean 'role'?", on_key=True),
        Violation(("zzz",), "unknown key 'zzz'; known: labels, role", on_key=True),
    )


def test_keys_that_match_a_pattern_are_known() -> None:
    wanted = {"patternProperties": {"^x-": {}}, "additionalProperties": False}
    assert told({"x-a": 1, "y": 2}, wanted) == [("y", "unknown key 'y'")]


def test_missing_keys_are_told_at_the_parent() -> None:
    wanted = {
        "properties": {
            "wifi": {
                "required": ["ssid", "country"],
                "properties": {"country": {"examples": ["DE"]}},
            }
        }
    }
    assert schema.violations({"wifi": {}}, wanted) == (
        Violation(("wifi",), "missing key 'country' (such as DE)", on_key=True),
        Violation(("wifi",), "missing key 'ssid'", on_key=True),
    )


def test_wrong_names_of_keys_are_told_at_the_key() -> None:
    wanted = {"propertyNames": {"pattern": "^[a-z]+$", "patternErrorMessage": "must be lower case"}}
    assert schema.violations({"ok": 1, "Bad": 2}, wanted) == (
        Violation(("Bad",), "'Bad' must be lower case", on_key=True),
    )


def test_a_value_of_the_wrong_type_has_no_other_faults() -> None:
    wanted = {"type": "string", "enum": ["a", "b"]}
    assert told(5, wanted) == [("", "must be a string, not the integer 5 (quote it)")]


def test_all_violations_come_in_the_order_of_the_data() -> None:
    wanted = {"properties": {key: {"type": "string"} for key in "abc"}}
    assert [path for path, _ in told({"c": 1, "a": 2, "b": 3}, wanted)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    "path",
    [
        ("password",),
        ("user", "password_hash"),
        ("wifi", "psk"),
        ("ssh_authorized_keys", 0),
        ("api_token", "value"),
        ("ClientSecret",),
        ("hashed_passwd",),
    ],
)
@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "boolean"},
        {"enum": ["manager"]},
        {"const": "manager"},
        {"pattern": "^x$"},
        {"anyOf": [{"type": "boolean"}, {"enum": ["manager"]}]},
        {"anyOf": [{"type": "boolean"}, {"type": "integer"}]},
        {"maxLength": 3},
    ],
)
def test_never_repeats_a_value_below_a_key_that_looks_secret(
    path: tuple[str | int, ...], wanted: dict[str, Any]
) -> None:
    data: Any = "hunter2 and more"
    for step in reversed(path):
        data = [data] if isinstance(step, int) else {step: data}
        wanted = {"items": wanted} if isinstance(step, int) else {"properties": {step: wanted}}
    (violation,) = schema.violations(data, wanted)
    assert violation.path == path
    assert "hunter2" not in violation.message


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"enum": ["a", "b"]}, "the value is not one of a, b"),
        ({"pattern": "^x$"}, "must match the pattern ^x$"),
        ({"anyOf": [{"enum": ["a"]}, {"type": "boolean"}]}, "must be a boolean (true or false) or"),
    ],
)
def test_never_repeats_a_text_at_a_private_path(wanted: dict[str, Any], message: str) -> None:
    data = {"here": {"x": "hunter2"}, "there": {"x": "hunter2"}}
    below = {"properties": {"x": wanted}}
    found = schema.violations(
        data,
        {"properties": {"here": below, "there": below}},
        private=lambda path: path[0] == "here",
    )
    assert [v.path for v in found] == [("here", "x"), ("there", "x")]
    assert found[0].message.startswith(message)
    assert "hunter2" not in found[0].message
    (number,) = schema.violations({"x": 5}, {"properties": {"x": {"type": "string"}}}, private=bool)
    assert "the integer 5" in number.message


def test_a_key_that_swallowed_its_value_is_cut() -> None:
    wanted = {"properties": {"psk": {}, "ssid": {}}, "additionalProperties": False}
    assert [v.message for v in schema.violations({"psk:hunter2": None, "ssid x": 1}, wanted)] == [
        "unknown key 'psk...'; did you mean 'psk'? (a ':' needs a space after it)",
        "unknown key 'ssid...'; did you mean 'ssid'?",
    ]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"type": "array", "examples": [["a b", "c"]]}, " (one item a line, such as: - a b)"),
        (
            {"type": "object", "examples": [{"b": {"c": 1}, "a": []}]},
            " (such as: k: {b: {c: 1}, a: []})",
        ),
        ({"type": ["array", "object"], "examples": ["x", {"a": 1}]}, " (such as: k: {a: 1})"),
        ({"type": "array", "examples": [["x" * 100]]}, ""),
        ({"type": "array", "examples": [[], {"a": 1}]}, ""),
        ({"type": "array"}, ""),
    ],
)
def test_shows_the_shape_by_the_schemas_example(wanted: dict[str, Any], message: str) -> None:
    ((_, words),) = told({"k": "text"}, {"properties": {"k": wanted}})
    assert words.partition(", not a string")[2] == message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"url": 1, "path": 2}, [("", "needs exactly one of 'url' and 'path'")]),
        ({}, [("", "needs exactly one of 'url' and 'path'")]),
        ({"url": 1}, []),
    ],
)
def test_tells_of_alternatives_that_exactly_one_is_wanted(
    data: object, expected: list[tuple[str, str]]
) -> None:
    assert told(data, {"oneOf": [{"required": ["url"]}, {"required": ["path"]}]}) == expected


def test_binary_is_text_only_where_asked_for() -> None:
    wanted = {"properties": {"content": {"type": "string"}}}
    data = {"content": b"hello", "list": [b"x"]}
    assert told(data, wanted) == [
        ("content", "must be a string, not binary data (quote it)"),
    ]
    assert told(data, wanted, binary_is_text=True) == []


# --- anyOf and oneOf, as in cloud-init's schema -------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"users": [{"name": "a", "lock_passwd": "nope"}]},
            [("users/0/lock_passwd", "must be a boolean (true or false), not a string")],
        ),
        (
            {"users": ["default", {"name": "a", "shel": "/bin/sh", "lock_passwd": 5}]},
            [
                (
                    "users/1/shel",
                    "unknown key 'shel'; known: groups, lock_passwd, name, passwd, snapuser, sudo",
                ),
                ("users/1/lock_passwd", "must be a boolean (true or false), not an integer"),
            ],
        ),
        ({"users": [{}]}, [("users/0", "needs 'name' or 'snapuser'")]),
        (
            {"users": [5]},
            [("users/0", "must be a string, a list or a mapping, not the integer 5 (quote it)")],
        ),
        (
            {"users": [["a", 5]]},
            [("users/0/1", "must be a string, not the integer 5 (quote it)")],
        ),
        (
            {"users": [{"name": "a", "groups": ["x", {}]}]},
            [("users/0/groups/1", "must be a string, not a mapping")],
        ),
        (
            {"users": [{"name": "a", "sudo": 5}]},
            [("users/0/sudo", "must be a string, empty or false, not the integer 5")],
        ),
        (
            {"runcmd": [["ls", 5], {"a": 1}, None, "x"]},
            [
                ("runcmd/0/1", "must be a string, not the integer 5 (quote it)"),
                ("runcmd/1", "must be a list, a string or empty, not a mapping"),
            ],
        ),
        (
            {"delay": "soon"},
            [
                (
                    "delay",
                    "must be an integer, text that matches ^\\+?[0-9]+$ or 'now', not a string",
                )
            ],
        ),
        ({"delay": -1}, [("delay", "must be at least 0")]),
        (
            {"network": {"type": "physical", "mtu": "x", "nam": "eth0"}},
            [
                ("network", "missing key 'name'"),
                ("network/mtu", "must be an integer, not a string"),
                ("network/nam", "unknown key 'nam'; did you mean 'name'?"),
            ],
        ),
        (
            {"network": {"type": "physical", "mtu": "x"}},
            [
                ("network", "missing key 'name'"),
                ("network/mtu", "must be an integer, not a string"),
            ],
        ),
        ({"code": "xyz"}, [("code", "'xyz' must match the pattern ^[0-9]+$")]),
        (
            {"code": 5},
            [("code", "must be a string, not the integer 5 (quote it)")],
        ),
        (
            {"network": {"type": "nameserver", "adress": "1.1.1.1"}},
            [("network/adress", "unknown key 'adress'; did you mean 'address'?")],
        ),
    ],
)
def test_tells_the_branch_that_was_meant(data: object, expected: list[tuple[str, str]]) -> None:
    assert told(data, USERS) == expected


def test_a_constant_tells_which_branch_was_meant() -> None:
    def branch(kind: str, *required: str) -> dict[str, Any]:
        return {"properties": {"type": {"const": kind}}, "required": list(required)}

    wanted = {"anyOf": [branch("a"), branch("b", "x", "y"), branch("c")]}
    assert told({"type": "b"}, wanted) == [("", "missing key 'x'"), ("", "missing key 'y'")]
    assert told({"type": "d"}, wanted) == [("type", "must be a, not 'd'")]


# --- our own schema -----------------------------------------------------------------------------


def test_our_schema_is_valid_and_explains_every_key() -> None:
    jsonschema.Draft7Validator.check_schema(CLUSTER)
    missing = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, list):
            for index, below in enumerate(node):
                walk(below, f"{path}[{index}]")
        if not isinstance(node, dict):
            return
        for key, about in node.get("properties", {}).items():
            constant = "const" in about or "enum" in about or "default" in about
            parts = "properties" in about or about.get("type") == "boolean" or constant
            if "description" not in about or not ("examples" in about or parts):
                missing.append(f"{path}.{key}")
            if about.get("type") == "object" and "properties" in about:
                assert about["additionalProperties"] is False
        for key, below in node.items():
            walk(below, f"{path}.{key}")

    walk(CLUSTER, "")
    assert missing == []
    assert CLUSTER["additionalProperties"] is False


def test_every_pattern_of_our_schema_has_words_and_accepts_its_examples() -> None:
    found = 0

    def walk(node: object) -> None:
        nonlocal found
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                found += 1
                assert node["patternErrorMessage"].startswith("must ")
                examples = [e for e in node.get("examples", []) if isinstance(e, str)]
                assert all(re.search(node["pattern"], example) for example in examples)
            node = list(node.values())
        if isinstance(node, list):
            for below in node:
                walk(below)

    walk(CLUSTER)
    assert found > 10


_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=4),
        st.dates(),
    ),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["name", "nodes", "users", "network"])),
            below,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(_JSON)
def test_any_data_is_judged_as_jsonschema_does_and_explained(data: object) -> None:
    for wanted in (USERS, CLUSTER):
        violations = schema.violations(data, wanted)
        validator = jsonschema.validators.validator_for(wanted)(wanted)
        assert bool(violations) == (not validator.is_valid(data))
        assert all("\n" not in v.message and len(v.message) < 400 for v in violations)
        assert len(set(violations)) == len(violations)
