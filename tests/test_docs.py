"""The documentation points to files and names commands that exist; the architecture page lists every folder."""

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mtasts_daemon.cli.main import ctl_parser, daemon_parser

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


def test_architecture_lists_every_folder() -> None:
    package = ROOT / "mtasts_daemon"
    folders = sorted(path.name for path in package.iterdir() if (path / "__init__.py").exists())
    listed = set(re.findall(r"^\| `([a-z]+)/", ARCHITECTURE, re.MULTILINE))
    assert set(folders) - listed == set()
    assert listed <= set(folders)


def test_architecture_names_files_that_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", ARCHITECTURE)
    found = [name for name in named if (ROOT / "mtasts_daemon" / name).exists() or (ROOT / name).exists()]
    assert [name for name in named if name not in found] == []
    assert len(named) > 10


def test_first_lines_in_troubleshooting_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    table = page.partition("| first line |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    phrases = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    source = (ROOT / "mtasts_daemon" / "diagnose" / "verdict.py").read_text("utf-8")
    assert len(phrases) >= len(rows) > 4
    assert [phrase for phrase in phrases if phrase not in source] == []


# -- commands ----------------------------------------------------------------------------------------------

_COMMAND = re.compile(
    r"(?:^|[ =/])(?:\.venv/bin/|/usr/bin/)?(mtastsctl)( [^\n]+)|(?:^|&& |\$ )(mtasts-daemon)( [^\n]+)", re.MULTILINE
)
# Ends of a command in a line: a comment, a column of text, another command, a redirection.
_END = re.compile(r"\s+#|\s{2,}| && | \| |; |: | [<>]|$")
_PLACEHOLDERS = {"DOMAIN": "example.com", "FILE": "file", "PATH": "path", "DAY": "2026-01-01", "ID": "1"}
_PROSE = re.compile(r"(?:is|are|of|for|can|answers|replaces|keeps|runs|needs|uses)\b")


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the arguments of each command in the code blocks and the code spans of a page."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    # A command may go on in the next line of prose.
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    starts = ("mtastsctl ", "mtasts-daemon ", ".venv/bin/mtastsctl ")
    for code in [*blocks, *(span for span in spans if span.startswith(starts))]:
        for match in _COMMAND.finditer(code.replace("\\\n", " ")):
            program, rest = match[1] or match[3], match[2] or match[4]
            cut = _END.search(rest)
            words = shlex.split(rest[: cut.start()] if cut else rest)
            if words and not _PROSE.match(words[0]) and not words[0].startswith("/"):
                yield program, [_PLACEHOLDERS.get(word.strip("[].") or word, word) for word in words]


@cache
def parser(program: str) -> argparse.ArgumentParser:
    return ctl_parser() if program == "mtastsctl" else daemon_parser()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_documented_command_is_valid(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for program, arguments in commands(page.read_text("utf-8")):
        try:
            parser(program).parse_args(arguments)
        except SystemExit as ended:
            error = capsys.readouterr().err
            # A verb without its arguments stands for the verb.
            if ended.code and "the following arguments are required" not in error:
                wrong.append(f"{program} {' '.join(arguments)}: {error.splitlines()[-1]}")
    assert wrong == []


def test_documented_commands_are_found() -> None:
    found = [(program, words[0]) for page in PAGES for program, words in commands(page.read_text("utf-8"))]
    assert len(found) > 80
    for verb in ("status", "explain", "setup", "cache", "publish", "reports", "tlsrpt", "check"):
        assert ("mtastsctl", verb) in found
    assert ("mtasts-daemon", "check-config") in found
