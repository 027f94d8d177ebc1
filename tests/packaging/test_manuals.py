"""The manual pages list all options and commands, and are well-formed."""

import argparse
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtasts_daemon.cli.main import ctl_parser, daemon_parser
from mtasts_daemon.config.json_schema import json_schema

MAN = Path(__file__).parents[2] / "packaging" / "man"
PAGES = sorted(MAN.glob("*.[1-9]"))


def words(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Return each option and command of a parser as the manual names it, with its section."""
    for action in parser._actions:
        for option in action.option_strings:
            yield parser.prog, option
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield parser.prog, name
                yield from words(below)


def plain(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\-", "-").replace("\\e", "\\")


@pytest.mark.parametrize(
    ("page", "parser"), [("mtasts-daemon.8", daemon_parser()), ("mtastsctl.1", ctl_parser())], ids=["daemon", "ctl"]
)
def test_every_command_and_option_is_in_the_manual(page: str, parser: argparse.ArgumentParser) -> None:
    text = plain(MAN / page)
    missing = []
    for where, word in words(parser):
        flag = word[1:] if word.startswith("-") else ""
        pattern = rf"\bFl {re.escape(flag)}(?![\w-])" if flag else rf"\bCm (?:[\w ]+ )?{re.escape(word)}(?![\w-])"
        if not re.search(pattern, text):
            missing.append((where, word))
    assert missing == []


def test_configuration_manual_is_current() -> None:
    spec = importlib.util.spec_from_file_location("config_manual", MAN / "config_manual.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (MAN / "mtasts-daemon.yml.5").read_text(encoding="utf-8")
    assert committed == module.manual(json_schema()), "make generated writes it"


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_accepts_the_manuals(page: Path) -> None:
    found = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 0)


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_shows_it_without_a_warning(page: Path) -> None:
    found = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, check=False)
    assert (found.stderr, found.returncode) == ("", 0)
