"""``mtastsctl import-config``: convert the configuration of postfix-mta-sts-resolver or postfix-tlspol.

The SQLite cache of postfix-mta-sts-resolver can be imported; its Redis and PostgreSQL caches cannot. The cache of
postfix-tlspol holds replies, not policies (no id, no max_age), so ``cache import --format domains`` looks its domains
up again.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .command_line import Verbs
from .output import print_error, print_json, print_out

__all__ = ["convert", "register", "resolver_entries"]

_MAX_CONFIG = 1 << 20


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    del configured  # the verb reads another program's configuration
    parser = verbs.add_parser(
        "import-config", help="convert the configuration of postfix-mta-sts-resolver or postfix-tlspol"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="its YAML file")
    parser.add_argument("--json", action="store_true", help="print JSON, including the notes")
    parser.set_defaults(command=_import_config)


# -- configurations ----------------------------------------------------------------------------------------


def _import_config(args: argparse.Namespace) -> int:
    import yaml

    from ..config import ConfigProblems, load

    try:
        with args.file.open("rb") as file:
            given = yaml.safe_load(file.read(_MAX_CONFIG))
    except OSError as error:
        return print_error(os.EX_NOINPUT, f"{args.file}: {error.strerror}")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return print_error(os.EX_DATAERR, f"{args.file} is not YAML: {error}")
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        return print_error(
            os.EX_DATAERR, f"{args.file} is not a configuration of postfix-mta-sts-resolver or postfix-tlspol"
        )
    try:
        config, notes = convert(given, os.environ)
    except ValueError as error:
        return print_error(os.EX_DATAERR, f"{args.file}: {error}")
    if args.json:
        print_json({"config": config, "notes": notes})
    else:
        print_out(yaml.safe_dump(config, sort_keys=False).rstrip("\n") if config else "{}")
        for note in notes:
            print_error(0, note)
    return _checked(config, load, ConfigProblems)


def _checked(config: Mapping[str, Any], load: Callable[..., Any], problems: type[Exception]) -> int:
    """Validate the converted configuration: a value may be out of range here."""
    import tempfile

    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yml"
        file.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
        try:
            load(file, environ={})
        except problems as error:
            for problem in getattr(error, "problems", ()):
                print_error(0, f"please correct: {problem.where}: {problem.message}")
            return os.EX_DATAERR
    return os.EX_OK


def convert(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return the converted configuration and notes on the rest. Raise ValueError if it is from neither program.

    ``environ`` is the environment of the other program, or of this one if they have the same.
    """
    if isinstance(given.get("server"), dict) or isinstance(given.get("dns"), dict):
        return _from_tlspol(given)
    if given.keys() & _RESOLVER_KEYS:
        config, notes = _from_resolver(given)
        _add_proxy(config, notes, environ or {})
        return config, notes
    raise ValueError("this is not a configuration of postfix-mta-sts-resolver or postfix-tlspol")


def _add_proxy(config: dict[str, Any], notes: list[str], environ: Mapping[str, str]) -> None:
    """Convert HTTPS_PROXY, which postfix-mta-sts-resolver obeys and which is ignored here."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if not url:
        return
    parts = urlsplit(url if "://" in url else f"http://{url}")
    port = 80
    try:
        host, port = parts.hostname, parts.port or port
    except ValueError:
        host = None
    if host is None or parts.scheme != "http" or parts.username is not None:
        notes.append("HTTPS_PROXY is not converted: https.proxy is HOST:PORT of a proxy over HTTP without a password")
    else:
        config["https"] = {"proxy": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


_RESOLVER_KEYS = frozenset(
    (
        *("host", "port", "path", "mode", "cache", "cache_grace", "default_zone", "zones", "reuse_port"),
        *("shutdown_timeout", "proactive_policy_fetching", "on_temp_failure"),
    )
)


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name)
    return found if isinstance(found, dict) else {}


def _from_resolver(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Convert, leaving out values that are the default here too."""
    config: dict[str, Any] = {}
    notes: list[str] = []
    if given.get("path"):
        config["listen"] = [f"socketmap:unix:{given['path']}"]
        if isinstance(given.get("mode"), int):
            # YAML reads 0660 as an octal number.
            config["unix_mode"] = f"{given['mode']:04o}"
    elif "host" in given or "port" in given:
        host, port = str(given.get("host") or "127.0.0.1"), given.get("port", 8461)
        if "host" in given and not given["host"]:
            notes.append("host: without one it listened on all addresses; add to listen the others that Postfix uses")
        config["listen"] = [f"socketmap:inet:{f'[{host}]' if ':' in host else host}:{port}"]
    zones: dict[str, Any] = {}
    all_zones = {"postfix": _section(given, "default_zone"), **_section(given, "zones")}
    for name, zone in all_zones.items():
        if not isinstance(zone, dict):
            continue
        if name not in ("postfix",) or zone.get("tlsrpt"):
            zones[str(name)] = {"dialect": "tlsrpt" if zone.get("tlsrpt") else "plain"}
        if zone.get("strict_testing"):
            notes.append(f"{name}: strict_testing is not converted; list domains in overrides with treat_as: enforce")
        if zone.get("require_sni") is False:
            notes.append(f"{name}: require_sni: false is not converted; the name is always sent (RFC 8461 4.3)")
    if zones:
        config["zones"] = zones
    timeout = _section(given, "default_zone").get("timeout")
    if isinstance(timeout, int | float) and not isinstance(timeout, bool):
        config["lookup"] = {"deadline": f"{min(max(float(timeout), 0.1), 20):g}s"}
    kind = str(_section(given, "cache").get("type", "internal"))
    if kind == "sqlite":
        file = _section(_section(given, "cache"), "options").get("filename", "FILE")
        notes.append(f"cache: import its policies with: mtastsctl cache import --format resolver {file}")
    elif kind != "internal":
        notes.append(f"cache: policies in {kind} are not imported; they are discovered again")
    notes += [
        f"{name} has no counterpart: every policy in use is refreshed"
        for name in ("cache_grace", "proactive_policy_fetching")
        if name in given
    ]
    return config, notes


