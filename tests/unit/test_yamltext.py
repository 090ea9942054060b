"""YAML text -> values and places."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flasher import yamltext
from flasher.errors import ClusterFileError
from flasher.model import Location, Problem


def load(text: str) -> object:
    return yamltext.load(text, file="c.yaml").data


def refusal(text: str) -> list[str]:
    with pytest.raises(ClusterFileError) as caught:
        yamltext.load(text, file="c.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_places_of_keys_and_values_count_from_one() -> None:
    document = yamltext.load("a: 1\nb:\n  - x\n  - c: {d: e}\n", file="c.yaml")
    assert document.data == {"a": 1, "b": ["x", {"c": {"d": "e"}}]}
    assert document.keys[("a",)] == Location("c.yaml", 1, 1)
    assert document.values[("a",)] == Location("c.yaml", 1, 4)
    assert document.values[("b",)] == Location("c.yaml", 3, 3)
    assert document.values[("b", 0)] == Location("c.yaml", 3, 5)
    assert document.keys[("b", 1, "c", "d")] == Location("c.yaml", 4, 9)
    assert document.values[("b", 1, "c", "d")] == Location("c.yaml", 4, 12)
    assert document.values[()] == Location("c.yaml", 1, 1)


def test_byte_order_mark_is_tolerated_and_not_counted() -> None:
    document = yamltext.load("\ufeffa: 1\n", file="c.yaml")
    assert document.data == {"a": 1}
    assert document.values[("a",)] == Location("c.yaml", 1, 4)


def test_windows_line_ends_are_tolerated() -> None:
    document = yamltext.load("a: 1\r\nb: 2\r\n", file="c.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.keys[("b",)] == Location("c.yaml", 2, 1)


def test_place_of_what_is_absent_is_its_parents_key() -> None:
    document = yamltext.load("a:\n  b: {c: 1}\n", file="c.yaml")
    assert yamltext.locate(document, ("a", "b", "x", "y")) == Location("c.yaml", 2, 3)
    assert yamltext.locate(document, ("a", "b", "c")) == Location("c.yaml", 2, 10)
    assert yamltext.locate(document, ("a", "b", "c"), on_key=True) == Location("c.yaml", 2, 7)
    assert yamltext.locate(document, ("x",)) == Location("c.yaml", 1, 1)


def test_relative_places_start_at_the_path() -> None:
    document = yamltext.load("a:\n  b:\n    - c: 1\n  bb: 2\n", file="c.yaml")
    assert yamltext.relative(document, ("a", "b")) == {
        (): Location("c.yaml", 2, 3),
        (0,): Location("c.yaml", 3, 7),
        (0, "c"): Location("c.yaml", 3, 7),
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("nodes", "pi1", "role"), "nodes.pi1.role"),
        (("network", "lan", "dns", 0), "network.lan.dns[0]"),
        (("a", 1, 2, "b"), "a[1][2].b"),
        (("nodes", "pi.6"), "nodes.'pi.6'"),
        (("wifi", "psk:hunter2"), "wifi.'psk...'"),
        (("wifi", "psk hunter2"), "wifi.'psk...'"),
    ],
)
def test_paths_are_told_as_people_write_them(path: tuple[str | int, ...], text: str) -> None:
    assert yamltext.path_text(path) == text


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n",
        "a: &x {b: 1}\ne: &y {b: 2, f: 3}\nd: {<<: [*x, *y], g: 4}\n",
        "a: &x {b: 1}\nc: &y {<<: *x, d: 2}\ne: {<<: *y}\n",
        "a: &x [1, 2]\nb: *x\nc: {d: *x}\n",
        "a: 0o7\nb: 0x1f\nc: 1_000\nd: 1:30\ne: 1.5\nf: ~\ng: yes\nh: 2020-01-02\n",
        "a: !!str 5\nb: !!binary aGVsbG8=\nc: !!int '5'\n",
        "a: |\n  x\n  y\nb: >-\n  x\n  y\n",
    ],
)
def test_values_are_those_of_pyyaml(text: str) -> None:
    assert load(text) == yaml.safe_load(text)


def test_merged_keys_stand_where_they_were_written() -> None:
    document = yamltext.load("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", file="c.yaml")
    assert document.values[("d", "b")] == Location("c.yaml", 1, 11)
    assert document.values[("d", "c")] == Location("c.yaml", 2, 16)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml:1:1: the file is empty"),
        ("---\n", "c.yaml:1:1: the file is empty"),
        ("~\n", "c.yaml:1:1: the file is empty"),
        ("a: b\0", "c.yaml:1:5: the character #x0000 is not allowed in YAML"),
        ("a: 1\nb: \x07", "c.yaml:2:4: the character #x0007 is not allowed in YAML"),
        ('a: "\\Uffffffff"', "c.yaml:1:7: an escape or a number that YAML does not allow"),
        ("a: &x [*x]", "c.yaml:1:4: a[0]: an alias that contains itself"),
        (
            "a: &x {<<: *x}",
            "c.yaml:1:4: a: an alias that contains itself",
        ),
        ("<<: 3", "c.yaml:1:5: '<<' merges mappings: name an alias of one, or several"),
        (
            "{<<: {a: 1}, <<: {b: 1}}",
            "c.yaml:1:14: '<<': duplicate key '<<', first at c.yaml:1:2: remove one of them",
        ),
        ("[a]: 1", "c.yaml:1:1: a key must be text: quote it if it starts with '{' or '['"),
        ("a: {~: x}", 'c.yaml:1:5: a: a key is missing before the ":" (or it is null: quote it)'),
        (
            "a:\tb",
            "c.yaml:1:3: a value cannot start with a tab: quote it, or use spaces",
        ),
        ("a: @b", "c.yaml:1:4: a value cannot start with @: quote it, or use spaces"),
        ("a: - b", "c.yaml:1:4: malformed YAML: sequence entries are not allowed here"),
        (
            'a: "\\ud800"',
            "c.yaml:1:4: a: half of a surrogate pair: write the character itself",
        ),
        (
            "a: 123456789012345678901234567890",
            "c.yaml:1:4: a: looks like a YAML int, but is not a valid one: quote text",
        ),
        (
            "a: !!set {x}",
            "c.yaml:1:4: a: a value that starts with ! is a tag, which is not supported: quote it "
            "if it is text",
        ),
        (
            "a: !!int x",
            "c.yaml:1:4: a: looks like a YAML int, but is not a valid one: quote text",
        ),
    ],
)
def test_refuses_what_is_not_one_clean_document(text: str, problem: str) -> None:
    assert refusal(text) == [problem]


def test_tells_all_problems_of_keys_at_once() -> None:
    assert refusal("a: 1\nno: 2\nb: {x: 1, x: 2}\na: 3\n2020-01-01: 4\n") == [
        'c.yaml:2:1: the key no is a boolean in YAML 1.1 (as yes, no, on, off are): quote it: "no"',
        "c.yaml:3:11: b.x: duplicate key 'x', first at c.yaml:3:5: remove one of them",
        "c.yaml:4:1: a: duplicate key 'a', first at c.yaml:1:1: remove one of them",
        'c.yaml:5:1: the key 2020-01-01 is not text but a YAML timestamp: quote it: "2020-01-01"',
    ]


def test_reads_what_it_can_beside_the_problems() -> None:
    document, problems = yamltext.read("a: 1\na: 2\nno: 3\nb: 4\n", file="c.yaml")
    assert document.data == {"a": 1, "b": 4}
    assert [problem.location.line for problem in problems] == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "psk: *hunter22",
        "psk: &hunter22 &hunter23 x",
        "psk: !hunter22",
        "psk: !hunter22 x",
        "psk: 'hunter22",
    ],
)
def test_never_repeats_a_value_that_may_be_a_password(text: str) -> None:
    assert "hunter" not in "".join(refusal(text))


def test_refuses_aliases_that_multiply_without_end_in_short_time() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 30):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    started = time.process_time()
    assert refusal("\n".join(lines))[0].endswith("too large once its aliases are expanded")
    assert time.process_time() - started < 2


def test_refuses_long_texts_that_aliases_multiply() -> None:
    text = "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 100) + "]\n"
    assert refusal(text)[0].endswith("too large once its aliases are expanded")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "- " * 5000,
        "a: " + "{a: " * 500,
        "\n".join(f"a{i}: &a{i} [*a{i - 1}]" if i else "a0: &a0 1" for i in range(200)),
        "\n".join(f"a{i}: &a{i} {{<<: *a{i - 1}}}" if i else "a0: &a0 {x: 1}" for i in range(99)),
    ],
    ids=["flow", "block", "mappings", "aliases", "merges"],
)
def test_refuses_deep_nesting_before_python_gives_up(text: str) -> None:
    assert any("nested more than 50 levels deep" in problem for problem in refusal(text))


def test_fifty_levels_are_allowed() -> None:
    assert load("[" * 50 + "]" * 50)
    assert refusal("[" * 51 + "]" * 51) == ["c.yaml:1:50: nested more than 50 levels deep"]


def test_refuses_merges_that_multiply_without_end() -> None:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 40):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}")
    started = time.process_time()
    assert any("too large" in problem for problem in refusal("\n".join(lines)))
    assert time.process_time() - started < 2


def test_a_document_may_be_a_scalar_or_a_list() -> None:
    assert load("hello") == "hello"
    assert load("- 1\n- 2\n") == [1, 2]


def test_the_largest_integers_are_those_of_64_bits() -> None:
    assert load(f"a: {2**64 - 1}") == {"a": 2**64 - 1}
    assert len(refusal(f"a: {2**64}")) == 1
    assert len(refusal(f"a: {-(2**64)}")) == 1


def test_problems_are_ordered_and_each_is_told_once() -> None:
    def problem(file: str, line: int, message: str) -> Problem:
        return Problem(Location(file, line, 1), "", message)

    error = yamltext.failure(
        [problem("a", 1, "z"), problem("m", 9, "y"), problem("m", 2, "x"), problem("m", 2, "x")],
        file="m",
        hint="do this",
    )
    assert str(error).split("\n") == [
        "3 problems in m and a:",
        "m:2:1: x",
        "m:9:1: y",
        "a:1:1: z",
        "  do this",
    ]
    assert len(error.problems) == 3


_TOKENS = (  # noqa: SIM905
    "a|b|:| |\n|  |- |{|}|[|]|,|&x |*x|<<|!!int|!!int |'|\"|\\|>|\t|1|0x|~|no|?|%|#|---\n|2020-1-1|"
    "!!map |!!binary |!!bool |=|\u2028|\ufeff|é|.inf|1:2|@|`|!|<<: |\r|... "
).split("|")
_PIECES = st.lists(
    st.sampled_from([*_TOKENS, "|"]),
    max_size=30,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), _PIECES))
@example("a: 0x" + "f" * 5000)
@example("a: " + "1:" * 5000 + "1")
@example("%YAML 1." + "1" * 5000 + "\n--- a")
def test_any_text_gives_a_document_or_an_error_with_places(text: str) -> None:
    problems: tuple[object, ...] = ()
    try:
        document = yamltext.load(text, file="c.yaml")
    except ClusterFileError as error:
        problems = error.problems
        places = [problem.location for problem in problems if isinstance(problem, Problem)]
    else:
        places = list(document.values.values())
    assert places
    assert len(places) >= len(problems)
    assert all(1 <= place.line <= len(text.splitlines()) + 1 for place in places)
    assert all(place.column >= 1 for place in places)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(1 - 2**64, 2**64 - 1),
            st.floats(allow_nan=False),
            st.text(),
        ),
        lambda below: st.one_of(
            st.lists(below, max_size=4), st.dictionaries(st.text(), below, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_what_yaml_wrote_is_read_back_with_a_place_for_every_path(data: object) -> None:
    document = yamltext.load(yaml.safe_dump({"root": data}), file="c.yaml")
    assert document.data == {"root": data}

    def paths(value: object, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
        found = {path}
        if isinstance(value, dict):
            found |= {p for key, below in value.items() for p in paths(below, (*path, key))}
        if isinstance(value, list):
            found |= {p for i, below in enumerate(value) for p in paths(below, (*path, i))}
        return found

    assert set(document.values) == paths(document.data, ())
