"""The language of the project: words that are not used, and first lines in imperative mood (ruff checks the latter)."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

UNUSED = re.compile(
    r"\b(tells?|told|whoever|whatever|whichever|wherever|nobody|somebody|mend(?:s|ed|ing)?|beside|nought|anew|for ever"
    r"|becomes? of|became of|looks? after|look(?:s|ed)? at|is to be|what is|of old|by itself|at the (?:least|most)"
    r"|so many|so long)\b",
    re.IGNORECASE,
)
"""Words that are not used; CONTRIBUTING.md names the words to use instead."""

TEXTS = [
    *sorted((ROOT / "mtasts_daemon").rglob("*.py")),
    *sorted((ROOT / "mtasts_daemon").rglob("*.js")),
    *sorted((ROOT / "mtasts_daemon").rglob("*.html")),
    *sorted((ROOT / "mtasts_daemon").rglob("*.css")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "packaging" / "man").glob("*.[158]")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "config.example.yml")),
]
# CONTRIBUTING.md quotes the words that it rejects.
QUOTED = re.compile(r"\*[a-z ,/]+\*")


def offences(text: str) -> Iterator[str]:
    """Yield each unused word with its line number."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in UNUSED.finditer(QUOTED.sub("", line)):
            yield f"{number}: {found[0]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_unused_word_is_not_in_the_text(path: Path) -> None:
    assert list(offences(path.read_text("utf-8"))) == []


@cache
def names_of_tests() -> list[str]:
    return [
        node.name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_unused_word_is_not_in_a_test_name() -> None:
    assert [name for name in names_of_tests() if UNUSED.search(name.replace("_", " "))] == []


def test_test_name_has_at_most_80_characters() -> None:
    assert [name for name in names_of_tests() if len(name) > 80] == []


@pytest.mark.parametrize("text", ["He told it", "look at this", "Whoever asks", "at the most 3", "what is\nso long"])
def test_unused_word_is_found(text: str) -> None:
    assert list(offences(text)) != []


def test_similar_word_is_permitted() -> None:
    assert list(offences("retell, besides, amend, whatsoever, what was, self.tell_tale")) == []
