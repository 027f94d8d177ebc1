"""``mtastsctl setup``: what main.cf needs for this daemon, and what it has now.

Asks postconf(1) where it is there, and reads main.cf otherwise. Nothing is changed without ``--apply`` or ``--undo``.
"""

import argparse
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import setup_apply
from .output import mark, print_error, print_out, printable, say_json

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["Postfix", "SetupFinding", "find_postfix", "findings", "register", "wanted"]

_CA_FILES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
_QUEUE = "/var/spool/postfix"
_TLSRPT_SINCE = (3, 10)
# Settings of postconf(5) that the advice depends on.
_NAMES = (
    *("mail_version", "queue_directory", "smtp_tls_policy_maps", "smtp_tls_security_level", "smtp_tls_CAfile"),
    *("smtp_tls_CApath", "smtp_dns_support_level", "smtp_tlsrpt_enable", "smtp_tlsrpt_socket_name"),
    "tls_append_default_CA",
)
# smtp_tls_security_level of postconf(5); with another word Postfix defers all mail.
_LEVELS = ("may", "encrypt", "dane", "dane-only", "fingerprint", "verify", "secure")
# Where the units of systemd make their sockets, as main.cf has them: in the queue directory.
_SYSTEMD_LOOKUP = "run/mtasts/lookup.sock"
_SYSTEMD_TLSRPT = "run/tlsrpt/tlsrpt.sock"
# What main.cf separates by blanks or commas; braces hold both.
_NEWER_NAMES = ("postfix-tlsrpt", "querywithtlsrpt")
_TABLE = re.compile(r"(?:\{[^{}]*\}|[^\s,{}])+")


@dataclass(frozen=True, slots=True)
class Postfix:
    """What is known of the Postfix on this host; ``version`` and ``chrooted`` are None where nothing says."""

    source: str
    version: tuple[int, int] | None
    settings: Mapping[str, str]
    chrooted: bool | None

    def value(self, name: str) -> str:
        """A setting, empty where it is not set."""
        return self.settings.get(name, "")

    @property
    def queue(self) -> Path:
        """The queue directory, which a chrooted smtp(8) sees nothing but."""
        return Path(self.value("queue_directory") or _QUEUE)

    @property
    def tables(self) -> list[str]:
        """Those of smtp_tls_policy_maps."""
        return _TABLE.findall(self.value("smtp_tls_policy_maps"))


@dataclass(frozen=True, slots=True)
class SetupFinding:
    """One thing that was looked at. ``good`` is None where it is only worth knowing."""

    what: str
    good: bool | None
    found: str


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "setup",
        parents=[configured],
        help="print what main.cf needs, and check what it has; exit code 1 if it lacks some",
    )
    parser.add_argument("--main-cf", metavar="FILE", type=Path, help="read this main.cf, and ask no postconf")
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
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG
    postfix = find_postfix(args.main_cf)
    if postfix is None:
        return print_error(
            os.EX_NOINPUT, "there is neither postconf(1) nor a main.cf that can be read; --main-cf names one"
        )
    if args.apply:
        return setup_apply.apply(wanted(config, postfix), postfix.settings, confirmed=args.yes)
    lines, found = wanted(config, postfix), list(findings(config, postfix))
    code = 1 if any(finding.good is False for finding in found) else os.EX_OK
    if args.json:
        version = None if postfix.version is None else ".".join(map(str, postfix.version))
        say_json({"postfix": version, "main_cf": lines, "findings": [asdict(finding) for finding in found]})
        return code
    print_out(f"# {_about(postfix)}\n" + "\n".join(f"{name} = {value}" for name, value in lines.items()) + "\n")
    for finding in found:
        sign = {True: "ok  ", False: "FAIL", None: "note"}[finding.good]
        print_out(f"{mark(finding.good, sign)} {finding.what:<24} {printable(finding.found)}")
    return code


def _about(postfix: Postfix) -> str:
    version = "a version unknown" if postfix.version is None else "version {}.{}".format(*postfix.version)
    return f"for main.cf of Postfix, {version} ({postfix.source})"


# -- what is there -----------------------------------------------------------------------------------------


def find_postfix(main_cf: Path | None = None) -> Postfix | None:
    """Return the Postfix of this host by postconf(1), or by the main.cf, or None if neither can be read."""
    return (_by_postconf() if main_cf is None else None) or _by_main_cf(main_cf)


def _by_postconf() -> Postfix | None:
    postconf = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if postconf is None:
        return None
    told = _run(postconf, "-x", *_NAMES)
    if told is None:
        return None
    settings = dict(_pairs(told))
    master = _run(postconf, "-M", "smtp/unix") or ""
    fields = master.split()
    # master(5): a dash in the fifth column is the default, which is n since Postfix 3.0.
    chrooted = fields[4] == "y" if len(fields) > 4 else None
    return Postfix(postconf, _version(settings.get("mail_version", "")), settings, chrooted)


