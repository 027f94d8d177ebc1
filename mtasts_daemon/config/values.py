"""Types of configuration values; ``str`` writes each as an operator does.

Every ``parse`` accepts any YAML value and raises ``BadValue`` if it cannot be used.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import ClassVar, Literal

from ..text import sanitize
from .problems import BadValue

__all__ = [
    "Duration",
    "FileMode",
    "HostPort",
    "Listen",
    "Network",
    "ProbeQuery",
    "ServerAddress",
    "Size",
    "describe",
    "host_and_port",
    "network",
    "path",
    "plain",
]

Network = IPv4Network | IPv6Network


def describe(value: object) -> str:
    """Return a YAML value as quoted in messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a section"
    return f'"{sanitize(value)}"' if isinstance(value, str) else sanitize(str(value))


def _text(value: object, example: str) -> str:
    if isinstance(value, str):
        return value
    raise BadValue(f"must be text, not {describe(value)}", f'write it as "{example}"')


class Duration(float):
    """A duration in seconds, written in weeks, days, hours, minutes and seconds: ``1d12h``, ``90s``, ``0.5s``."""

    PATTERN = r"^(?=.)([0-9]{1,6}w)?([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,9}(\.[0-9]{1,3})?s)?$"
    _FORM = re.compile(PATTERN.replace("$", r"\Z"))
    _UNITS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """Parse text. A number without a unit is rejected."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise BadValue(f"{describe(value)} has no unit", f'for seconds write "{value}s"')
        text = _text(value, "5s")
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text):
            raise BadValue(f"{describe(text)} has no unit", f'for seconds write "{text}s"')
        match = cls._FORM.match(text)
        if match is None:
            raise BadValue(f"{describe(text)} is not a time", 'write it as "90s", "5m", "4h", "30d" or "1d12h"')
        parts = (*match.groups()[:4], match[5])
        return cls(sum(float(part[:-1]) * unit for part, (_, unit) in zip(parts, cls._UNITS, strict=True) if part))

    def __str__(self) -> str:
        left, text = float(self), ""
        for unit, seconds in self._UNITS[1:-1]:
            count, left = divmod(left, seconds)
            text += f"{count:.0f}{unit}" if count else ""
        return f"{text}{left:.3f}".rstrip("0").rstrip(".") + "s" if left or not text else text


class Size(int):
    """A number of bytes, written in B, KiB, MiB, GiB or TiB: ``64KiB``."""

    PATTERN = r"^[0-9]{1,15}([KMGT]i)?B$"
    _FORM = re.compile(r"([0-9]{1,15})([KMGT]i)?B\Z")
    _UNITS: ClassVar = {"Ti": 1 << 40, "Gi": 1 << 30, "Mi": 1 << 20, "Ki": 1 << 10, "": 1}

    @classmethod
    def parse(cls, value: object) -> "Size":
        """Parse text. A number without a unit is rejected."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise BadValue(f"{describe(value)} has no unit", f'for bytes write "{value}B"')
        text = _text(value, "64KiB")
        match = cls._FORM.match(text)
        if match is None:
            raise BadValue(f"{describe(text)} is not a size", 'write it as "64KiB", "64MiB" or "1GiB"')
        return cls(int(match[1]) * cls._UNITS[match[2] or ""])

    def __str__(self) -> str:
        name, unit = next((name, unit) for name, unit in self._UNITS.items() if int(self) % unit == 0)
        return f"{int(self) // unit}{name}B"


