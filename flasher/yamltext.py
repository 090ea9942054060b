"""YAML text -> values, with the place of every path. No files are read and no meaning is judged.

YAML is 1.1, as PyYAML and therefore cloud-init read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from flasher.errors import ClusterFileError
from flasher.model import Document, Location, Problem, YamlPath

# A cluster of 200 nodes with all options needs about 5,000; aliases can multiply without end.
MAX_SIZE = 50_000
MAX_DEPTH = 50
_CHARACTERS_PER_SIZE = 100

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = {_TAG + kind: kind for kind in ("bool", "int", "float", "null", "timestamp", "binary")}
_TEXTS = (_TAG + "str", _TAG + "value", _MERGE)
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_TAB = (
    "a tab indents this line, but YAML allows only spaces there: put two spaces for each tab "
    "(and let the editor do so for .yaml files)"
)
_NO_TAG = "a value that starts with ! is a tag, which is not supported: quote it if it is text"
_WORDS = (
    (
        "mapping values are not allowed",
        "a ':' that does not belong here: the line is indented too deep, or it is text with "
        "': ' in it, which must be quoted",
    ),
    ("could not find expected ':'", "this line should be 'key: value', but it has no ':'"),
    (
        "found undefined alias",
        "a value that starts with * is an alias (of no anchor here): quote it if it is text",
    ),
    (
        "found duplicate anchor",
        "a value that starts with & is an anchor (a second one): quote it if it is text",
    ),
    (
        "expected alphabetic or numeric",
        "a value that starts with * or & is an alias or anchor: quote it if it is text",
    ),
    ("but found another document", "a second document starts here; the file must hold only one"),
    (
        "expected <block end>",
        "the indentation does not fit the lines above, or text after a quoted value",
    ),
    (_TOO_DEEP, _TOO_DEEP),
    ("tag handle", _NO_TAG),
    ("found unexpected end of stream", "the quotes that start here are never closed"),
    ("expected ',' or ']'", "a ',' or the closing ']' is missing"),
    ("expected ',' or '}'", "a ',' or the closing '}' is missing"),
)


def path_text(path: YamlPath) -> str:
    """Give a path as messages name it: `nodes.pi1.role`, `network.lan.dns[0]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = step if re.fullmatch(r"[\w-]+", step) else repr(key_text(step))
            text += f".{shown}" if text else shown
    return text


def key_text(key: str) -> str:
    """Give a key as messages may repeat it: in `{psk:hunter2}` all is a key, the secret too."""
    head = re.split(r"[:\s]", key, maxsplit=1)[0]
    return key if head == key else f"{head}..."


def flow(data: object) -> str:
    """Give data as YAML on one line, without the outer brackets: `pi1: {role: manager}`."""
    text: str = yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=10**6)
    return text.strip()[1:-1]


def locate(document: Document, path: YamlPath, *, on_key: bool = False) -> Location:
    """Give the place of the value (or of the key) at a path, or of its nearest parent that exists.

    A value that the user left out stands where its parent's key stands.
    """
    places = (document.keys, document.values) if on_key else (document.values, document.keys)
    for place in places:
        if path in place:
            return place[path]
    if not path:
        return Location(document.file, 1, 1)
    return locate(document, path[:-1], on_key=True)


def failure(problems: Iterable[Problem], *, file: str, hint: str = "") -> ClusterFileError:
    """Give the error that names all problems, those of `file` first, each once, in file order."""
    ordered = sorted(
        dict.fromkeys(problems),
        key=lambda problem: (
            problem.location.file != file,
            problem.location.file,
            problem.location.line,
            problem.location.column,
            problem.path,
            problem.message,
        ),
    )
    files = dict.fromkeys(problem.location.file for problem in ordered)
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    lines = [f"{count} in {' and '.join(files)}:", *map(str, ordered)]
    return ClusterFileError("\n".join(lines), hint=hint, problems=tuple(ordered))


def load(text: str, *, file: str) -> Document:
    """Parse one YAML document. ClusterFileError names every problem; `file` is only for messages.

    Refused: syntax errors, an empty file, several documents, duplicate keys, keys that are not
    text, tags of one's own, aliases that multiply beyond MAX_SIZE values.
    """
    document, problems = read(text, file=file)
    if problems:
        raise failure(problems, file=file, hint=f"correct {file} at the places named")
    return document


def read(text: str, *, file: str) -> tuple[Document, tuple[Problem, ...]]:
    """Parse as `load` does, but hand back what could be read beside the problems.

    Only what leaves nothing to read (syntax, empty, too large) is raised. Of a duplicate key the
    first value counts; keys that are not text are left out; values that cannot be read are None.
    """
    root, loader = _compose(text.removeprefix("\ufeff"), file=file)
    reader = _Reader(file=file, loader=loader)
    data = reader.value(root, ())
    problems = {(problem.location, problem.message): problem for problem in reader.problems}
    document = Document(file=file, data=data, keys=reader.keys, values=reader.values)
    return document, tuple(problems.values())


class _Loader(yaml.SafeLoader):
    """Composes nodes only so deep as Python's own stack surely allows."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.get_mark() if parent is None else parent.start_mark
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, mark)
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, *, file: str) -> tuple[Node, _Loader]:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        message = f"the character #x{ord(text[error.position]):04x} is not allowed in YAML"
        raise _refusal(Location(file, line, column), message) from None
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _refusal(*_syntax(error, text=text, file=file)) from None
    except (ValueError, OverflowError):
        message = "an escape or a number that YAML does not allow"
        raise _refusal(_location(loader.get_mark(), file), message) from None
    if root is None or (isinstance(root, ScalarNode) and root.tag == _TAG + "null"):
        raise _refusal(Location(file, 1, 1), "the file is empty")
    return root, loader


def _refusal(location: Location, message: str) -> ClusterFileError:
    hint = f"correct {location.file} at the place named"
    return failure((Problem(location, "", message),), file=location.file, hint=hint)


def _location(mark: yaml.Mark, file: str) -> Location:
    return Location(file, mark.line + 1, mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, *, text: str, file: str) -> tuple[Location, str]:
    """Say PyYAML's error in our words: its own may quote the value, which may be a password."""
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Location(file, 1, 1), "malformed YAML"
    location = _location(mark, file)
    lines = text.splitlines()
    before = lines[mark.line][: mark.column + 1] if mark.line < len(lines) else ""
    if "\t" in before[: len(before) - len(before.lstrip())]:
        return location, _TAB
    if "that cannot start any token" in problem:
        character = "a tab" if "\\t" in problem else before[-1:]
        return location, f"a value cannot start with {character}: quote it, or use spaces"
    message = next((words for part, words in _WORDS if part in problem), None)
    if message is None and "tag" in context:
        message = _NO_TAG
    message = message or "malformed YAML: " + re.sub(r"'[^']{3,}'", "...", problem)
    if error.context_mark is not None and "end of stream" in problem:
        return _location(error.context_mark, file), message
    if error.context_mark is not None and "flow" in context:
        message += f" (it was opened at {_location(error.context_mark, file)})"
    return location, message


@dataclass
class _Reader:
    """Turns nodes into values and notes where each stands; lives for one document."""

    file: str
    loader: _Loader
    size: int = 0
    keys: dict[YamlPath, Location] = field(default_factory=dict)
    values: dict[YamlPath, Location] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    open_nodes: set[int] = field(default_factory=set)

    def note(self, node: Node, path: YamlPath, message: str) -> None:
        self.problems.append(
            Problem(_location(node.start_mark, self.file), path_text(path), message)
        )

    def count(self, node: Node) -> None:
        length = len(node.value) if isinstance(node, ScalarNode) else 0
        self.size += 1 + length // _CHARACTERS_PER_SIZE
        if self.size > MAX_SIZE:
            message = "the file is too large once its aliases are expanded"
            raise _refusal(_location(node.start_mark, self.file), message)

    def value(self, node: Node, path: YamlPath) -> object:
        self.count(node)
        self.values[path] = _location(node.start_mark, self.file)
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        expected = _TAG + ("map" if isinstance(node, MappingNode) else "seq")
        if node.tag != expected:
            self.note(node, path, _NO_TAG)
            return None
        if id(node) in self.open_nodes or len(path) > MAX_DEPTH:
            itself = id(node) in self.open_nodes
            self.note(node, path, "an alias that contains itself" if itself else _TOO_DEEP)
            return None
        self.open_nodes.add(id(node))
        try:
            return self.collection(node, path)
        finally:
            self.open_nodes.discard(id(node))

    def collection(self, node: Node, path: YamlPath) -> object:
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        data: dict[str, object] = {}
        for key, (key_node, value_node) in self.pairs(node, path, silent=False).items():
            below = (*path, key)
            self.keys[below] = _location(key_node.start_mark, self.file)
            data[key] = self.value(value_node, below)
        return data

    def scalar(self, node: ScalarNode, path: YamlPath) -> object:
        if node.tag in _TEXTS:
            if not _is_unicode(node.value):
                self.note(node, path, "half of a surrogate pair: write the character itself")
                return None
            return node.value
        kind = _SCALARS.get(node.tag)
        if kind is None:
            self.note(node, path, _NO_TAG)
            return None
        try:
            value: object = self.loader.construct_object(node)
            if isinstance(value, int) and abs(value) >= 2**64:
                # Python cannot even print those of more than 4300 digits.
                raise OverflowError
            return value
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, yaml.YAMLError):
            # The value is not shown: it may be a password that only looks like a date.
            self.note(node, path, f"looks like a YAML {kind}, but is not a valid one: quote text")
            return None

    def pairs(
        self, node: Node, path: YamlPath, *, silent: bool
    ) -> dict[str, tuple[ScalarNode, Node]]:
        """Give a mapping's pairs, merged ones first as PyYAML does; own keys win over merged."""
        own: dict[str, tuple[ScalarNode, Node]] = {}
        merged: dict[str, tuple[ScalarNode, Node]] = {}
        merge_node: Node | None = None
        for key_node, value_node in node.value:
            self.count(key_node)
            if key_node.tag == _MERGE and merge_node is None:
                merge_node = key_node
                for pairs in self.merges(value_node, path):
                    merged = {**pairs, **merged}
                continue
            message = _key_problem(key_node)
            if message is None and (key_node.value in own or key_node.tag == _MERGE):
                first = merge_node if key_node.tag == _MERGE else own[key_node.value][0]
                place = _location((first or key_node).start_mark, self.file)
                name = key_text(key_node.value)
                message = f"duplicate key {name!r}, first at {place}: remove one of them"
                self.complain(key_node, (*path, key_node.value), message, silent=silent)
            elif message is not None:
                self.complain(key_node, path, message, silent=silent)
            else:
                own[key_node.value] = (key_node, value_node)
        return {**merged, **own}

    def complain(self, node: Node, path: YamlPath, message: str, *, silent: bool) -> None:
        if not silent:
            self.note(node, path, message)

    def merges(self, node: Node, path: YamlPath) -> Iterator[dict[str, tuple[ScalarNode, Node]]]:
        self.count(node)
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self.note(source, path, "'<<' merges mappings: name an alias of one, or several")
            elif id(source) in self.open_nodes:
                self.note(source, path, "an alias that contains itself")
            elif len(self.open_nodes) > MAX_DEPTH:
                self.note(source, path, _TOO_DEEP)
            else:
                self.open_nodes.add(id(source))
                # Its own problems are told where the anchor stands.
                yield self.pairs(source, path, silent=True)
                self.open_nodes.discard(id(source))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _key_problem(node: Node) -> str | None:
    if not isinstance(node, ScalarNode):
        return "a key must be text: quote it if it starts with '{' or '['"
    if node.tag == _TAG + "bool":
        return (
            f"the key {node.value} is a boolean in YAML 1.1 (as yes, no, on, off are): "
            f'quote it: "{node.value}"'
        )
    if node.tag == _TAG + "null":
        return 'a key is missing before the ":" (or it is null: quote it)'
    if node.tag in _TEXTS:
        return None if _is_unicode(node.value) else "a key with half of a surrogate pair"
    kind = _SCALARS.get(node.tag)
    if kind is None:
        return "a key with a tag (starting with !): quote it"
    return f'the key {node.value} is not text but a YAML {kind}: quote it: "{node.value}"'


def relative(document: Document, path: YamlPath) -> Mapping[YamlPath, Location]:
    """Give the places below a path, keyed by what follows it; a key's place where there is one."""
    depth = len(path)
    return {
        place[depth:]: document.keys.get(place, location)
        for place, location in document.values.items()
        if place[:depth] == path
    }
