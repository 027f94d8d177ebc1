"""The layout's rules, read off the imports: what is law stays pure, and imports flow one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "mtasts_daemon"
ROOT = Path(__file__).parent.parent / PACKAGE
MODULES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))

# From the bottom up. A module may import its own layer and those below, never one above.
LAYERS = [
    ["errors"],
    ["policy"],
    ["wire", "ports.api"],
    ["counters"],
    ["ports", "config", "observe"],
    ["smtp", "notify"],
    ["flights"],
    ["memory", "news", "walks"],
    ["upkeep"],
    ["service"],
    [
        *("servers", "refresh", "store_watch", "tlsrpt", "systemd", "ask", "explain", "dnssec", "resolver_watch"),
        *("control", "metrics"),
    ],
    ["publish"],
    ["public"],
    ["compose"],
    ["app"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
# What knows neither time nor the world, nor how the program is configured and watched.
PURE = [
    "errors",
    "policy",
    "wire",
    "ports.api",
    "notify.alert",
    "smtp.certificates",
    "smtp.reply_reader",
    *(
        f"tlsrpt.{name}"
        for name in (
            "attempt",
            "decisions",
            "dsn",
            "event",
            "known",
            "mail",
            "maillog",
            "record",
            "report",
            "signing",
            "tally",
        )
    ),
]
WORLD = {
    *("aiohttp", "asyncio", "dns", "http", "logging", "os", "random", "secrets", "select", "selectors", "socket"),
    *("sqlite3", "ssl", "subprocess", "threading", "time", "urllib", "uvloop"),
}
SHELL = ["config", "observe"]
# dnspython reads the messages that this codec asks for.
ALLOWED = {("wire.dnsmsg", "dns")}


def dotted(path: str) -> str:
    """The module's name inside the package; the package itself is the empty name."""
    return path.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


def is_under(module: str, names: list[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer(module: str) -> int | None:
    """The position of the module's layer, by the longest name that fits; None: it is in none."""
    fits = [
        (len(name), position) for position, names in enumerate(LAYERS) for name in names if is_under(module, [name])
    ]
    return max(fits)[1] if fits else None


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each import of ``source``, wherever it stands."""
    package = [PACKAGE, *Path(path).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            # `from . import sts` imports a module, `from .sts import Mode` a name of one.
            yield from (
                (node.lineno, f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base) for a in node.names
            )


def is_module(name: str) -> bool:
    place = ROOT.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").exists()


def breaches(path: str, source: str) -> Iterator[str]:
    """The imports that break a rule, each with the rule."""
    module = dotted(path)
    pure, mine = is_under(module, PURE), layer(module)
    for line, name in imports(path, source):
        top, _, rest = name.partition(".")
        if pure and top in WORLD and (module, top) not in ALLOWED:
            yield f"{path}:{line} imports {name}, but is pure"
        if top != PACKAGE:
            continue
        theirs = layer(rest)
        if pure and is_under(rest, SHELL):
            yield f"{path}:{line} imports {name}, which is for the shell"
        if mine is not None and theirs is not None and theirs > mine:
            yield f"{path}:{line} imports {name}, which is above it"


@pytest.mark.parametrize("path", MODULES)
def test_imports_flow_from_the_shell_to_the_law_and_never_back(path: str) -> None:
    assert list(breaches(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("policy/sts.py", "import time", "pure"),
        ("policy/sts.py", "def late():\n    from os.path import join", "pure"),
        ("wire/socketmap.py", "import dns.message", "pure"),
        ("ports/api.py", "from asyncio import Queue", "pure"),
        ("errors.py", "from .policy import sts", "above"),
        ("policy/sts.py", "from ..wire.postfix import render", "above"),
        ("service.py", "import mtasts_daemon.systemd", "above"),
        ("ports/store.py", "from .. import service", "above"),
        ("wire/socketmap.py", "from .. import config", "shell"),
        ("tlsrpt/report.py", "from ..config import model", "shell"),
    ],
)
def test_an_import_against_the_flow_is_found(path: str, source: str, rule: str) -> None:
    assert rule in "\n".join(breaches(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wire/dnsmsg.py", "import dns.message"),
        ("policy/decide.py", "from .sts import Mode\nfrom .. import errors\nimport re"),
        ("systemd.py", "import socket, time"),
        ("app.py", "from . import config, systemd\nfrom .ports import store"),
    ],
)
def test_an_import_with_the_flow_is_not(path: str, source: str) -> None:
    assert list(breaches(path, source)) == []


@pytest.mark.parametrize("path", MODULES)
def test_every_module_has_a_place_in_the_layout(path: str) -> None:
    assert dotted(path) == "" or layer(dotted(path)) is not None


@pytest.mark.parametrize("path", MODULES)
def test_modules_and_functions_stay_short_enough_to_be_read_at_once(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    # The error tree is a list, and is to be found in one place.
    assert source.count("\n") <= (500 if path == "errors.py" else 400)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


@pytest.mark.parametrize("path", MODULES)
def test_no_module_is_named_for_everything_and_nothing(path: str) -> None:
    assert not {"utils", "helpers", "common", "manager"} & set(dotted(path).split("."))
