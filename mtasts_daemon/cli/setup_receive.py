"""The settings of main.cf with which Postfix accepts report mails and delivers them to this daemon by LMTP."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .postfix_host import PostfixHost

if TYPE_CHECKING:
    from ..config import Config

__all__ = [
    "TableLookup",
    "postmap_lookup",
    "recipient_problem",
    "report_address",
    "routed_transport",
    "transport_maps",
    "transport_problem",
    "virtual_alias_maps",
]

_SYSTEMD_SOCKET = "run/tlsrpt-receive/lmtp.sock"
_ALIAS_DOMAINS = "virtual_alias_domains"
# Lists of domains in the order of trivial-rewrite(8), with the tables in which smtpd(8) looks for their recipients.
_CLASSES = {
    "mydestination": "local_recipient_maps",
    _ALIAS_DOMAINS: "virtual_alias_maps",
    "virtual_mailbox_domains": "virtual_mailbox_maps",
    "relay_domains": "relay_recipient_maps",
}

TableLookup = Callable[[str, str], str]
"""Return a table's value for a key; empty text if there is none or the table cannot be read."""

_INLINE = re.compile(r"\A\{?inline:\{(.*)\}\}?\Z", re.DOTALL)


def report_address(config: "Config") -> str:
    """Return the address that the setup is shown for: tlsrpt at the first own domain. Raises ``LookupError``."""
    return f"tlsrpt@{[*config.receive.own_domains, *config.publish.domains][0]}"


def report_transport(config: "Config", postfix: PostfixHost) -> str | None:
    """Return the transport as transport_maps has it, or None if reports are not received by LMTP."""
    path = config.receive.lmtp_socket or _passed_socket(postfix)
    if path is None or not (config.receive.own_domains or config.publish.domains):
        return None
    # A chrooted lmtp(8) finds the socket below the queue directory only.
    return f"lmtp:unix:{str(path).removeprefix(f'{postfix.queue}/')}"


def _passed_socket(postfix: PostfixHost) -> Path | None:
    """Return the socket of mtasts-daemon-lmtp.socket, or None if it is not open."""
    path = postfix.queue / _SYSTEMD_SOCKET
    with suppress(OSError):
        return path if path.is_socket() else None
    return None


def transport_maps(config: "Config", postfix: PostfixHost, lookup: TableLookup) -> str | None:
    """Return the value that transport_maps needs: its tables, preceded by one of our own if none routes reports.

    None if reports are not received by LMTP.
    """
    transport, tables = report_transport(config, postfix), postfix.listed("transport_maps")
    if transport is None:
        return None
    address = _final_address(config, postfix, lookup)
    if routed_transport(address, tables, lookup) == transport:
        return ", ".join(tables)
    own = f"inline:{{{address}={transport}}}"
    return ", ".join([own, *(table for table in tables if address not in (_inline(table) or {}))])


def transport_problem(config: "Config", postfix: PostfixHost, lookup: TableLookup) -> tuple[bool, str] | None:
    """Return True and the route if transport_maps routes reports to the daemon, False and a sentence if not.

    None if reports are not received by LMTP.
    """
    transport = report_transport(config, postfix)
    if transport is None:
        return None
    if transport.startswith("lmtp:unix:/"):
        return False, f"receive.lmtp_socket is not below {postfix.queue}"
    address = _final_address(config, postfix, lookup)
    now = routed_transport(address, postfix.listed("transport_maps"), lookup)
    if now == transport:
        return True, f"{address} goes to {transport}"
    return False, f"{address} goes to {now or 'no transport of its own'}, not {transport}"


def routed_transport(address: str, tables: Sequence[str], lookup: TableLookup) -> str:
    """Return the transport that the tables have for the address (transport(5)); empty text if none has one."""
    return _first_value(tables, (address, address.partition("@")[2]), lookup)


def virtual_alias_maps(config: "Config", postfix: PostfixHost, lookup: TableLookup) -> str | None:
    """Return the value that virtual_alias_maps needs: its tables, preceded by one that keeps the report address.

    smtpd(8) accepts an address of this table, regardless of the tables of its domain. None if no table is needed, or
    none helps.
    """
    problem = recipient_problem(config, postfix, lookup)
    if problem is None or problem[0] is not False:
        return None
    address = report_address(config)
    domains = _domain_list(address, postfix, lookup)
    if domains is None or domains[0] == _ALIAS_DOMAINS:
        return None
    return ", ".join([f"inline:{{{address}={address}}}", *postfix.listed("virtual_alias_maps")])


