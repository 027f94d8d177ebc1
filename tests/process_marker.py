"""The marker ``process`` of tests that start a process or a browser.

A test gets it if its function or one of its fixtures refers to a function that starts one, through functions and
classes of ``tests``. Code that finds its program in another way needs the marker by hand. In
``make test-unit``, a test that starts a process without the marker fails.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import CodeType, FunctionType
from typing import Final

import pytest

__all__ = ["Sentinel", "mark"]

_STARTERS: Final = {"subprocess", "create_subprocess_exec", "playwright.sync_api"}
"""Names in the code of a function that starts one."""
_EVENTS: Final = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}

_harmless: Final = set[object]()
"""Functions and classes that start none."""


def mark(items: Iterable[pytest.Item]) -> None:
    """Add the marker to the tests that need it."""
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = item._fixtureinfo.name2fixturedefs.values()  # pytest has no public way
            if _starts_process(item.function, *(fixture.func for found in fixtures for fixture in found)):
                item.add_marker("process")


def _starts_process(*things: object) -> bool:
    """Return True if code of ``tests`` that is reachable from these functions and classes starts a process."""
    seen, waiting = set[object](), list(things)
    while waiting:
        thing = inspect.unwrap(waiting.pop())  # type: ignore[arg-type]
        thing = getattr(thing, "__func__", thing)
        if not isinstance(thing, FunctionType | type) or thing in seen or thing in _harmless:
            continue
        if f"{thing.__module__}".startswith("tests."):
            seen.add(thing)
            names, references = _read(thing)
            if not _STARTERS.isdisjoint(names):
                return True
            waiting.extend(references)
    _harmless.update(seen)
    return False


@cache
def _read(thing: FunctionType | type) -> tuple[frozenset[str], Sequence[object]]:
    """Return the names in a function's code, and the globals that it refers to; or the parts of a class."""
    if isinstance(thing, FunctionType):
        names = frozenset(_names(thing.__code__))
        return names, [thing.__globals__.get(name) for name in names]
    parts: list[object] = [*thing.__bases__]
    for value in vars(thing).values():
        parts.extend((value.fget, value.fset) if isinstance(value, property) else [value])
    return frozenset(), parts


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


class Sentinel:
    """Fails the test that starts a process without the marker, if no process is permitted."""

    def __init__(self) -> None:
        self.forbidden = False
        self.test: pytest.Item | None = None
        """The test that is running, if it has no marker."""
        sys.addaudithook(self._observe)

    def _observe(self, event: str, _arguments: object) -> None:
        if event in _EVENTS and self.test is not None:
            raise AssertionError(f"{self.test.nodeid} starts a process: give it @pytest.mark.process")
