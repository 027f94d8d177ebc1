"""Fixtures for all tests, and the plugin for async tests.

Each ``async def test_...`` and its fixtures that are async generators run in one task on an event loop of their own.
"""

import gc
import inspect
import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import process_marker
from tests.event_loop import WorkerTask
from tests.fakes.ca import Ca

# Deterministic and without deadlines; HYPOTHESIS_PROFILE=deep searches longer, and at random.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=1000, stateful_step_count=100, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

_processes = process_marker.Sentinel()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--half", type=int, choices=(0, 1), help="run the tests of half of the modules")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the modules of the other half out. By the length of their paths, both halves take about the same time."""
    half = config.getoption("half")
    if half is None or not collection_path.match("test_*.py"):
        return None
    return len(str(collection_path)) % 2 != half or None


def pytest_collection(session: pytest.Session) -> None:
    """Collect no garbage while tests are imported: nearly all of it stays in use."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    # No gc.freeze(): hypothesis looks for the referrers of its random generator, which it would not find.
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    process_marker.mark(items)
    _processes.forbidden = "not process" in config.option.markexpr


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _processes.test = item if _processes.forbidden and not item.get_closest_marker("process") else None
    try:
        return (yield)
    finally:
        _processes.test = None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("event_loop")(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    task: WorkerTask = pyfuncitem.funcargs["event_loop"]  # type: ignore[assignment]
    task.run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    function = fixturedef.func
    if not inspect.isasyncgenfunction(function):
        return (yield)
    task: WorkerTask = request.getfixturevalue("event_loop")

    def generator(**arguments: object) -> Iterator[object]:
        steps = function(**arguments)
        yield task.run(anext(steps))
        assert task.run(anext(steps, "end")) == "end"

    fixturedef.func = generator  # type: ignore[misc]
    try:
        return (yield)
    finally:
        fixturedef.func = function  # type: ignore[misc]


@pytest.fixture
def event_loop(request: pytest.FixtureRequest) -> Iterator[WorkerTask]:
    """Run the async fixtures and the async test; ``@both_loops`` parametrizes it."""
    with closing(WorkerTask(getattr(request, "param", "asyncio"))) as task:
        yield task


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Return the values of ``@pytest.mark.settings``."""
    marker = request.node.get_closest_marker("settings")
    return {} if marker is None else marker.kwargs


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


def pytest_unconfigure() -> None:
    """Close the file that a library of parsedmarc opens when it is imported, and never closes."""
    library = sys.modules.get("mailsuite.utils")
    if library is not None:
        library.null_file.close()
