"""Parse YAML into a tree with the position of each value.

Only mappings, lists and plain values are accepted. As in YAML 1.2, ``true`` and ``false`` are booleans, and ``on``,
``off``, ``yes`` and ``no`` are text. Values that YAML 1.1 and 1.2 read differently (``0660``, ``1_000``, ``12:30``,
``2026-01-31``) are rejected without quotes. Anchors, aliases and tags are rejected; size, depth and duplicate keys are
checked.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from ..text import sanitize
from .problems import Origin, Problem

__all__ = ["MAX_DEPTH", "MAX_FILE", "KeyPath", "Node", "join_path", "parse", "read"]

MAX_FILE = 1024 * 1024
"""Maximum size of a file in bytes."""

MAX_DEPTH = 16
"""Maximum nesting of mappings and lists."""

KeyPath = tuple[str | int, ...]
"""Keys and list positions, from the top."""


class Node(NamedTuple):
    """A value, its position, and the position of its key (of the value if there is no key)."""

    value: "str | int | float | bool | list[Node] | dict[str, Node] | None"
    at: Origin
    key_at: Origin

    def plain(self) -> Any:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def join_path(path: KeyPath) -> str:
    """Return a path as it is printed: ``dns.resolvers[0]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{sanitize(step)}" if text else sanitize(step)
    return text


def read(path: Path, problems: list[Problem]) -> Node | None:
    """Return the tree of the file, or None if it is empty or cannot be read. Problems are added to ``problems``.

    Raises ``FileNotFoundError`` only.
    """
    name = sanitize(str(path), 4096)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(Problem(name, None, None, "", f"cannot be read: {reason}"))
        return None
    return parse(data, name, problems)


def parse(data: bytes, name: str, problems: list[Problem]) -> Node | None:
    """Return the tree of ``data``, or None if it is empty or not YAML. Problems are added to ``problems``.

    ``name`` is the name of the file in the problems.
    """
    if len(data) > MAX_FILE:
        problems.append(
            Problem(name, None, None, "", f"is larger than {MAX_FILE} bytes", "split it into files in conf.d")
        )
        return None
    text = _decoded(data, name, problems)
    if text is None:
        return None
    try:
        return _TreeReader(name, problems).document(text)
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax_problem(error, name, text))
    except _TooDeep as error:
        problems.append(Problem.at(error.origin, "", f"is nested more than {MAX_DEPTH} deep"))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The pure Python scanner calls chr() for an escape that is not a character.
        problems.append(
            Problem(name, None, None, "", f"is not valid YAML: {sanitize(str(error).split(chr(10))[0], 200)}")
        )
    return None


# All but the printable characters of YAML 1.2 section 5.1, and line ends that editors do not show. Named are those to
# reject: Python needs six times as long to compile the set of all others.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def _decoded(data: bytes, name: str, problems: list[Problem]) -> str | None:
    try:
        data = data.removeprefix(codecs.BOM_UTF8)
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        position = _position(data[: error.start].decode("utf-8", "replace"))
        message = f"octet 0x{error.object[error.start]:02x} is not UTF-8"
        problems.append(Problem(name, *position, "", message, "save the file as UTF-8"))
        return None
    found = _UNPRINTABLE.search(text)
    if found is None:
        return text
    position = _position(text[: found.start()])
    problems.append(Problem(name, *position, "", f"holds the character U+{ord(found[0]):04X}", "remove it"))
    return None


def _position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _TooDeep(Exception):
    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self.origin = origin


class _Events(Protocol):
    def get_event(self) -> yaml.Event: ...


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}\Z")
_WORDS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}
_AMBIGUOUS = re.compile(
    r"""[-+]?0[0-9_]+                                  # octal in YAML 1.1
    | [-+]?0[box][0-9a-fA-F_]+
    | [-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?          # digits in groups
    | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)? # base 60
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?     # a date
    """,
    re.VERBOSE,
)


