from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtasts_daemon.config import yamlfile
from mtasts_daemon.config.problems import Problem
from mtasts_daemon.config.yamlfile import MAX_DEPTH, MAX_FILE, Node, parse

Reader = Callable[[str | bytes], tuple[Any, list[Problem]]]


@pytest.fixture(params=["libyaml", "pure Python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Read with each of PyYAML's two parsers: Debian has the C one, other systems perhaps not."""
    monkeypatch.setattr(
        yamlfile, "_LOADER", getattr(yaml, "CSafeLoader" if request.param == "libyaml" else "SafeLoader")
    )

    def run(text: str | bytes) -> tuple[Any, list[Problem]]:
        problems: list[Problem] = []
        tree = parse(text.encode() if isinstance(text, str) else text, "f.yml", problems)
        return (None if tree is None else tree.plain()), problems

    return run


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_positions_count_from_one() -> None:
    problems: list[Problem] = []
    tree = parse(b"# note\na:\n  b: [x, 'y']\n", "f.yml", problems)
    assert isinstance(tree, Node) and isinstance(tree.value, dict)
    inner = tree.value["a"]
    assert isinstance(inner.value, dict)
    item = inner.value["b"]
    assert isinstance(item.value, list)
    assert (inner.key_at.line, inner.key_at.column) == (2, 1)
    assert (item.key_at.line, item.key_at.column, item.at.column) == (3, 3, 6)
    assert (item.value[1].at.line, item.value[1].at.column) == (3, 10)
    assert not problems


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "YES", "y", "n"])
def test_the_booleans_of_yaml_1_1_are_text(reader: Reader, word: str) -> None:
    assert reader(f"dane: {word}") == ({"dane": word}, [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("8461", 8461),
        ("1.5", 1.5),
        ("'8461'", "8461"),
        ('"0660"', "0660"),
        ('"true"', "true"),
        ("''", ""),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("127.0.0.1:53", "127.0.0.1:53"),
        ("=", "="),
        ("9" * 400, "9" * 400),
    ],
)
def test_plain_values_are_read_as_in_yaml_1_2(reader: Reader, text: str, value: object) -> None:
    found, problems = reader(f"key: {text}")
    assert found == {"key": value} and type(found["key"]) is type(value)
    assert not problems


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0660", 'write "0660", with the quotes'),
        ("0o660", 'write "0o660", with the quotes'),
        ("0x1F", 'write "0x1F", with the quotes'),
        ("12:30:00", 'write "12:30:00", with the quotes'),
        ("10:53", 'write "10:53", with the quotes'),
        ("1_000", "write 1000"),
        ("2026-01-31", 'write "2026-01-31", with the quotes'),
    ],
)
def test_ambiguous_value_needs_quotes(reader: Reader, text: str, hint: str) -> None:
    _, problems = reader(f"a: 1\nkey: {text}")
    problem = only(problems)
    assert (problem.line, problem.column, problem.where, problem.hint) == (2, 6, "key", hint)


def test_keys_are_always_text(reader: Reader) -> None:
    assert reader("on: 1\n0660: 2\nnull: 3\n") == ({"on": 1, "0660": 2, "null": 3}, [])


def test_duplicate_key_names_the_line_of_the_first(reader: Reader) -> None:
    found, problems = reader("a: 1\nb:\n  c: 1\n  c: 2\n'a': 2\n")
    assert [(p.line, p.column, p.where, p.message) for p in problems] == [
        (4, 3, "b.c", "is given twice; first in line 3"),
        (5, 1, "a", "is given twice; first in line 1"),
    ]
    assert found == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1", "&x is an anchor"),
        ("a: *x", "*x is an alias"),
        ("a: !!python/object:os.system 1", "is a tag"),
        ("a: !!str 1", "is a tag"),
        ("? [a]\n: 1", "a key that is not plain text"),
        ("a: 1\n--- \nb: 1", "a second document starts here"),
        ('a: "x\\0y"', "U+0000"),
        ('"x\\ey": 1', "U+001B"),
    ],
)
def test_unsupported_yaml_is_rejected(reader: Reader, text: str, said: str) -> None:
    assert said in only(reader(text)[1]).message


def test_aliases_cannot_make_a_small_file_grow(reader: Reader) -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found, problems = reader("\n".join(rows))
    assert len(problems) == 12 + 11 * 9
    assert found["a11"] == [None] * 9


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 10_000, "? " * 10_000])
def test_depth_is_bounded(reader: Reader, text: str) -> None:
    found, problems = reader(text)
    assert found is None
    assert f"more than {MAX_DEPTH} deep" in problems[-1].message or "not valid YAML" in problems[-1].message


def test_size_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "big.yml"
    file.write_bytes(b"#" * (MAX_FILE + 1))
    problems: list[Problem] = []
    assert yamlfile.read(file, problems) is None
    assert only(problems).message == f"is larger than {MAX_FILE} bytes"


@pytest.mark.parametrize(
    ("text", "line", "column", "hint"),
    [
        (b"a:\n\tb: 1\n", 2, 1, "spaces, not with tabs"),
        (b"a: b: c\n", 1, 5, "in quotes"),
        (b"a: 1\nb: 'x\n", 3, 1, "close the quote"),
        (b"a: [1, 2\nb: 3", 2, 2, "check the indentation"),
        (b"a: [x: y: z]", 1, 9, ""),
        (b"a: @x", 1, 4, "in quotes"),
        (b"a: \xff\n", 1, 4, "UTF-8"),
        (b"a: \xc3\xa9\xc3\n", 1, 5, "UTF-8"),
        (b"a: x\x07y\n", 1, 5, "remove it"),
        ("a:\n  b\u2028c: 1\n".encode(), 2, 4, "remove it"),
        ("a: 1".encode("utf-16"), 1, 1, "UTF-8"),
    ],
)
def test_syntax_error_has_position_and_hint(reader: Reader, text: bytes, line: int, column: int, hint: str) -> None:
    found, problems = reader(text)
    problem = only(problems)
    assert found is None
    assert (problem.line, problem.column) == (line, column)
    assert hint in problem.hint


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "--- \n...\n"])
def test_a_file_without_keys_is_empty(reader: Reader, text: str) -> None:
    assert reader(text) == (None, [])


def test_byte_order_mark_is_ignored(reader: Reader) -> None:
    assert reader(b"\xef\xbb\xbfa: 1\n") == ({"a": 1}, [])


@pytest.mark.parametrize("escape", ["\\ud800", "\\UFFFFFFFF", "\\U00110000"])
def test_escape_of_an_invalid_character_is_a_problem(reader: Reader, escape: str) -> None:
    assert only(reader(f'a: "{escape}"')[1]).message


def test_directory_is_reported_as_such(tmp_path: Path) -> None:
    problems: list[Problem] = []
    assert yamlfile.read(tmp_path, problems) is None
    assert str(only(problems)) == f"{tmp_path}: cannot be read: Is a directory"
