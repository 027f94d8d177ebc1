"""Rules of the layout, read from the imports: one order of import, and a pure core."""

import ast
import collections
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "mtasts_daemon"
ROOT = Path(__file__).parent.parent / PACKAGE
MODULES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))

# A module imports from its own line and from the lines above it, never from below.
ORDER = [
    "errors",
    "text",
    "clock",
    "counters",
    "sockets",
    "log",
    "policy",
    "ports",
    "postfix",
    "config",
    "dns",
    "https",
    "smtp",
    "store",
    "notify",
    "lookup",
    "tlsrpt.model",
    "tlsrpt.database",
    "tlsrpt.collect",
    "tlsrpt.send",
    "tlsrpt.receive",
    "tlsrpt",
    "diagnose",
    "publish",
    "public",
    "admin",
    "daemon",
    "cli",
    "__main__",
]
# Modules without clock, I/O, logging and configuration.
PURE = [
    "errors",
    "text",
    "policy",
    "ports",
    "postfix.policy_table",
    "postfix.reply",
    "postfix.socketmap",
    "postfix.tcp_table",
    "dns.message",
    "https.address_filter",
    "tlsrpt.model",
    *(
        f"tlsrpt.receive.{name}"
        for name in (
            *("advice", "alert_rules", "auth_results", "authentication", "dkim_tags", "json_text", "mail_header"),
            *("model", "parser", "totals", "unpack"),
        )
    ),
    "notify.alert",
    *(
        f"diagnose.check.{name}"
        for name in ("catalogue", "conclusion", "evidence", "finding", "mx_findings", "policy_findings", "result")
    ),
    "smtp.certificates",
    "smtp.reply_reader",
    "publish.policy_text",
    "publish.strictness",
    "publish.dns_records",
    "publish.state",
    "publish.rollout",
    "publish.removal",
    "publish.gate",
    "publish.drift",
    "publish.counts",
    "public.client_address",
]
WORLD = {
    *("aiohttp", "asyncio", "dns", "http", "logging", "os", "random", "secrets", "select", "selectors", "socket"),
    *("sqlite3", "ssl", "subprocess", "threading", "time", "urllib", "uvloop"),
}
SHELL = ["config", "log"]
# dnspython reads the messages that this codec asks for.
ALLOWED = {("dns.message", "dns")}


def dotted(path: str) -> str:
    """Return the module's name inside the package; the package itself is the empty name."""
    return path.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


def is_under(module: str, names: list[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def position(module: str) -> int | None:
    """Return the module's line in ORDER, by the longest name that fits, or None."""
    fits = [(len(name), number) for number, name in enumerate(ORDER) if is_under(module, [name])]
    return max(fits)[1] if fits else None


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each import in ``source``, wherever it stands."""
    package = [PACKAGE, *Path(path).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            # `from . import mtasts` imports a module, `from .mtasts import Mode` a name of one.
            yield from (
                (node.lineno, f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base) for a in node.names
            )


@cache
def is_module(name: str) -> bool:
    place = ROOT.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").exists()


def breaches(path: str, source: str) -> Iterator[str]:
    """Yield the imports that break a rule, each with the rule."""
    module = dotted(path)
    pure, mine = is_under(module, PURE), position(module)
    for line, name in imports(path, source):
        top, _, rest = name.partition(".")
        if pure and top in WORLD and (module, top) not in ALLOWED:
            yield f"{path}:{line} imports {name}, but is pure"
        if top != PACKAGE:
            continue
        theirs = position(rest)
        if pure and is_under(rest, SHELL):
            yield f"{path}:{line} imports {name}, which is not pure"
        if mine is not None and theirs is not None and theirs > mine:
            yield f"{path}:{line} imports {name}, which is below it"


@pytest.mark.parametrize("path", MODULES)
def test_imports_point_upwards_in_the_order(path: str) -> None:
    assert list(breaches(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("policy/mtasts.py", "import time", "pure"),
        ("policy/mtasts.py", "def late():\n    from os.path import join", "pure"),
        ("postfix/socketmap.py", "import dns.message", "pure"),
        ("ports.py", "from asyncio import Queue", "pure"),
        ("errors.py", "from .policy import mtasts", "below"),
        ("policy/mtasts.py", "from ..postfix.policy_table import render", "below"),
        ("lookup/service.py", "import mtasts_daemon.daemon.systemd", "below"),
        ("store/policy_store.py", "from ..lookup import service", "below"),
        ("postfix/socketmap.py", "from .. import config", "not pure"),
        ("tlsrpt/model/report.py", "from ...config import model", "not pure"),
    ],
)
def test_breach_of_the_order_is_found(path: str, source: str, rule: str) -> None:
    assert rule in "\n".join(breaches(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("dns/message.py", "import dns.message"),
        ("policy/decision.py", "from .mtasts import Mode\nfrom .. import errors\nimport re"),
        ("daemon/systemd.py", "import socket, time"),
        ("daemon/app.py", "from . import systemd\nfrom .. import config\nfrom ..store import policy_store"),
    ],
)
def test_permitted_import_is_no_breach(path: str, source: str) -> None:
    assert list(breaches(path, source)) == []


def test_every_module_has_a_place_in_the_order() -> None:
    assert [path for path in MODULES if dotted(path) and position(dotted(path)) is None] == []


@cache
def definitions(path: str) -> list[tuple[type[ast.AST], str, int, int]]:
    """Return kind, name, first and last line of each class and function of a module."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    return [
        (type(node), node.name, node.lineno, node.end_lineno or 0)
        for node in nodes
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", MODULES)
def test_modules_and_functions_stay_short(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    # The error tree is one list in one file.
    assert source.count("\n") <= (550 if path == "errors.py" else 400)
    for kind, name, first, last in definitions(path):
        assert kind is ast.ClassDef or last - first < 50, name


def test_no_module_is_named_for_everything() -> None:
    assert [path for path in MODULES if {"utils", "helpers", "common", "manager"} & set(dotted(path).split("."))] == []


def test_class_name_is_defined_once() -> None:
    found: dict[str, list[str]] = collections.defaultdict(list)
    for path in MODULES:
        for kind, name, line, _ in definitions(path):
            if kind is ast.ClassDef:
                found[name].append(f"{path}:{line}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
