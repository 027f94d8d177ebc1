"""Log events are stable: the manual lists all of them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGGING_CALLS = {"log_event", "exception", "Transition", "_replace"}


def names(source: str) -> Iterator[str]:
    """Yield the events that a module logs, and those of the transitions of a cache entry."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called not in LOGGING_CALLS:
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "event")]
        texts = [part.value for value in given for part in ast.walk(value) if isinstance(part, ast.Constant)]
        yield from (text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z]+)+|ready", text))


@cache
def events() -> set[str]:
    """All of them but those of TLS reports, which have a prefix of their own."""
    modules = (ROOT / "mtasts_daemon").rglob("*.py")
    found = {name for module in modules for name in names(module.read_text("utf-8"))}
    return {name for name in found if not name.startswith("tlsrpt-")}


def listed() -> set[str]:
    page = (ROOT / "packaging" / "man" / "mtasts-daemon.8").read_text("utf-8")
    section = page.partition(".Sh DIAGNOSTICS")[2].partition("\n.Sh ")[0]
    return {name for line in re.findall(r"^\.It Li (.+)$", section, re.MULTILINE) for name in line.split(" , ")}


def test_every_event_is_in_the_manual() -> None:
    assert events() - listed() == set()


def test_important_events_are_found() -> None:
    assert {"mail-deferred", "policy-refresh-failed", "sts-record-missing", "store-write-failed"} <= events()
