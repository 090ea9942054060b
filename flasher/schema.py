"""JSON-schema check -> violations in our own words, each at the path where the user has to act.

Knows nothing of files or places; works for our cluster schema and for cloud-init's official one.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from jsonschema import Draft7Validator, ValidationError, validators
from jsonschema.protocols import Validator

from flasher.model import YamlPath
from flasher.yamltext import flow, key_text

_SHOWN_LENGTH = 40
# Python refuses to print an integer of more than 4300 digits.
_HUGE = 10**_SHOWN_LENGTH
_FEW = 12
_LONGEST_EXAMPLE = 100
# Substrings of a key: what stands at or below it is not repeated in a message.
_SECRET = ("passw", "passphrase", "psk", "key", "token", "secret", "hash", "credential")
_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "boolean": "a boolean (true or false)",
    "integer": "an integer",
    "number": "a number",
    "null": "empty",
}
_BOUNDS = {
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} entries",
    "maxProperties": "must have at most {} entries",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
}


@dataclass(frozen=True)
class Violation:
    """One thing wrong at a path. `on_key`: the mapping's key is what is wrong, not its value."""

    path: YamlPath
    message: str
    on_key: bool = False


def violations(
    data: object,
    schema: Mapping[str, Any],
    *,
    binary_is_text: bool = False,
    private: Callable[[YamlPath], bool] = lambda _path: False,
) -> tuple[Violation, ...]:
    """Give every violation, in the order of the data. `data` has string keys, as yamltext gives it.

    A missing key is told at its parent, an unknown key at its own path with `on_key`. A text of
    the wrong type is never repeated, nor any text at a `private` path, nor anything below keys
    that look secret. `binary_is_text`: `!!binary` values pass as strings, as in cloud-init's check.
    """
    if binary_is_text:
        data = _with_text(data)
    validator = _validator_class(validators.validator_for(schema, default=Draft7Validator))(schema)
    failed = [_failed(error, private) for error in validator.iter_errors(cast(Any, data))]
    found = _explain_all(failed)
    return tuple(sorted(found, key=lambda v: (_position(data, v.path), v.message)))


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Give the option that a typo most probably meant, or None if none is near."""
    names = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word[:64].lower(), names, n=1)
    return names[found[0]] if found else None


def did_you_mean(word: str, options: Collection[str]) -> str:
    """Give `; did you mean 'x'?`, or the options if they are few and none is near, or nothing."""
    near = nearest(word, options)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(sorted(options))}" if 0 < len(options) <= _FEW else ""


def unknown_key(key: str, options: Collection[str]) -> str:
    """Give an unknown key as a message may repeat it, and what was probably meant."""
    name = key_text(key)
    near = did_you_mean(name.removesuffix("..."), options)
    return f"{shown(name)}{near}" + (" (a ':' needs a space after it)" if ":" in key else "")


def shown(value: object) -> str:
    """Give a value as a message may repeat it: short, on one line."""
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge integer"
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
    return repr(cut) if isinstance(value, str) else cut


def looks_secret(path: YamlPath) -> bool:
    """Tell whether the value at a path may be a secret, by the names of the keys above it."""
    return any(part in step.lower() for step in path if isinstance(step, str) for part in _SECRET)


# --- running jsonschema -------------------------------------------------------------------------


@functools.cache
def _validator_class(base: type[Validator]) -> Callable[[Mapping[str, Any]], Validator]:
    extend = cast(Callable[..., Any], validators.extend)
    made: Callable[[Mapping[str, Any]], Validator] = extend(base, {"pattern": _pattern})
    return made


def _pattern(
    _validator: Validator, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    """Check as JSON schema means it: `$` is the end, where Python's allows one newline more."""
    if isinstance(instance, str):
        ends = pattern.endswith("$") and not pattern.endswith("\\$")
        if not re.search(pattern, instance) or (ends and instance.endswith("\n")):
            yield ValidationError("pattern")


