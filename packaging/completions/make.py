"""Writes the shells' completions of both commands beside this file, from their command lines.

A test compares the committed files with what this makes.
"""

from pathlib import Path

import shtab

from mtasts_daemon.cli.main import ctl_parser, daemon_parser

FILES = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}


def completions() -> dict[str, str]:
    """Return the completion files by name."""
    made = {}
    for parser in (daemon_parser(), ctl_parser()):
        for shell, name in FILES.items():
            text = shtab.complete(parser, shell=shell)
            # A line that says when it was made would make every day's file another one.
            made[name.format(parser.prog)] = text.rstrip("\n") + "\n"
    return made


if __name__ == "__main__":
    for name, text in completions().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
