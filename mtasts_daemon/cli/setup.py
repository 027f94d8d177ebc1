"""``mtastsctl setup``: the settings that main.cf needs for this daemon, and a check of those it has.

Reads postconf(1) if it is installed, otherwise main.cf. Nothing is changed without ``--apply`` or ``--undo``.
"""

import argparse
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import setup_apply, setup_receive
from .command_line import Verbs
from .output import colored, escape, print_error, print_json, print_out, print_problems
from .postfix_host import PostfixHost, find_postfix
from .postfix_tables import file_mode, own_tables, path_in_queue, probe_tables, uses_daemon

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["SetupFinding", "daemon_settings", "findings", "register", "required_settings"]

_CA_FILES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
# Values of smtp_tls_security_level in postconf(5); with any other Postfix defers all mail.
_LEVELS = ("may", "encrypt", "dane", "dane-only", "fingerprint", "verify", "secure")
_SYSTEMD_TLSRPT = "run/tlsrpt/tlsrpt.sock"
# Map names whose replies an older Postfix cannot parse.
_NEWER_NAMES = ("postfix-tlsrpt", "querywithtlsrpt")


@dataclass(frozen=True, slots=True)
class SetupFinding:
    """One setting that was checked. ``good`` is None if it is only worth knowing."""

    what: str
    good: bool | None
    found: str


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "setup", parents=[configured], help="show the settings main.cf needs, and check them; exit code 1 if one is bad"
    )
    parser.add_argument("--main-cf", metavar="FILE", type=Path, help="read this main.cf instead of running postconf")
    parser.add_argument("--json", action="store_true", help="print JSON")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--apply", action="store_true", help="write the settings to main.cf, after showing the change")
    change.add_argument("--undo", action="store_true", help="restore main.cf as it was before --apply")
    parser.add_argument("--yes", action="store_true", help="change main.cf without asking")
    parser.set_defaults(command=_setup)