def _run(*command: str) -> str | None:
    """What the command printed. What it does not know it complains of, on standard error, and prints the rest."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, env={**os.environ, "LC_ALL": "C"})  # noqa: S603 - postconf(1), as found
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip(), value.strip()


def _mode(path: Path) -> int:
    """What kind of file it is, in the sense of stat(2); 0 where none can be seen."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    return None if match is None else (int(match[1]), int(match[2]))


def _by_main_cf(path: Path | None) -> Postfix | None:
    from ..postfix.main_cf import MAIN_CF, main_cf_value, read_main_cf

    path = path or MAIN_CF
    text = read_main_cf(path)
    if text is None:
        return None
    settings = {name: main_cf_value(text, name) for name in _NAMES}
    return Postfix(str(path), _version(settings["mail_version"]), settings, None)


# -- what is wanted ----------------------------------------------------------------------------------------


def wanted(config: "Config", postfix: Postfix) -> dict[str, str]:
    """The settings that main.cf is to have, in the order in which they matter."""
    lines = {"smtp_tls_policy_maps": _maps(config, postfix)}
    level = postfix.value("smtp_tls_security_level")
    dane = config.zones["postfix"].dane != "off" and postfix.value("smtp_dns_support_level") == "dnssec"
    lines["smtp_tls_security_level"] = level if level in _LEVELS else "dane" if dane else "may"
    authorities = _authorities_finding(postfix)
    if not authorities.good or authorities.what == "smtp_tls_CAfile":
        there = next((str(file) for file in _CA_FILES if _mode(file)), str(_CA_FILES[0]))
        lines["smtp_tls_CAfile"] = postfix.value("smtp_tls_CAfile") if authorities.good else there
    if (name := _tlsrpt_socket(config, postfix)) is not None and _knows_tlsrpt(postfix):
        lines["smtp_tlsrpt_enable"] = "yes"
        lines["smtp_tlsrpt_socket_name"] = name
    return lines


def _knows_tlsrpt(postfix: Postfix) -> bool:
    return postfix.version is not None and postfix.version >= _TLSRPT_SINCE


def _maps(config: "Config", postfix: Postfix) -> str:
    """The tables that there are, with ours in place of what asks this daemon or another; otherwise after them.

    The first that knows a domain counts, so that the operator's own table keeps its say.
    """
    tables, ours = postfix.tables, _ours(config, postfix)
    kept = next((table for table in tables if table in ours), ours[0])
    asks = [table for table in tables if _asks(table)]
    if not asks:
        return ", ".join([*tables, kept])
    return ", ".join(kept if table == asks[0] else table for table in tables if table == asks[0] or table not in asks)


def _asks(table: str) -> bool:
    """Whether it asks a daemon, be it this one or another."""
    return table.startswith(("socketmap:", "tcp:"))


def _ours(config: "Config", postfix: Postfix) -> list[str]:
    """The tables that ask this daemon, the best first; what is older defers on the map name of newer versions."""
    name = "postfix-tlsrpt" if _knows_tlsrpt(postfix) else "postfix"
    systemd = f"socketmap:unix:{_SYSTEMD_LOOKUP}:{name}"
    # A Unix socket loses no lookup over a restart.
    found = [systemd] if not config.listen or stat.S_ISSOCK(_mode(postfix.queue / _SYSTEMD_LOOKUP)) else []
    for listen in sorted(config.listen, key=lambda listen: (listen.protocol != "socketmap", not listen.path)):
        if listen.path:
            found.append(f"socketmap:unix:{_in_queue(listen.path, postfix)}:{name}")
        elif listen.protocol == "socketmap":
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - to connect to
            found.append(f"socketmap:inet:{f'[{host}]' if ':' in host else host}:{listen.port}:{name}")
        else:
            found.append(f"tcp:{listen.host}:{listen.port}")
    return found


def _in_queue(path: str, postfix: Postfix) -> str:
    """The path as smtp(8) finds it, chrooted or not: it begins in the queue directory."""
    return path.removeprefix(f"{postfix.queue}/")


def _tlsrpt_socket(config: "Config", postfix: Postfix) -> str | None:
    """Where TLS results are taken, as main.cf names it; None where they are not."""
    if config.tlsrpt.socket is not None:
        return _in_queue(str(config.tlsrpt.socket), postfix)
    return _SYSTEMD_TLSRPT if stat.S_ISSOCK(_mode(postfix.queue / _SYSTEMD_TLSRPT)) else None


# -- what is wrong -----------------------------------------------------------------------------------------


def findings(config: "Config", postfix: Postfix) -> Iterator[SetupFinding]:
    """What main.cf has now, one thing after another."""
    if postfix.version is None:
        yield SetupFinding("version", None, "not known; the line is the one that every version understands")
    elif postfix.version < (3, 4):
        yield SetupFinding("version", False, "before 3.4 Postfix has no servername=; it defers on every policy")
    else:
        yield SetupFinding("version", True, "{}.{}".format(*postfix.version))
    yield _map_finding(config, postfix)
    yield _level_finding(postfix)
    yield _authorities_finding(postfix)
    yield from _chroot_finding(config, postfix)
    yield _dnssec_finding(config, postfix)
    yield from _tlsrpt_finding(config, postfix)