class FileMode(int):
    """A file's permissions, written in octal and in quotes: ``"0660"``."""

    PATTERN = r"^0?[0-7]{3}$"
    _FORM = re.compile(r"0?[0-7]{3}\Z")

    @classmethod
    def parse(cls, value: object) -> "FileMode":
        """Parse text. A number is rejected because it is not clear whether it is octal."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise BadValue(f"{value} is a number", 'write permissions in octal and in quotes: "0660"')
        text = _text(value, "0660")
        if not cls._FORM.match(text):
            raise BadValue(f"{describe(text)} is not permissions", 'write them in octal and in quotes: "0660"')
        return cls(int(text, 8))

    def __str__(self) -> str:
        return f"{int(self):04o}"


_HOST_NAME = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z"
)
_PORT = re.compile(r"[0-9]{1,5}\Z")


def _port(text: str, least: int) -> int:
    if not _PORT.match(text) or not least <= int(text) <= 65535:
        raise BadValue(f"{describe(text)} is not a port", f"ports are {least} to 65535")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise BadValue(f"{describe(text)} is not an IP address") from None


def _bracketed(text: str) -> tuple[str, str] | None:
    """Split ``[IPv6]rest`` into its two parts. Return None without brackets."""
    if not text.startswith("["):
        return None
    inside, closing, rest = text[1:].partition("]")
    if not closing or ":" not in inside:
        raise BadValue(f"{describe(text)} is not an IPv6 address in brackets", 'write it as "[::1]:8461"')
    return _address(inside), rest


@dataclass(frozen=True, slots=True)
class Listen:
    """A listener for lookups: the protocol, and ``host`` and ``port`` or the ``path`` of a Unix socket."""

    protocol: Literal["socketmap", "tcp_table"]
    host: str = ""
    port: int = 0
    """0 lets the system choose."""
    path: str = ""

    PATTERN = r"^(socketmap:inet:.+:[0-9]{1,5}|socketmap:unix:[^:]+|tcp_table:.+:[0-9]{1,5})$"

    @classmethod
    def parse(cls, value: object) -> "Listen":
        """Parse ``socketmap:inet:HOST:PORT``, ``socketmap:unix:PATH`` or ``tcp_table:HOST:PORT``."""
        text = _text(value, "socketmap:inet:127.0.0.1:8461")
        if text.startswith("socketmap:inet:"):
            return cls("socketmap", *host_and_port(text.removeprefix("socketmap:inet:")))
        if text.startswith("socketmap:unix:"):
            return cls("socketmap", path=_socket_path(text.removeprefix("socketmap:unix:")))
        if text.startswith("tcp_table:"):
            return cls("tcp_table", *host_and_port(text.removeprefix("tcp_table:")))
        raise BadValue(
            f"{describe(text)} is not a listener",
            "write socketmap:inet:HOST:PORT, socketmap:unix:PATH or tcp_table:HOST:PORT",
        )

    def conflicts(self, other: "Listen") -> bool:
        """Return True if both cannot be open at the same time."""
        if self.path or other.path:
            return self.path == other.path
        return self.port != 0 and (self.host, self.port) == (other.host, other.port)

    def __str__(self) -> str:
        if self.path:
            return f"socketmap:unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'socketmap:inet' if self.protocol == 'socketmap' else 'tcp_table'}:{host}:{self.port}"


def host_and_port(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; an IPv6 address is in brackets. Raises ``BadValue``."""
    found = _bracketed(text)
    if found is not None:
        host, rest = found
        if not rest.startswith(":"):
            raise BadValue(f"{describe(text)} has no port", 'write it as "[::1]:8461"')
        return host, _port(rest[1:], 0)
    parts = text.split(":")
    if len(parts) == 3 and _PORT.match(parts[1]):
        raise BadValue(f"{describe(text)} names a map", f"leave out :{sanitize(parts[2])}, which belongs in main.cf")
    if len(parts) > 2:
        raise BadValue(f"{describe(text)} is not HOST:PORT", 'write an IPv6 address in brackets: "[::1]:8461"')
    if len(parts) == 1:
        raise BadValue(f"{describe(text)} has no port", 'write it as "127.0.0.1:8461"')
    host = parts[0]
    if host in ("", "*"):
        raise BadValue(f"{describe(text)} has no host", "for every address write 0.0.0.0, or [::]")
    if len(host) > 253 or not _HOST_NAME.match(host):
        raise BadValue(f"{describe(host)} is not a host name or an IP address")
    is_number = host.rpartition(".")[2].isdigit()
    return _address(host) if is_number else host.lower(), _port(parts[1], 0)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host and a TCP port. For a listener, port 0 lets the system choose."""

    host: str
    port: int

    PATTERN = r"^.+:[0-9]{1,5}$"

    @classmethod
    def parse(cls, value: object) -> "HostPort":
        """Parse ``HOST:PORT``, IPv6 addresses in brackets."""
        if not isinstance(value, str):
            raise BadValue("must be text", 'write it as "127.0.0.1:8463"')
        return cls(*host_and_port(value))

    @property
    def loopback(self) -> bool:
        """Return True if only this host can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_MAX_SOCKET_PATH = 107  # sun_path of Linux less its final NUL; unix(7)