def _setup(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems, load

    if (args.apply or args.undo) and (args.json or args.main_cf is not None):
        return print_error(os.EX_USAGE, "--apply and --undo work with postconf(1), without --main-cf and --json")
    if args.undo:
        return setup_apply.undo(confirmed=args.yes)
    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        return print_problems(error)
    postfix = find_postfix(args.main_cf)
    if postfix is None and args.main_cf is not None:
        return print_error(os.EX_NOINPUT, f"{escape(args.main_cf)} cannot be read")
    if postfix is None:
        return print_error(os.EX_NOINPUT, "found neither postconf(1) nor a readable main.cf; name one with --main-cf")
    if args.apply:
        return setup_apply.apply(required_settings(config, postfix), postfix.settings, confirmed=args.yes)
    found = list(findings(config, postfix))
    if args.main_cf is None:
        found += [
            SetupFinding("connection", probe.ok, f"{probe.table} {probe.detail}") for probe in probe_tables(postfix)
        ]
    return _print(args, config, postfix, found)


def _print(args: argparse.Namespace, config: "Config", postfix: PostfixHost, found: list[SetupFinding]) -> int:
    code = 1 if any(finding.good is False for finding in found) else os.EX_OK
    lines, own = required_settings(config, postfix), daemon_settings(config, postfix)
    if args.json:
        version = None if postfix.version is None else ".".join(map(str, postfix.version))
        print_json(
            {"postfix": version, "main_cf": lines, "config": own, "findings": [asdict(finding) for finding in found]}
        )
        return code
    print_out(f"# {_about(postfix)}")
    for name, value in lines.items():
        print_out(f"postconf -e {shlex.quote(f'{name} = {value}')}")
    if own:
        print_out("# add to the configuration of mtasts-daemon:")
        print_out("\n".join(own))
    print_out("")
    for finding in found:
        sign = {True: "ok  ", False: "FAIL", None: "note"}[finding.good]
        print_out(f"{colored(finding.good, sign)} {finding.what:<24} {escape(finding.found)}")
    return code


def _about(postfix: PostfixHost) -> str:
    version = "an unknown version" if postfix.version is None else "version {}.{}".format(*postfix.version)
    return f"settings for Postfix, {version} ({postfix.source}); then run: postfix reload"


# -- settings ----------------------------------------------------------------------------------------------


def required_settings(config: "Config", postfix: PostfixHost) -> dict[str, str]:
    """Return the settings that main.cf needs, the most important one first.

    With these settings, ``findings`` reports no bad setting that one of them can fix.
    """
    lines = {"smtp_tls_policy_maps": _maps(config, postfix)}
    level, dnssec = postfix.value("smtp_tls_security_level"), postfix.value("smtp_dns_support_level") == "dnssec"
    forced = _dane_forced(config)
    dane = config.zones["postfix"].dane != "off" and (dnssec or forced)
    lines["smtp_tls_security_level"] = level if level in _LEVELS else "dane" if dane else "may"
    if dnssec or forced:
        lines["smtp_dns_support_level"] = "dnssec"
    authorities = _authorities_finding(postfix)
    if not authorities.good or authorities.what == "smtp_tls_CAfile":
        found = next((str(file) for file in _CA_FILES if file_mode(file)), str(_CA_FILES[0]))
        lines["smtp_tls_CAfile"] = postfix.value("smtp_tls_CAfile") if authorities.good else found
    if (name := _tlsrpt_socket(config, postfix)) is not None and postfix.knows_tlsrpt:
        lines["smtp_tlsrpt_enable"] = "yes"
        lines["smtp_tlsrpt_socket_name"] = name
    if (transports := setup_receive.transport_maps(config, postfix, setup_receive.postmap_lookup)) is not None:
        lines["transport_maps"] = transports
    if (aliases := setup_receive.virtual_alias_maps(config, postfix, setup_receive.postmap_lookup)) is not None:
        lines["virtual_alias_maps"] = aliases
    return lines


def daemon_settings(config: "Config", postfix: PostfixHost) -> list[str]:
    """Return the lines that the daemon's own configuration lacks, as YAML.

    Without ``default_level``, a TLS report for a domain in testing mode says that no policy was found.
    """
    level = required_settings(config, postfix)["smtp_tls_security_level"]
    zone = config.zones["postfix-tlsrpt"]
    if zone.default_level is not None or _tlsrpt_socket(config, postfix) is None or not postfix.knows_tlsrpt:
        return []
    if level not in ("may", "encrypt", "dane", "dane-only"):
        return []
    return ["zones:", "  postfix-tlsrpt:", f"    default_level: {level}"]


def _dane_forced(config: "Config") -> bool:
    """Return True if a zone uses DANE regardless of main.cf."""
    return any(zone.dane in ("on", "always") for zone in config.zones.values())


def _maps(config: "Config", postfix: PostfixHost) -> str:
    """Return the tables of main.cf with this daemon's in place of the first that asks a daemon, otherwise at the end.

    The first table that knows a domain decides, so the operator's own table keeps precedence.
    """
    tables, ours = postfix.tables, own_tables(config, postfix)
    kept = next((table for table in tables if table in ours), ours[0])
    daemons = [table for table in tables if uses_daemon(table)]
    if not daemons:
        return ", ".join([*tables, kept])
    return ", ".join(
        kept if table == daemons[0] else table for table in tables if table == daemons[0] or table not in daemons
    )


def _tlsrpt_socket(config: "Config", postfix: PostfixHost) -> str | None:
    """Return the socket for TLS results as main.cf names it; None if they are not collected."""
    if config.tlsrpt.socket is not None:
        return path_in_queue(str(config.tlsrpt.socket), postfix)
    return _SYSTEMD_TLSRPT if stat.S_ISSOCK(file_mode(postfix.queue / _SYSTEMD_TLSRPT)) else None


# -- findings ----------------------------------------------------------------------------------------------


def findings(config: "Config", postfix: PostfixHost) -> Iterator[SetupFinding]:
    """Yield what main.cf has now, one finding for each setting."""
    if postfix.version is None:
        yield SetupFinding("version", None, "unknown; the settings above work with every version")
    elif postfix.version < (3, 4):
        yield SetupFinding("version", False, "Postfix before 3.4 has no servername=; it defers on every policy")
    else:
        yield SetupFinding("version", True, "{}.{}".format(*postfix.version))
    yield _map_finding(config, postfix)
    yield _level_finding(postfix)
    yield _authorities_finding(postfix)
    yield from _chroot_finding(config, postfix)
    yield _dnssec_finding(config, postfix)
    yield from _tlsrpt_finding(config, postfix)
    if (route := setup_receive.transport_problem(config, postfix, setup_receive.postmap_lookup)) is not None:
        yield SetupFinding("transport_maps", *route)
    if (accepted := setup_receive.recipient_problem(config, postfix, setup_receive.postmap_lookup)) is not None:
        yield SetupFinding("recipient", *accepted)
    if lines := daemon_settings(config, postfix):
        text = f"{lines[-1].strip()} is not set: TLS reports for domains in testing mode say no-policy-found"
        yield SetupFinding("zones.postfix-tlsrpt", None, text)


def _map_finding(config: "Config", postfix: PostfixHost) -> SetupFinding:
    what, now = "smtp_tls_policy_maps", postfix.value("smtp_tls_policy_maps")
    if not now:
        return SetupFinding(what, False, "is not set: Postfix does not ask")
    daemons = [table for table in postfix.tables if uses_daemon(table)]
    newer = [name for table in daemons if (name := table.rpartition(":")[2]).lower() in _NEWER_NAMES]
    if newer and postfix.version is not None and not postfix.knows_tlsrpt:
        return SetupFinding(what, False, f"asks for {newer[0]}, unknown to this version: Postfix defers all mail")
    if not daemons:
        return SetupFinding(what, False, f"does not ask: {now}")
    if any(table in own_tables(config, postfix) for table in daemons):
        return SetupFinding(what, True, now)
    return SetupFinding(what, None, f"names another address than this daemon's configuration: {now}")


def _level_finding(postfix: PostfixHost) -> SetupFinding:
    what, level = "smtp_tls_security_level", postfix.value("smtp_tls_security_level")
    if level == "":
        return SetupFinding(what, False, "is not set: no TLS for domains without a policy, and no TLS reports")
    if level == "none":
        return SetupFinding(what, False, "is none: no TLS for domains without a policy")
    if level not in _LEVELS:
        return SetupFinding(
            what, False, f"{level} is not a level: Postfix defers all mail; use one of {', '.join(_LEVELS)}"
        )
    return SetupFinding(what, True, level)


def _authorities_finding(postfix: PostfixHost) -> SetupFinding:
    file, folder = postfix.value("smtp_tls_CAfile"), postfix.value("smtp_tls_CApath")
    if file:
        exists = (mode := file_mode(Path(file))) != 0 and not stat.S_ISDIR(mode)
        return SetupFinding("smtp_tls_CAfile", exists, file if exists else f"{file} does not exist or is not a file")
    if folder:
        # postconf(5): the file is read before the chroot is entered, the directory from inside it.
        inside = postfix.queue / folder.lstrip("/") if postfix.chrooted else Path(folder)
        exists = stat.S_ISDIR(file_mode(inside))
        missing = "smtp(8) is chrooted, so every enforced policy defers" if postfix.chrooted else "no such directory"
        return SetupFinding("smtp_tls_CApath", exists, folder if exists else f"{inside} does not exist: {missing}")
    if postfix.value("tls_append_default_CA") == "yes":
        return SetupFinding("smtp_tls_CApath", True, "the system's default")
    return SetupFinding(
        "smtp_tls_CAfile", False, "is not set: every enforced policy defers, as no certificate can be verified"
    )


def _chroot_finding(config: "Config", postfix: PostfixHost) -> Iterator[SetupFinding]:
    if postfix.chrooted is None:
        return
    state = "smtp(8) is chrooted" if postfix.chrooted else "smtp(8) is not chrooted"
    outside = any("socketmap:unix:/" in table for table in (_maps(config, postfix), *postfix.tables))
    outside = outside or (_tlsrpt_socket(config, postfix) or "").startswith("/")
    if postfix.chrooted and outside:
        yield SetupFinding("chroot", False, f"{state}: it cannot reach a socket outside the queue directory")
    else:
        yield SetupFinding("chroot", True, state)


def _dnssec_finding(config: "Config", postfix: PostfixHost) -> SetupFinding:
    what, now = "smtp_dns_support_level", postfix.value("smtp_dns_support_level")
    if now == "dnssec":
        return SetupFinding(what, True, "dnssec: DANE takes precedence if the resolver validates")
    if _dane_forced(config):
        return SetupFinding(what, False, "is not dnssec, but DANE is on: dane-only defers all mail of a domain")
    return SetupFinding(what, None, "is not dnssec: DANE is off")


def _tlsrpt_finding(config: "Config", postfix: PostfixHost) -> Iterator[SetupFinding]:
    what, name = "smtp_tlsrpt_enable", "smtp_tlsrpt_socket_name"
    enabled, wants = postfix.value(what) == "yes", _tlsrpt_socket(config, postfix)
    if wants is None:
        if enabled:
            yield SetupFinding(what, None, "is yes, but this daemon collects no TLS results: tlsrpt.socket is not set")
        return
    if not postfix.knows_tlsrpt:
        yield SetupFinding(what, None, "needs Postfix 3.10; import the log instead: mtastsctl tlsrpt import-log")
    elif not enabled:
        yield SetupFinding(what, False, "is not yes: Postfix sends no TLS results")
    elif (now := postfix.value(name)) != wants:
        yield SetupFinding(name, False, f"{now or 'is not set'}, but the daemon reads {wants}")
    else:
        yield SetupFinding(what, True, f"yes, to {wants}")
