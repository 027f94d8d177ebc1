"""systemd's side of the daemon: inherited sockets, readiness, watchdog. Needs no library and no systemd.

``listen_fds`` takes over the sockets of sd_listen_fds(3); ``Notifier`` speaks sd_notify(3);
``watchdog_interval`` reads what sd_watchdog_enabled(3) reads. Without systemd all three find nothing to do.
The environment is trusted for its intent, never for its form: whatever it holds, nothing here raises.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

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
_UNNAMED: Final = "unknown"  # what sd_listen_fds_with_names(3) calls a socket without a name

_MAX_STATUS: Final = 512  # bytes of UTF-8; more than a terminal shows
_PATIENCE: Final = 0.2  # seconds to wait for a service manager that does not read


# -- inherited sockets -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ActivatedSocket:
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
        """The ``listen`` entry that would open this very socket, to tell a configured twin by."""
        if self.protocol == "tcp_table":
            return f"tcp_table:{self.address.removeprefix('inet:')}"
        return f"socketmap:{self.address}"


@dataclass(frozen=True, slots=True)
class PublicSocket:
    """A listening stream socket for the public HTTP server; ``tls`` for HTTPS."""

    sock: socket.socket
    address: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Activation:
    """The sockets taken over, and sentences for the operator about those that were odd."""

    sockets: tuple[ActivatedSocket, ...] = ()
    warnings: tuple[str, ...] = ()
    tlsrpt: tuple[socket.socket, ...] = ()
    """Unix datagram sockets for TLS results."""
    public: tuple[PublicSocket, ...] = ()


def listen_fds(environ: MutableMapping[str, str], pid: int) -> Activation:
    """Take over the sockets passed to process ``pid``, once: the variables are removed from ``environ``.

    One whose name begins with tlsrpt has to be a Unix datagram socket, any other a listening stream socket; what is
    not is closed, with a warning. Names that begin with public are for the public HTTP server, with public-https for
    HTTPS. At most 64 are taken.
    """
    names, problem = inherited_names({key: environ.pop(key) for key in _LISTEN_VARIABLES if key in environ}, pid)
    sockets: list[ActivatedSocket] = []
    tlsrpt: list[socket.socket] = []
    public: list[PublicSocket] = []
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
        if protocol is None:
            warnings.append(
                f"inherited socket {fd} ({name!a}) is taken for socketmap: its name begins with none of "
                "socketmap, tcp_table, tlsrpt and public"
            )
        sockets.append(
            ActivatedSocket(name, protocol or "socketmap", taken, listen_address(taken.family, taken.getsockname()))
        )
    return Activation(tuple(sockets), tuple(warnings), tuple(tlsrpt), tuple(public))


def inherited_names(environ: Mapping[str, str], pid: int) -> tuple[list[str], str]:
    """The name of each descriptor passed to ``pid``, from 3 on, and what is wrong with the variables, if anything."""
    # The variables of a parent that did not clear them are not for us, and no mistake either.
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
    """The socket name that ``getsockname`` gave, as in the configuration's ``listen``."""
    match name:
        case str() | bytes():
            path = os.fsdecode(name)
            return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"
        case (host, port, *_):
            return f"inet:[{host}]:{port}" if family == socket.AF_INET6 else f"inet:{host}:{port}"
    return "unknown"


# -- readiness and watchdog --------------------------------------------------------------------------------


def notify_address(environ: Mapping[str, str]) -> str | None:
    """Where to send notifications, fit for ``sendto``; None without a service manager."""
    address = environ.get("NOTIFY_SOCKET", "")
    # An abstract socket is written with @ for its leading zero byte. Other forms (vsock:) are for virtual machines.
    if address.startswith("@"):
        return "\0" + address[1:]
    return address if address.startswith("/") else None


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two ``Notifier.watchdog`` calls: half of what the unit allows. None: none are expected."""
    usec = _number(environ.get("WATCHDOG_USEC", ""))
    if not usec or _number(environ.get("WATCHDOG_PID", str(pid))) != pid:
        return None
    return usec / 2_000_000


class Notifier:
    """Tells the service manager how the daemon is. Without one, or when it does not listen, does nothing.

    Each method waits 0.2 s at most and never raises; the return value says whether the message was taken.
    """

    def __init__(self, address: str | None, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._address = address
        self._monotonic_ns = monotonic_ns
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_PATIENCE)

    def ready(self, status: str = "") -> bool:
        """Start-up is complete, or a reload is."""
        return self._send("READY=1", *_status(status))

    def reloading(self) -> bool:
        """A reload begins; ``ready`` ends it, whatever its outcome."""
        # systemd tells this reload's READY from an older one by CLOCK_MONOTONIC; Type=notify-reload insists on it.
        return self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Shut-down begins."""
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``; cut at 512 bytes, control characters made blanks."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """The daemon is alive; to be called every ``watchdog_interval`` seconds."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._socket is None or self._address is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False  # nothing the daemon does depends on being heard
        return True


def _status(text: str) -> tuple[str, ...]:
    """The STATUS line: valid UTF-8, printable, bounded; none for an empty text."""
    line = "".join(character if character.isprintable() else " " for character in text[:_MAX_STATUS])
    line = line.encode()[:_MAX_STATUS].decode("utf-8", "ignore")
    return (f"STATUS={line}",) if line else ()