def _socket_path(text: str) -> str:
    if ":" in text:
        raise BadValue(f"{describe(text)} holds a colon", "leave out the map name, which belongs in main.cf")
    if not text or text.endswith("/"):
        raise BadValue(f"{describe(text)} is not the path of a socket")
    if len(text.encode()) > _MAX_SOCKET_PATH:
        raise BadValue(
            f"the path is longer than {_MAX_SOCKET_PATH} bytes",
            "use a shorter path: the system limits those of sockets",
        )
    return text


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A resolver's address and port."""

    address: str
    port: int = 53

    PATTERN = r"^(\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9.]+(:[0-9]{1,5})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$"

    @classmethod
    def parse(cls, value: object) -> "ServerAddress":
        """Parse ``ADDRESS`` or ``ADDRESS:PORT``; IPv6 with a port in brackets."""
        text = _text(value, "127.0.0.1:53")
        found = _bracketed(text)
        if found is not None:
            address, rest = found
            if rest and not rest.startswith(":"):
                raise BadValue(f"{describe(text)} is not ADDRESS:PORT", 'write it as "[::1]:53"')
            return cls(address, _port(rest[1:], 1)) if rest else cls(address)
        address, colon, port = text.partition(":")
        if ":" in port or not colon:
            return cls(_address(text))
        return cls(_address(address), _port(port, 1))

    def __str__(self) -> str:
        if self.port == 53:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProbeQuery:
    """A DNS question. ``rrtype`` is in upper case; ``name`` has no final dot, and is empty for the root."""

    rrtype: Literal["A", "AAAA", "MX", "NS", "TXT"]
    name: str

    PATTERN = r"^(a|aaaa|mx|ns|txt):[A-Za-z0-9._-]+$"

    @classmethod
    def parse(cls, value: object) -> "ProbeQuery":
        """Parse ``TYPE:NAME``."""
        text = _text(value, "ns:.")
        rrtype, colon, name = text.partition(":")
        labels = name.removesuffix(".").split(".") if name != "." else []
        if not colon or not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name) or not all(0 < len(x) < 64 for x in labels):
            raise BadValue(f"{describe(text)} is not a DNS question", 'write it as "ns:." or "txt:example.com"')
        match rrtype.upper():
            case "A" | "AAAA" | "MX" | "NS" | "TXT" as known:
                return cls(known, name.lower().removesuffix("."))
        raise BadValue(f"{describe(rrtype)} is not a record type to ask for", "write one of a, aaaa, mx, ns, txt")

    def __str__(self) -> str:
        return f"{self.rrtype.lower()}:{self.name or '.'}"


def network(value: object) -> Network:
    """Parse ``ADDRESS/BITS`` or one address."""
    if isinstance(value, Network):
        return value
    text = _text(value, "192.0.2.0/24")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise BadValue(f"{describe(text)} is not a network", 'write it as "192.0.2.0/24" or "2001:db8::/32"') from None
    raise BadValue(f"{describe(text)} has bits set after the network's", f'write "{meant}"')


def path(value: object) -> Path:
    """Parse text. A relative path starts in the working directory."""
    if isinstance(value, Path):
        return value
    text = _text(value, "/etc/mtasts-daemon/file")
    if not text or text.startswith("~"):
        raise BadValue(f"{describe(text)} is not a path", "write the absolute path")
    return Path(text)


def plain(value: object) -> object:
    """Return a value as YAML or JSON stores it."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value)
