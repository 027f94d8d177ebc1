"""systemd: inherited sockets, readiness, watchdog. Needs no library, and works without systemd.

``listen_fds`` takes over the sockets of sd_listen_fds(3); ``Notifier`` speaks sd_notify(3);
``watchdog_interval`` reads the variables of sd_watchdog_enabled(3). Without systemd all three do nothing.
Malformed variables never raise an exception.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Final, Literal, NamedTuple

__all__ = [
    "ActivatedSocket",
    "Activation",
    "Notifier",
    "inherited_names",
    "listen_address",
    "listen_fds",
    "notify_address",
    "watchdog_interval",
]

LookupProtocol = Literal["socketmap", "tcp_table"]

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_MAX_FDS: Final = 64
_LISTEN_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_TLSRPT: Final = "tlsrpt"
_PUBLIC: Final = "public"
_PUBLIC_TLS: Final = "public-https"
_LMTP: Final = "lmtp"
_UNNAMED: Final = "unknown"  # what sd_listen_fds_with_names(3) calls a socket without a name

_MAX_STATUS: Final = 512  # bytes of UTF-8; more than a terminal shows
_SEND_TIMEOUT: Final = 0.2  # seconds to wait for a service manager that does not read


# -- inherited sockets -------------------------------------------------------------------------------------


class ActivatedSocket(NamedTuple):
    """A listening stream socket that the service manager opened, and the protocol to speak on it.

    ``name`` is the socket unit's FileDescriptorName. ``address`` is written as in the configuration's ``listen``:
    ``inet:127.0.0.1:8461``, ``inet:[::1]:8461`` or ``unix:/path``; an abstract Unix socket begins with ``@``.
    """

    name: str
    protocol: LookupProtocol
    sock: socket.socket
    address: str

    @property
    def listen(self) -> str:
        """The ``listen`` entry that would open the same socket, to recognize a configured duplicate."""
        if self.protocol == "tcp_table":
            return f"tcp_table:{self.address.removeprefix('inet:')}"
        return f"socketmap:{self.address}"


class PublicSocket(NamedTuple):
    """A listening stream socket for the public HTTP server; ``tls`` for HTTPS."""

    sock: socket.socket
    address: str
    tls: bool


class Activation(NamedTuple):
    """The inherited sockets, and warnings about sockets that were rejected."""

    sockets: tuple[ActivatedSocket, ...] = ()
    warnings: tuple[str, ...] = ()
    tlsrpt: tuple[socket.socket, ...] = ()
    """Unix datagram sockets for TLS results."""
    public: tuple[PublicSocket, ...] = ()
    lmtp: tuple[socket.socket, ...] = ()
    """Unix stream sockets for received TLS reports."""


def listen_fds(environ: MutableMapping[str, str], pid: int) -> Activation:
    """Take over the sockets passed to process ``pid``, once: the variables are removed from ``environ``.

    A socket whose name begins with tlsrpt must be a Unix datagram socket, any other a listening stream socket;
    otherwise it is closed, with a warning. Names that begin with public are for the public HTTP server, those with
    public-https for HTTPS. At most 64 are taken.
    """
    names, problem = inherited_names({key: environ.pop(key) for key in _LISTEN_VARIABLES if key in environ}, pid)
    sockets: list[ActivatedSocket] = []
    tlsrpt: list[socket.socket] = []
    public: list[PublicSocket] = []
    lmtp: list[socket.socket] = []
    warnings = [problem] if problem else []
    for fd, name in enumerate(names, start=_FIRST_FD):
        protocol, for_tlsrpt = _protocol_for(name), name.startswith(_TLSRPT)
        try:
            taken = _take(fd, _check_datagram if for_tlsrpt else _check_listening)
        except OSError as error:
            warnings.append(f"inherited socket {fd} ({name!a}) is closed: {error.strerror or error}")
            continue
        if for_tlsrpt:
            tlsrpt.append(taken)
            continue
        if name.startswith(_PUBLIC):
            address = f"systemd:{listen_address(taken.family, taken.getsockname())}"
            public.append(PublicSocket(taken, address, name.startswith(_PUBLIC_TLS)))
            continue
        if name.startswith(_LMTP):
            lmtp.append(taken)
            continue
        if protocol is None:
            warnings.append(
                f"inherited socket {fd} ({name!a}) is taken for socketmap: its name begins with none of "
                "socketmap, tcp_table, tlsrpt, public and lmtp"
            )
        sockets.append(
            ActivatedSocket(name, protocol or "socketmap", taken, listen_address(taken.family, taken.getsockname()))
        )
    return Activation(tuple(sockets), tuple(warnings), tuple(tlsrpt), tuple(public), tuple(lmtp))


def inherited_names(environ: Mapping[str, str], pid: int) -> tuple[list[str], str]:
    """Return the name of each descriptor passed to ``pid``, from 3 on, and a problem of the variables, if any."""
    # A parent may have left its own variables; that is not an error.
    if _number(environ.get("LISTEN_PID", "")) != pid:
        return [], ""
    count = _number(environ.get("LISTEN_FDS", ""))
    if count is None:
        return [], "LISTEN_FDS is not a number; no socket is inherited"
    taken = min(count, _MAX_FDS)
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else []
    if names and len(names) != count:
        return [_UNNAMED] * taken, f"LISTEN_FDNAMES has {len(names)} names for {count} sockets; all count as unnamed"
    problem = "" if taken == count else f"LISTEN_FDS is {count}; the first {taken} sockets are inherited"
    return names[:taken] or [_UNNAMED] * taken, problem


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _protocol_for(name: str) -> LookupProtocol | None:
    if name.startswith("socketmap"):
        return "socketmap"
    return "tcp_table" if name.startswith("tcp_table") else None


def _take(fd: int, check: Callable[[socket.socket], None]) -> socket.socket:
    """Own ``fd`` as a socket that no child inherits; closes it and raises OSError if ``check`` does."""
    try:
        taken = socket.socket(fileno=fd)
    except OSError:
        with suppress(OSError):  # it may never have been open
            os.close(fd)
        raise
    try:
        check(taken)
        taken.set_inheritable(False)
    except OSError:
        taken.close()
        raise
    return taken


def _check_listening(sock: socket.socket) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise OSError("it is neither an Internet nor a Unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise OSError("it is not a stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError("it is not listening")


def _check_datagram(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_DGRAM:
        raise OSError("it is not a Unix datagram socket")


def listen_address(family: int, name: object) -> str:
    """Return the result of ``getsockname`` in the form of the configuration's ``listen``."""
    match name:
        case str() | bytes():
            path = os.fsdecode(name)
            return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"
        case (host, port, *_):
            return f"inet:[{host}]:{port}" if family == socket.AF_INET6 else f"inet:{host}:{port}"
    return "unknown"


