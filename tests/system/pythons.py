"""Tests with other libraries and Pythons than the checkout's: ``python -m tests.system.pythons``.

Three runs of the tests that depend on libraries most and start no process: with the lowest versions that
pyproject.toml allows, with Debian 13's Python and libraries, and on the newest Python of Debian's next release with the
newest libraries. ``--all`` runs all unit tests in the latter two (half an hour).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.interop.network import Unavailable
from tests.interop.prepare import Tree
from tests.system.package import copy_checkout, run_in_build_tree, run_in_tree

__all__ = ["floors"]

_CHECKOUT: Final = Path(__file__).parents[2]
_PARTS: Final = (
    *("policy", "postfix", "config", "dns", "https", "smtp", "store", "lookup", "notify", "tlsrpt/model"),
    *("tlsrpt/collect", "tlsrpt/receive", "tlsrpt/send", "public", "publish", "diagnose"),
)
_PROCESSES: Final = tuple(f"--ignore=tests/tlsrpt/receive/test_{name}.py" for name in ("daemon", "posted"))
_QUICK: Final = (*(f"tests/{name}" for name in _PARTS), *_PROCESSES)
# Python 3.13 and later report an unclosed SQLite connection of a test at any later test, where it is collected.
_WARNINGS: Final = ("-W", "default::pytest.PytestUnraisableExceptionWarning")
_PYTEST: Final = ("-m", "pytest", "-q", "-m", "not interop", "-p", "no:cacheprovider", *_WARNINGS)
# What needs a browser, or shtab of one version.
_LEFT_OUT: Final = (
    "admin/test_page.py",
    "admin/test_page_looks.py",
    "packaging/test_completions.py",
    "bench",
    "system",
)
_ALL: Final = tuple(f"--ignore=tests/{name}" for name in _LEFT_OUT)

# Raised by hand when the next one is in the release.
_NEWEST: Final = "python3.15"
_NEWEST_TREE: Final = Tree(
    "forky",
    ("ca-certificates",),
    "newest",
    (f"{_NEWEST}-venv", "groff", "man-db", "mandoc", "openssl", "procps", "systemd"),
)
_INSTALL: Final = f"""
set -e
{_NEWEST} -m venv /venv
/venv/bin/pip --disable-pip-version-check --quiet install --upgrade "pip>=25.1"
cd /build
/venv/bin/pip --disable-pip-version-check --quiet install hatchling ".[uvloop,receive,postgresql]" --group quick
"""

_FLOOR: Final = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)")


def floors(project: dict[str, list[str] | dict[str, list[str]]]) -> list[str]:
    """Return the project's dependencies, each with its lowest version. Raises ``ValueError`` if one has none."""
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    found = []
    for line in (*project["dependencies"], *(line for lines in optional.values() for line in lines)):
        if (parts := _FLOOR.fullmatch(line)) is None:
            raise ValueError(f"pyproject.toml: {line!r} has no lowest version; write for example name>=1.0")
        found.append(f"{parts[1]}=={parts[2]}")
    return found


def _lowest(_all: tuple[str, ...], log: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="mtasts-lowest-") as name:
        project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
        constraints, python = Path(name, "constraints.txt"), f"{name}/venv/bin/python"
        constraints.write_text("\n".join(floors(project)) + "\n")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
        with log.open("ab") as output:
            for command in (
                (sys.executable, "-m", "venv", f"{name}/venv"),
                (*pip, "--upgrade", "pip>=25.1"),
                (*pip, "--constraint", str(constraints), ".[uvloop,receive,postgresql]", "--group", "quick"),
                (python, *_PYTEST, *_QUICK),
            ):
                done = subprocess.run(command, cwd=_CHECKOUT, stdout=output, stderr=output, check=False)
                if done.returncode != 0:
                    return done.returncode
    return 0


def _in_tree(run: Callable[[Path], int]) -> int:
    with tempfile.TemporaryDirectory(prefix="mtasts-pythons-") as name:
        folder = Path(name, "build")
        copy_checkout(folder)
        return run(folder)


def _debian(chosen: tuple[str, ...], log: Path) -> int:
    return _in_tree(lambda folder: run_in_build_tree(folder, "python3", *_PYTEST, *chosen, log=log))


def _newest(chosen: tuple[str, ...], log: Path) -> int:
    command = ("/venv/bin/python", *_PYTEST, *chosen)
    return _in_tree(lambda folder: run_in_tree(_NEWEST_TREE, folder, *command, log=log, prepare=_INSTALL))


_RUNS: Final = {"the lowest versions": _lowest, "Debian 13": _debian, f"{_NEWEST}, the newest versions": _newest}


def main() -> int:
    """Print the end of each run; 1 if one failed, 69 (EX_UNAVAILABLE) if this host cannot build a tree."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.pythons", description="Test on other Pythons.")
    parser.add_argument("--all", action="store_true", help="all unit tests in Debian 13 and on the newest Python")
    chosen = _ALL if parser.parse_args().all else _QUICK
    failed = False
    # Tests that need PostgreSQL are skipped where it is missing; `make test` runs them in any case.
    os.environ.pop("CI", None)
    for name, run in _RUNS.items():
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="mtasts-log-") as folder:
            log = Path(folder, "log")
            try:
                code = run(chosen, log)
            except Unavailable as error:
                print(error, file=sys.stderr)
                return os.EX_UNAVAILABLE
            lines = log.read_text(errors="replace").splitlines()
        print("\n".join(lines[-1 if code == 0 else -200 :]), flush=True)
        failed = failed or code != 0
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
