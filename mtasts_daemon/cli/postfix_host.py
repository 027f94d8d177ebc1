"""The Postfix installation of this host, read with postconf(1), or from main.cf without it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PostfixHost", "find_postfix", "read_main_cf_file"]

_QUEUE = "/var/spool/postfix"
_TLSRPT_SINCE = (3, 10)
# The parameters of postconf(5) that advice depends on.
_NAMES = (
    *("mail_version", "queue_directory", "smtp_tls_policy_maps", "smtp_tls_security_level", "smtp_tls_CAfile"),
    *("smtp_tls_CApath", "smtp_dns_support_level", "smtp_tlsrpt_enable", "smtp_tlsrpt_socket_name"),
    *("tls_append_default_CA", "parent_domain_matches_subdomains"),
    *("mail_owner", "transport_maps", "mydestination", "local_recipient_maps", "virtual_alias_domains"),
    *("virtual_alias_maps", "virtual_mailbox_domains", "virtual_mailbox_maps", "relay_domains", "relay_recipient_maps"),
)
# main.cf separates tables by blanks or commas; braces, which inline: nests, protect both.
_TABLE = re.compile(r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|[^\s,{}])+")


@dataclass(frozen=True, slots=True)
class PostfixHost:
    """Settings of the Postfix on this host. ``version`` and ``chrooted`` (of smtp(8)) are None if unknown."""

    source: str
    version: tuple[int, int] | None
    settings: Mapping[str, str]
    chrooted: bool | None

    def value(self, name: str) -> str:
        """Return the value of a parameter; empty if it is not set."""
        return self.settings.get(name, "")

    @property
    def queue(self) -> Path:
        """The queue directory, which is the root directory of a chrooted smtp(8)."""
        return Path(self.value("queue_directory") or _QUEUE)

    @property
    def user(self) -> str:
        """The user that smtp(8) runs as."""
        return self.value("mail_owner") or "postfix"

    @property
    def tables(self) -> list[str]:
        """The tables of smtp_tls_policy_maps."""
        return self.listed("smtp_tls_policy_maps")

    def listed(self, name: str) -> list[str]:
        """Return the tables or names in the value of a parameter."""
        return _TABLE.findall(self.value(name))

    @property
    def knows_tlsrpt(self) -> bool:
        """True if this version of Postfix has smtp_tlsrpt_enable and the attributes of its policy table."""
        return self.version is not None and self.version >= _TLSRPT_SINCE


def find_postfix(main_cf: Path | None = None) -> PostfixHost | None:
    """Return the Postfix of this host, or the one with this ``main_cf``. None if there is none."""
    found = _by_postconf() if main_cf is None else None
    return found or read_main_cf_file(main_cf)


def _by_postconf() -> PostfixHost | None:
    postconf = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if postconf is None:
        return None
    printed = _run(postconf, "-x", *_NAMES)
    if printed is None:
        return None
    settings = dict(_pairs(printed))
    fields = (_run(postconf, "-M", "smtp/unix") or "").split()
    # master(5): a dash in the fifth column is the default, which is n since Postfix 3.0.
    chrooted = fields[4] == "y" if len(fields) > 4 else None
    return PostfixHost(postconf, _version(settings.get("mail_version", "")), settings, chrooted)


def _run(*command: str) -> str | None:
    """Return what the command printed. postconf(1) warns of unknown names on standard error and prints the others."""
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


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    return None if match is None else (int(match[1]), int(match[2]))


def read_main_cf_file(path: Path | None) -> PostfixHost | None:
    """Return the Postfix with this main.cf, or None if it cannot be read. Nothing is known of master.cf."""
    from ..postfix.main_cf import MAIN_CF, main_cf_value, read_main_cf

    path = path or MAIN_CF
    text = read_main_cf(path)
    if text is None:
        return None
    settings = {name: main_cf_value(text, name) for name in _NAMES}
    return PostfixHost(str(path), _version(settings["mail_version"]), settings, None)