def _with_text(data: object) -> object:
    if isinstance(data, dict):
        return {key: _with_text(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_text(item) for item in data]
    return data.decode("latin-1") if isinstance(data, bytes) else data


def _position(data: object, path: YamlPath) -> tuple[int, ...]:
    """Give where a path stands in the data, comparable with those of other paths."""
    position: list[int] = []
    for step in path:
        if isinstance(data, dict) and step in data:
            position.append(list(data).index(str(step)))
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            position.append(step)
            data = data[step]
    return tuple(position)


# --- errors in our words ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failed:
    """What jsonschema says of one keyword that failed.

    `wanted`: the keyword's value in the schema. `below`: how many steps under the instance of the
    enclosing anyOf or oneOf. `context`: the failures in the branches, if it is one itself.
    `secret`: the value must not be repeated; `private`: not if it is a text.
    """

    keyword: str
    wanted: Any
    value: Any
    schema: Mapping[str, Any]
    path: YamlPath
    below: int
    rule: tuple[str | int, ...]
    context: tuple[_Failed, ...]
    secret: bool
    private: bool


def _failed(error: ValidationError, private: Callable[[YamlPath], bool]) -> _Failed:
    path = tuple(error.absolute_path)
    secret = looks_secret(path)
    return _Failed(
        keyword=str(error.validator),
        wanted=error.validator_value,
        value=error.instance,
        schema=error.schema if isinstance(error.schema, Mapping) else {},
        path=path,
        below=len(error.path),
        rule=tuple(error.schema_path),
        context=tuple(_failed(sub, private) for sub in error.context or ()),
        secret=secret,
        private=secret or private(path),
    )


def _explain_all(failures: Iterable[_Failed]) -> list[Violation]:
    """Explain each, once; a value of the wrong type has no other faults that matter."""
    failures = list(failures)
    wrong_type = {(f.path, f.rule[:-1]) for f in failures if f.keyword == "type"}
    return list(
        dict.fromkeys(
            violation
            for f in failures
            if f.keyword == "type" or (f.path, f.rule[:-1]) not in wrong_type
            for violation in _explain(f)
        )
    )


def _explain(failed: _Failed) -> list[Violation]:
    path = failed.path
    if failed.keyword in ("anyOf", "oneOf"):
        return _explain_branches(failed)
    if failed.keyword == "required":
        # jsonschema gives one error for each; the caller drops repetitions.
        absent = [key for key in failed.wanted if key not in failed.value]
        return [_missing(path, key, failed.schema) for key in absent]
    if failed.keyword in ("additionalProperties", "unevaluatedProperties"):
        return _unknown_keys(failed, path)
    if "propertyNames" in failed.rule and isinstance(failed.value, str):
        name = key_text(failed.value) if failed.private else failed.value
        words = _words(replace(failed, value=name, secret=False, private=False))
        return [Violation((*path, failed.value), words, on_key=True)]
    return [Violation(path, _words(failed))]


def _missing(path: YamlPath, key: str, schema: Mapping[str, Any]) -> Violation:
    about = schema.get("properties", {}).get(key, {})
    examples = about.get("examples", []) if isinstance(about, dict) else []
    example = next((f" (such as {text})" for text in examples if isinstance(text, str)), "")
    return Violation(path, f"missing key {key!r}{example}", on_key=True)


def _unknown_keys(failed: _Failed, path: YamlPath) -> list[Violation]:
    allowed = failed.schema.get("properties", {})
    patterns = failed.schema.get("patternProperties", {})
    return [
        Violation((*path, key), f"unknown key {unknown_key(key, allowed)}", on_key=True)
        for key in failed.value
        if key not in allowed and not any(re.search(pattern, key) for pattern in patterns)
    ]


def _words(failed: _Failed) -> str:
    keyword, wanted, value = failed.keyword, failed.wanted, failed.value
    if keyword == "type":
        return _wrong_type([wanted] if isinstance(wanted, str) else wanted, failed)
    if keyword in ("enum", "const"):
        return _not_one_of(wanted if keyword == "enum" else [wanted], failed)
    subject = f"{shown(value)} " if isinstance(value, str) and not failed.private else ""
    if keyword == "pattern":
        rule = failed.schema.get("patternErrorMessage", f"must match the pattern {wanted}")
        return f"{subject}{rule}"
    if keyword in _BOUNDS:
        words = _BOUNDS[keyword].format(wanted)
        return re.sub(r" 1 (character|item)s$", r" 1 \1", words.replace(" 1 entries", " 1 entry"))
    if keyword == "uniqueItems":
        return "must not hold the same item twice"
    if keyword == "not":
        return "is not allowed in this form"
    return f"does not fit the rule {keyword!r} of the schema"


def _wrong_type(wanted: Iterable[str], failed: _Failed) -> str:
    kinds, value = list(dict.fromkeys(wanted)), failed.value
    words = _either(_TYPES.get(kind, kind) for kind in kinds)
    hint = ""
    if "string" in kinds and isinstance(value, bool):
        hint = " (quote it: YAML reads yes, no, on and off as booleans)"
    elif "string" in kinds and not isinstance(value, str | list | dict | None):
        hint = " (quote it)"
    elif isinstance(value, str) and {"boolean", "integer", "number"} & set(kinds):
        bare = value.isdecimal() or value.lower() in ("yes", "no", "on", "off", "true", "false")
        hint = " (write it without quotes)" if bare else ""
    return f"must be {words}, not {_thing(failed)}{hint or _shape(kinds, failed)}"


def _shape(kinds: Collection[str], failed: _Failed) -> str:
    """Show by the schema's own example how a list or a mapping is written."""
    for example in failed.schema.get("examples", []):
        if isinstance(example, list) and example and "array" in kinds:
            text = f" (one item a line, such as: - {flow(example[:1])})"
        elif isinstance(example, dict) and "object" in kinds:
            key = failed.path[-1] if failed.path else None
            text = f" (such as: {flow({key: example} if isinstance(key, str) else example)})"
        else:
            continue
        return text if len(text) <= _LONGEST_EXAMPLE else ""
    return ""


def _thing(failed: _Failed) -> str:
    """Name a value by its kind, and repeat it if it is no text and not secret."""
    value = failed.value
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"))
    if value is None or isinstance(value, list | dict | str):
        names = {type(None): "empty", list: "a list", dict: "a mapping", str: "a string"}
        return names[type(value)]
    if isinstance(value, bytes):
        return "binary data"
    kind = next((word for cls, word in kinds if isinstance(value, cls)), "date")
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge integer"
    if failed.secret:
        return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    return f"the {kind} {str(value).lower() if isinstance(value, bool) else shown(value)}"


def _not_one_of(options: Iterable[object], failed: _Failed) -> str:
    value = failed.value
    names = list(dict.fromkeys(o if isinstance(o, str) else json.dumps(o) for o in options))
    near = nearest(value, names) if isinstance(value, str) else None
    subject = shown(value) if isinstance(value, str) else _thing(failed)
    subject = "the value" if failed.private else subject
    if len(names) == 1:
        return f"must be {names[0]}, not {subject}"
    return f"{subject} is not one of {', '.join(names)}" + (
        f"; did you mean {near!r}?" if near else ""
    )


def _either(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


# --- anyOf and oneOf ----------------------------------------------------------------------------


def _explain_branches(failed: _Failed) -> list[Violation]:
    """Take the branch that the user most probably meant and tell only its violations.

    jsonschema's `best_match` prefers shallow errors and so picks a branch of another type.
    """
    path = failed.path
    if failed.keyword == "oneOf" and all(set(branch) == {"required"} for branch in failed.wanted):
        keys = [repr(key) for branch in failed.wanted for key in branch["required"]]
        return [Violation(path, f"needs exactly one of {' and '.join(keys)}", on_key=True)]
    if not failed.context:
        return [Violation(path, "does not fit exactly one of the forms that are allowed here")]
    branches: dict[object, list[_Failed]] = {}
    for sub in failed.context:
        branches.setdefault(sub.rule[0], []).append(sub)
    kind_fits = [subs for subs in branches.values() if not any(map(_is_own_type, subs))]
    if not kind_fits:
        kinds = [kind for subs in branches.values() for sub in subs for kind in _own_types(sub)]
        return [Violation(path, _wrong_type(kinds, failed))]
    meant = [subs for subs in kind_fits if not any(map(_is_discriminator, subs))] or kind_fits
    single = [subs[0] for subs in meant if len(subs) == 1 and not subs[0].below]
    if len(single) == len(meant):
        others = [kind for subs in branches.values() for sub in subs for kind in _own_types(sub)]
        merged = _merge_single(single, others)
        if merged is not None:
            return [merged]
    return min((_explain_all(subs) for subs in meant), key=len)


def _is_own_type(failed: _Failed) -> bool:
    """Tell whether the branch is for another type than the instance has."""
    if failed.below:
        return False
    if failed.keyword in ("anyOf", "oneOf"):
        return bool(failed.context) and all(map(_is_own_type, failed.context))
    return failed.keyword == "type"


def _own_types(failed: _Failed) -> list[str]:
    if failed.below:
        return []
    if failed.keyword in ("anyOf", "oneOf"):
        return [kind for sub in failed.context for kind in _own_types(sub)]
    if failed.keyword != "type":
        return []
    wanted = failed.wanted
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _is_discriminator(failed: _Failed) -> bool:
    """Tell whether the branch is for another `type: ...` entry, in the way of network-config."""
    constant = failed.keyword == "const" or (failed.keyword == "enum" and len(failed.wanted) == 1)
    return constant and failed.below == 1


def _merge_single(branches: list[_Failed], kinds: list[str]) -> Violation | None:
    """Tell in one sentence what is allowed, if every branch wants one thing of the value itself.

    `kinds`: the types that the branches of other types want.
    """
    keywords = {failed.keyword for failed in branches}
    path, value = branches[0].path, branches[0].value
    if keywords == {"required"}:
        keys = dict.fromkeys(key for failed in branches for key in failed.wanted)
        return Violation(path, f"needs {_either(map(repr, keys))}", on_key=True)
    if not keywords <= {"enum", "const", "pattern"} or (keywords == {"pattern"} and not kinds):
        return None
    options: list[object] = []
    forms = [_TYPES.get(kind, kind) for kind in kinds]
    for failed in branches:
        if failed.keyword == "pattern":
            forms.append(f"text that matches {failed.wanted}")
        else:
            options += failed.wanted if failed.keyword == "enum" else [failed.wanted]
    if not forms:
        return Violation(path, _not_one_of(options, branches[0]))
    names = [repr(o) if isinstance(o, str) else json.dumps(o) for o in options]
    texts = [o for o in options if isinstance(o, str)]
    near = nearest(value, texts) if isinstance(value, str) else None
    thing = _thing(branches[0]) + (f"; did you mean {near!r}?" if near else "")
    return Violation(path, f"must be {_either([*forms, *names])}, not {thing}")
