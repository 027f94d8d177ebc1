"""The setting of main.cf with which Postfix delivers report mails to this daemon by LMTP."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .postfix_host import PostfixHost

if TYPE_CHECKING:
    from ..config import Config

__all__ = [
    "TransportLookup",
    "postmap_lookup",
    "report_address",
    "routed_transport",
    "transport_maps",
    "transport_problem",
]

_SYSTEMD_SOCKET = "run/tlsrpt-receive/lmtp.sock"

TransportLookup = Callable[[str, str], str]
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


def transport_maps(config: "Config", postfix: PostfixHost, lookup: TransportLookup) -> str | None:
    """Return the value that transport_maps needs: its tables, preceded by one of our own if none routes reports.

    None if reports are not received by LMTP.
    """
    transport, tables = report_transport(config, postfix), postfix.transport_tables
    if transport is None:
        return None
    address = report_address(config)
    if routed_transport(address, tables, lookup) == transport:
        return ", ".join(tables)
    own = f"inline:{{{address}={transport}}}"
    return ", ".join([own, *(table for table in tables if address not in (_inline(table) or {}))])


def transport_problem(config: "Config", postfix: PostfixHost, lookup: TransportLookup) -> tuple[bool, str] | None:
    """Return True and the route if transport_maps routes reports to the daemon, False and a sentence if not.

    None if reports are not received by LMTP.
    """
    transport = report_transport(config, postfix)
    if transport is None:
        return None
    if transport.startswith("lmtp:unix:/"):
        return False, f"receive.lmtp_socket is not below {postfix.queue}"
    address = report_address(config)
    now = routed_transport(address, postfix.transport_tables, lookup)
    if now == transport:
        return True, f"{address} goes to {transport}"
    return False, f"{address} goes to {now or 'no transport of its own'}, not {transport}"


def routed_transport(address: str, tables: Sequence[str], lookup: TransportLookup) -> str:
    """Return the transport that the tables have for the address (transport(5)); empty text if none has one."""
    for table in tables:
        entries = _inline(table)
        for key in (address, address.partition("@")[2]):
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