def _map_finding(config: "Config", postfix: Postfix) -> SetupFinding:
    what, now = "smtp_tls_policy_maps", postfix.value("smtp_tls_policy_maps")
    if not now:
        return SetupFinding(what, False, "is not set: Postfix does not ask")
    asks = [table for table in postfix.tables if _asks(table)]
    newer = [name for table in asks if (name := table.rpartition(":")[2]).lower() in _NEWER_NAMES]
    if newer and postfix.version is not None and postfix.version < _TLSRPT_SINCE:
        return SetupFinding(what, False, f"asks for {newer[0]}, unknown to this version: Postfix defers all mail")
    if not asks:
        return SetupFinding(what, False, f"does not ask: {now}")
    if any(table in _ours(config, postfix) for table in asks):
        return SetupFinding(what, True, now)
    return SetupFinding(what, None, f"asks this daemon, it seems, by another name or address than suggested: {now}")


def _level_finding(postfix: Postfix) -> SetupFinding:
    what, level = "smtp_tls_security_level", postfix.value("smtp_tls_security_level")
    if level == "":
        return SetupFinding(
            what, False, "is not set: TLS may be off where there is no policy, and no TLS report is ever made"
        )
    if level == "none":
        return SetupFinding(what, False, "is none: there is no TLS where there is no policy")
    if level not in _LEVELS:
        return SetupFinding(
            what, False, f"{level} is not a level: Postfix defers all mail; use one of {', '.join(_LEVELS)}"
        )
    return SetupFinding(what, True, level)


def _authorities_finding(postfix: Postfix) -> SetupFinding:
    file, folder = postfix.value("smtp_tls_CAfile"), postfix.value("smtp_tls_CApath")
    if file:
        there = (mode := _mode(Path(file))) != 0 and not stat.S_ISDIR(mode)
        return SetupFinding("smtp_tls_CAfile", there, file if there else f"{file} does not exist, or is no file")
    if folder:
        # postconf(5): unlike the file, which is read before, it is looked at from within the chroot.
        inside = postfix.queue / folder.lstrip("/") if postfix.chrooted else Path(folder)
        there = stat.S_ISDIR(_mode(inside))
        missing = "smtp(8) is chrooted, so every enforced policy defers" if postfix.chrooted else "no such directory"
        return SetupFinding("smtp_tls_CApath", there, folder if there else f"{inside} does not exist: {missing}")
    if postfix.value("tls_append_default_CA") == "yes":
        return SetupFinding("smtp_tls_CApath", True, "the default of the system")
    return SetupFinding(
        "smtp_tls_CAfile", False, "is not set: every enforced policy defers, as no certificate can be verified"
    )


def _chroot_finding(config: "Config", postfix: Postfix) -> Iterator[SetupFinding]:
    if postfix.chrooted is None:
        return
    told = "smtp(8) is chrooted" if postfix.chrooted else "smtp(8) is not chrooted"
    outside = any("socketmap:unix:/" in table for table in (_maps(config, postfix), *postfix.tables))
    outside = outside or (_tlsrpt_socket(config, postfix) or "").startswith("/")
    if postfix.chrooted and outside:
        yield SetupFinding("chroot", False, f"{told}, so a socket outside the queue directory is not found")
    else:
        yield SetupFinding("chroot", True, told)


def _dnssec_finding(config: "Config", postfix: Postfix) -> SetupFinding:
    what, now = "smtp_dns_support_level", postfix.value("smtp_dns_support_level")
    modes = {zone.dane for zone in config.zones.values()}
    if now == "dnssec":
        return SetupFinding(what, True, "dnssec: DANE takes precedence where the resolver validates")
    if "on" in modes or "always" in modes:
        return SetupFinding(
            what, False, "is not dnssec, but DANE is on: an answer of dane-only defers all mail of its domain"
        )
    return SetupFinding(what, None, "is not dnssec: DANE is off")


def _tlsrpt_finding(config: "Config", postfix: Postfix) -> Iterator[SetupFinding]:
    what, name = "smtp_tlsrpt_enable", "smtp_tlsrpt_socket_name"
    enabled, wants = postfix.value(what) == "yes", _tlsrpt_socket(config, postfix)
    if wants is None:
        if enabled:
            yield SetupFinding(what, None, "is yes, but this daemon takes no TLS results: it has no tlsrpt.socket")
        return
    if not _knows_tlsrpt(postfix):
        yield SetupFinding(what, None, "needs Postfix 3.10; read the log instead: mtastsctl tlsrpt import-log")
    elif not enabled:
        yield SetupFinding(what, False, "is not yes: no TLS results come")
    elif (now := postfix.value(name)) != wants:
        yield SetupFinding(name, False, f"{now or 'is not set'}, but results are taken at {wants}")
    else:
        yield SetupFinding(what, True, f"yes, to {wants}")