def recipient_problem(config: "Config", postfix: PostfixHost, lookup: TableLookup) -> tuple[bool | None, str] | None:
    """Return True and a sentence if Postfix accepts mail for the report address and keeps it, False if not.

    None and a sentence if that is unknown. None if reports are not received by LMTP, or without postconf(1): main.cf
    does not have the defaults.
    """
    if report_transport(config, postfix) is None or postfix.version is None:
        return None
    address, domain = report_address(config), report_address(config).partition("@")[2]
    found = _domain_list(address, postfix, lookup)
    if found is None:
        return False, f"{domain} is in none of {', '.join(_CLASSES)}: Postfix rejects reports from other hosts"
    domains, listed = found
    if listed is None:
        return None, f"unknown: {domains} has a pattern with !, which is not evaluated"
    alias, final = _alias(address, postfix, lookup), _final_address(config, postfix, lookup)
    targets = _targets(address, alias)
    if final not in targets and any("@" not in target for target in targets):
        return None, f"unknown: virtual_alias_maps has {alias} for {address}, without a domain"
    if domains == _ALIAS_DOMAINS and final == address:
        text = f"alias {address} to an address of another domain, and name that one in transport_maps"
        return False, f"{domain} is in {domains}: {text}"
    if targets and final not in targets:
        return False, f"virtual_alias_maps rewrites {address} to {alias}, which does not go to this daemon"
    if targets:
        return True, f"virtual_alias_maps has {alias} for {address}"
    tables = postfix.listed(_CLASSES[domains])
    if not tables:
        return True, f"Postfix accepts every address in {domain}: {_CLASSES[domains]} is empty"
    if _first_value(tables, _recipient_keys(address, local=domains == "mydestination"), lookup):
        return True, f"{address} is in {_CLASSES[domains]}"
    return False, f"{address} is not in {_CLASSES[domains]}: Postfix rejects reports, as for an unknown user"


def _final_address(config: "Config", postfix: PostfixHost, lookup: TableLookup) -> str:
    """Return the first address of the alias whose mail comes here, or the report address if there is none."""
    address, transport = report_address(config), report_transport(config, postfix)
    tables = postfix.listed("transport_maps")
    targets = [target for target in _targets(address, _alias(address, postfix, lookup)) if "@" in target]
    return next((target for target in targets if routed_transport(target, tables, lookup) == transport), address)


def _alias(address: str, postfix: PostfixHost, lookup: TableLookup) -> str:
    local = _is_listed("mydestination", address.partition("@")[2], postfix, lookup) is True
    return _first_value(postfix.listed("virtual_alias_maps"), _recipient_keys(address, local=local), lookup)


def _targets(address: str, alias: str) -> list[str]:
    """Return the addresses that an alias of virtual(5) has; @domain stands for the same user there."""
    user = address.partition("@")[0]
    return [f"{user}{item}" if item.startswith("@") else item for item in re.findall(r"[^\s,]+", alias.lower())]


def _recipient_keys(address: str, *, local: bool) -> list[str]:
    """Return the keys of the address in the order in which Postfix looks for them."""
    user, _, domain = address.partition("@")
    return [address, *([user] if local else []), f"@{domain}"]


def _domain_list(address: str, postfix: PostfixHost, lookup: TableLookup) -> tuple[str, bool | None] | None:
    """Return the parameter that lists the domain of the address, which decides how Postfix treats it, and True.

    None instead of True if it is unknown whether this parameter lists it. None if no parameter lists it.
    """
    domain = address.partition("@")[2]
    listed = ((name, _is_listed(name, domain, postfix, lookup)) for name in _CLASSES)
    return next((found for found in listed if found[1] is not False), None)


def _is_listed(name: str, domain: str, postfix: PostfixHost, lookup: TableLookup) -> bool | None:
    """Return True if this list of main.cf has the domain: itself, in a table, or in a file of names.

    None if a pattern that begins with ! comes first. It excludes what it matches.
    """
    keys = [domain]
    if name == "relay_domains":
        # It has subdomains too: of example.com if the parameter names it, otherwise of .example.com only.
        dot = "" if name in postfix.listed("parent_domain_matches_subdomains") else "."
        keys += [dot + domain.split(".", count)[-1] for count in range(1, domain.count(".") + 1)]
    for pattern in _patterns(postfix.listed(name)):
        if pattern.startswith("!"):
            return None
        if pattern.lower() in keys or (":" in pattern and _first_value([pattern], keys, lookup)):
            return True
    return False


def _patterns(items: Sequence[str]) -> Iterator[str]:
    """Yield the patterns of a list, those of a file in place of its name."""
    for item in items:
        if not item.startswith("/"):
            yield item
            continue
        with suppress(OSError, UnicodeDecodeError):
            for line in Path(item).read_text("utf-8").splitlines():
                yield from re.findall(r"[^\s,]+", line.partition("#")[0])


def _first_value(tables: Sequence[str], keys: Sequence[str], lookup: TableLookup) -> str:
    for table in tables:
        entries = _inline(table)
        for key in keys:
            found = entries.get(key, "") if entries is not None else lookup(table, key)
            if found:
                return found
    return ""


def _inline(table: str) -> dict[str, str] | None:
    """Return the entries of an inline: table of postconf(5), or None for other tables."""
    match = _INLINE.match(table.strip())
    if match is None:
        return None
    entries = re.findall(r"\{\s*([^={}\s]+)\s*=\s*([^{}]*?)\s*\}|([^={},\s]+)\s*=\s*([^{},\s]+)", match[1])
    return {(braced or plain).lower(): value or other for braced, value, plain, other in entries}


def postmap_lookup(table: str, key: str) -> str:
    """Ask postmap(1)."""
    postmap = shutil.which("postmap", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if postmap is None:
        return ""
    try:
        found = subprocess.run(  # noqa: S603 - the table is one of main.cf
            [postmap, "-q", key, table], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return found.stdout.strip()