class _TreeReader:
    """Builds the tree from parser events, whose number is bounded by the size of the text."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self._name = name
        self._problems = problems

    def document(self, text: str) -> Node | None:
        loader = _LOADER(text)
        try:
            events = _events(loader)
            next(events)  # stream start
            event = next(events)
            if isinstance(event, yaml.StreamEndEvent):
                return None
            root = self._node(next(events), events, (), None)
            next(events)  # document end
            event = next(events)
            if not isinstance(event, yaml.StreamEndEvent):
                self._add(self._origin(event), (), "a second document starts here", "remove the line ---")
            return root
        finally:
            loader.dispose()

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath, key_at: Origin | None) -> Node:
        at = self._origin(event)
        key_at = key_at or at
        if len(path) > MAX_DEPTH:
            raise _TooDeep(at)
        if isinstance(event, yaml.AliasEvent):
            message = f"*{sanitize(str(event.anchor))} is an alias; aliases are not supported"
            self._add(at, path, message, "write the value")
            return Node(None, at, key_at)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.anchor is not None:
            self._add(at, path, f"&{sanitize(str(event.anchor))} is an anchor; anchors are not supported", "remove it")
        if event.tag is not None:
            self._add(at, path, f"{sanitize(str(event.tag))} is a tag; tags are not supported", "remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(events, path), at, key_at)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._list(events, path), at, key_at)
        assert isinstance(event, yaml.ScalarEvent)
        return Node(self._scalar(event, at, path), at, key_at)

    def _list(self, events: Iterator[yaml.Event], path: KeyPath) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, (*path, len(items)), None))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: KeyPath) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            at = self._origin(event)
            # A key is always text: "on:" and "1:" are names.
            key = event.value if isinstance(event, yaml.ScalarEvent) and event.anchor is None else None
            if key is None:
                self._add(at, path, "a key that is not plain text", "write it as text")
                self._node(event, events, (*path, "?"), at)
            node = self._node(next(events), events, (*path, key or ""), at)
            if key is None:
                continue
            key = self._printable(key, at, path)
            if key in found:
                self._add(at, (*path, key), f"is given twice; first in line {found[key].key_at.line}", "remove one")
                continue
            found[key] = node
        return found

    def _scalar(self, event: yaml.ScalarEvent, at: Origin, path: KeyPath) -> str | int | float | bool | None:
        text: str = event.value
        if event.style:  # None or empty, by parser, for a scalar without quotes
            return self._printable(text, at, path)
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        if _AMBIGUOUS.fullmatch(text):
            shown = sanitize(text)
            digits = text.replace("_", "")
            hint = f"write {digits}" if "_" in text and _INT.match(digits) else f'write "{shown}", with the quotes'
            self._add(at, path, f"{shown} without quotes is ambiguous in YAML", hint)
        return text

    def _printable(self, text: str, at: Origin, path: KeyPath) -> str:
        # Escapes in double quotes can spell what the file itself may not hold.
        found = _UNPRINTABLE.search(text)
        if found is None:
            return text
        self._add(at, path, f"holds the character U+{ord(found[0]):04X}", "remove it")
        return _UNPRINTABLE.sub("?", text)

    def _origin(self, event: yaml.Event) -> Origin:
        mark = event.start_mark
        assert mark is not None
        return Origin(self._name, mark.line + 1, mark.column + 1)

    def _add(self, at: Origin, path: KeyPath, message: str, hint: str) -> None:
        self._problems.append(Problem.at(at, join_path(path), message, hint))


def _events(loader: _Events) -> Iterator[yaml.Event]:
    while True:
        yield loader.get_event()


_HINTS = (
    ("mapping values are not allowed", 'put a value that contains ": " in quotes, and check the indentation'),
    ("could not find expected ':'", 'write "key: value", and check the indentation above'),
    ("node content", 'put a value that begins with a special character, such as "::1", in quotes'),
    ("cannot start any token", "put the value in quotes"),
    ("unexpected end of stream", "close the quote"),
    ("scanning an alias", "put a value that begins with * in quotes"),
    ("scanning a directive", "put a value that begins with % in quotes"),
    ("expected", "check the indentation, brackets and quotes"),
)


def _syntax_problem(error: yaml.MarkedYAMLError, name: str, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = sanitize(" ".join(part for part in (error.context, error.problem) if part), 200)
    hint = next((hint for fragment, hint in _HINTS if fragment in message), "")
    if mark is None:
        return Problem(name, None, None, "", f"is not valid YAML: {message}", hint)
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = "indent with spaces, not with tabs"
    return Problem(name, mark.line + 1, mark.column + 1, "", f"is not valid YAML: {message}", hint)