def _from_tlspol(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    config: dict[str, Any] = {}
    notes: list[str] = []
    server, dns = _section(given, "server"), _section(given, "dns")
    address = str(server.get("address", "127.0.0.1:8642"))
    if address.startswith("unix:"):
        config["listen"] = [f"socketmap:unix:{address.removeprefix('unix:')}"]
        mode = server.get("socket-permissions")
        config["unix_mode"] = f"{mode:04o}" if isinstance(mode, int) else "0666"
    else:
        config["listen"] = [f"socketmap:inet:{address}"]
    if server.get("tlsrpt"):
        config["zones"] = {"QUERY": {"dialect": "tlsrpt"}}
    if isinstance(dns.get("address"), str):
        config["dns"] = {"resolvers": [dns["address"]]}
    log: dict[str, Any] = {}
    level = {"warn": "warning"}.get(str(server.get("log-level", "")).lower(), str(server.get("log-level", "")).lower())
    if level in ("debug", "warning", "error"):
        log["level"] = level
    if server.get("log-format") == "json":
        log["format"] = "json"
    if log:
        config["log"] = log
    metrics = server.get("metrics-address")
    if isinstance(metrics, str) and not metrics.startswith("unix:"):
        config["admin"] = {"listen": metrics}
    notes.append("the map names QUERY and QUERYwithTLSRPT are built in")
    notes.append("cache-file: its replies are not imported; look its domains up with:")
    notes.append("  postfix-tlspol -dump | mtastsctl cache import --format domains -")
    if server.get("prefetch") is False:
        notes.append("prefetch: false is not converted; every policy in use is refreshed (RFC 8461 10.2)")
    return config, notes


# -- a cache -----------------------------------------------------------------------------------------------


def resolver_entries(path: Path) -> list[dict[str, Any]]:
    """Return the policies in an SQLite cache of postfix-mta-sts-resolver, in the format of ``cache import``.

    The cache holds a policy's values, not its text, so extension fields are lost. Raise OSError, and ValueError if the
    file is not such a cache.
    """
    import sqlite3

    path.open("rb").close()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT domain, ts, pol_id, pol_body FROM sts_policy_cache").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ValueError(f"not an SQLite cache of postfix-mta-sts-resolver: {error}") from None
    return [_resolver_entry(*row) for row in rows]


def _resolver_entry(domain: object, moment: object, record_id: object, body: object) -> dict[str, Any]:
    """Return the entry. An unreadable policy gets an empty text, so that the daemon rejects it by name."""
    entry = {"domain": str(domain), "record_id": str(record_id), "body": "", "fetched_at": moment}
    try:
        policy = json.loads(str(body))
        hosts = policy.get("mx") or []
        lines = [f"version: {policy['version']}", f"mode: {policy['mode']}", *(f"mx: {host}" for host in hosts)]
        lines.append(f"max_age: {int(policy['max_age'])}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return entry
    # A value with a line end would add lines to the policy.
    return (
        entry if any(not line.isprintable() for line in lines) else entry | {"body": "".join(f"{x}\n" for x in lines)}
    )