# -- readiness and watchdog --------------------------------------------------------------------------------


def notify_address(environ: Mapping[str, str]) -> str | None:
    """Return the address for notifications, for ``sendto``, or None without a service manager."""
    address = environ.get("NOTIFY_SOCKET", "")
    # An abstract socket is written with @ for its leading zero byte. Other forms (vsock:) are for virtual machines.
    if address.startswith("@"):
        return "\0" + address[1:]
    return address if address.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return seconds between two ``Notifier.watchdog`` calls: half of WatchdogSec. None: no watchdog."""
    usec = _number(environ.get("WATCHDOG_USEC", ""))
    if not usec or _number(environ.get("WATCHDOG_PID", str(pid))) != pid:
        return None
    return usec / 2_000_000


class Notifier:
    """Notifies the service manager. Without one, or if it does not read, does nothing.

    Each method waits at most 0.2 s and never raises. It returns True if the message was sent.
    """

    def __init__(self, address: str | None, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._address = address
        self._monotonic_ns = monotonic_ns
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_SEND_TIMEOUT)

    def ready(self, status: str = "") -> bool:
        """Report that the start or a reload is complete."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """Report the start of a reload; ``ready`` ends it, successful or not."""
        # Type=notify-reload requires the time, to distinguish the READY of two reloads.
        return self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Report the start of the shutdown."""
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """Set the line of ``systemctl status``: at most 512 bytes, control characters replaced by blanks."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Report that the daemon is alive. Call this every ``watchdog_interval`` seconds."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None or self._address is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False  # the daemon does not depend on it
        return True


def _status(text: str) -> tuple[str, ...]:
    """Return the STATUS line: valid UTF-8, printable, bounded. Empty without text."""
    line = "".join(character if character.isprintable() else " " for character in text[:_MAX_STATUS])
    line = line.encode()[:_MAX_STATUS].decode("utf-8", "ignore")
    return (f"STATUS={line}",) if line else ()
