"""Tables of smtp_tls_policy_maps that ask this daemon, and whether a connection to them succeeds."""

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .postfix_host import PostfixHost

if TYPE_CHECKING:
    from ..config import Config
    from ..config.values import Listen

__all__ = ["TableProbe", "file_mode", "own_tables", "path_in_queue", "probe_tables", "uses_daemon"]

# The sockets of the packaged systemd units, as main.cf names them: relative to the queue directory.
_SYSTEMD_LOOKUP = "run/mtasts/lookup.sock"
_TIMEOUT = 5.0
"""Seconds. Postfix waits 100 s for a reply (socketmap_table(5)), but the daemon answers cached names at once."""
_PROBE_KEY = "."
"""A name that never has a policy, so the reply needs no I/O; Postfix does not look up ``.``."""


def uses_daemon(table: str) -> bool:
    """Return True if the table is served by a daemon, this one or another."""
    return table.startswith(("socketmap:", "tcp:"))


def own_tables(config: "Config", postfix: PostfixHost) -> list[str]:
    """Return the tables that ask this daemon, the preferred one first."""
    # An older Postfix defers all mail if it gets the attributes of a newer one.
    name = "postfix-tlsrpt" if postfix.knows_tlsrpt else "postfix"
    systemd = f"socketmap:unix:{_SYSTEMD_LOOKUP}:{name}"
    # A Unix socket of systemd loses no lookup during a restart.
    found = [systemd] if not config.listen or stat.S_ISSOCK(file_mode(postfix.queue / _SYSTEMD_LOOKUP)) else []
    for listen in sorted(config.listen, key=lambda listen: (listen.protocol != "socketmap", not listen.path)):
        if listen.path:
            found.append(f"socketmap:unix:{path_in_queue(listen.path, postfix)}:{name}")
        elif listen.protocol == "socketmap":
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - to connect to
            found.append(f"socketmap:inet:{f'[{host}]' if ':' in host else host}:{listen.port}:{name}")
        else:
            found.append(f"tcp:{listen.host}:{listen.port}")
    return found


def path_in_queue(path: str, postfix: PostfixHost) -> str:
    """Return the path relative to the queue directory, as smtp(8) finds it whether chrooted or not."""
    return path.removeprefix(f"{postfix.queue}/")


def file_mode(path: Path) -> int:
    """Return st_mode of the file; 0 if it cannot be seen."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class TableProbe:
    """One table of main.cf.

    ``ok`` is None if this user cannot find out. ``detail`` is what was found, with what to do if it failed.
    """

    table: str
    ok: bool | None
    detail: str


def probe_tables(postfix: PostfixHost, timeout: float = _TIMEOUT) -> Iterator[TableProbe]:
    """Connect to each daemon that smtp_tls_policy_maps names, as smtp(8) would, and ask one question."""
    from ..errors import ConfigError, FrameError
    from .lookup_client import ask

    for table in filter(uses_daemon, postfix.tables):
        try:
            listen, name = _address(table, postfix)
        except (ConfigError, ValueError):
            yield TableProbe(table, False, "not an address as socketmap_table(5) and tcp_table(5) describe it")
            continue
        try:
            # Only Unix sockets have permissions. Looking up a host may import modules that this user cannot read.
            with _as_user(postfix.user) if listen.path else nullcontext():
                ask(listen, name, _PROBE_KEY, timeout)
        except (OSError, FrameError) as error:
            if isinstance(error, PermissionError) and os.geteuid() != 0:
                yield TableProbe(table, None, "not checked: this user may not connect to it; run this as root")
            else:
                yield TableProbe(table, False, _why(error, table, postfix))
        else:
            yield TableProbe(table, True, "answers")


@contextmanager
def _as_user(name: str) -> Iterator[None]:
    """Use the access rights of this user, if root runs this process and the user exists.

    The process has one thread. Root may connect to every socket, so that a missing permission would not show.
    """
    try:
        user = pwd.getpwnam(name) if os.geteuid() == 0 else None
    except KeyError:
        user = None
    if user is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _address(table: str, postfix: PostfixHost) -> "tuple[Listen, str]":
    """Return the address to connect to and the map name. Raise ValueError or ConfigError."""
    from ..config.values import Listen

    if table.startswith("tcp:"):
        return Listen.parse(f"tcp_table:{table.removeprefix('tcp:')}"), ""
    address, _, name = table.rpartition(":")
    if address.startswith("socketmap:unix:"):
        # smtp(8) runs in the queue directory; if chrooted, that is also its root.
        path = address.removeprefix("socketmap:unix:")
        base = postfix.queue if postfix.chrooted else Path("/")
        whole = base / path.lstrip("/") if path.startswith("/") else postfix.queue / path
        return Listen.parse(f"socketmap:unix:{whole}"), name
    return Listen.parse(address), name


def _why(error: Exception, table: str, postfix: PostfixHost) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    number = getattr(error, "errno", None)
    unit = "mtasts-daemon-postfix.socket" if _SYSTEMD_LOOKUP in table else "mtasts-daemon.socket"
    if isinstance(error, TimeoutError):
        return "no reply in time: the daemon hangs or is starting; see journalctl -u mtasts-daemon -e"
    if number == errno.ENOENT:
        return f"{reason}: the socket is missing; run systemctl restart {unit}, or restart the daemon"
    if number == errno.ECONNREFUSED:
        return f"{reason}: no process listens; run systemctl start {unit}, or start the daemon"
    if isinstance(error, PermissionError):
        return f"{reason}: the user {postfix.user} may not connect; check unix_mode, or SocketGroup= of the unit"
    return f"{reason}; is it mtasts-daemon that listens there?"
