"""The public listener: what may be written below ``public``."""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, StrictBool, field_validator, model_validator

from ..fields import Count, FilePath, Networks, Section, parse_field
from ..problems import BadValue, Unresolved
from ..values import FileMode, Listen, describe, host_and_port

__all__ = ["CertificateSettings", "PublicListen", "PublicSettings"]

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class PublicListen:
    """Where to listen: ``path`` of a Unix socket, or ``host`` and ``port``; ``tls`` for HTTPS."""

    tls: bool
    host: str = ""
    port: int = 0
    path: str = ""

    PATTERN = r"^(https?:.+:[0-9]{1,5}|http:unix:[^:]+)$"

    @classmethod
    def parse(cls, value: object) -> "PublicListen":
        """Read ``http:HOST:PORT``, ``https:HOST:PORT`` or ``http:unix:PATH``."""
        text = value if isinstance(value, str) else ""
        if text.startswith("http:unix:"):
            return cls(False, path=Listen.parse(f"socketmap:unix:{text.removeprefix('http:unix:')}").path)
        for scheme in ("http:", "https:"):
            if text.startswith(scheme) and not text.startswith(f"{scheme}//"):
                return cls(scheme == "https:", *host_and_port(text.removeprefix(scheme)))
        raise BadValue(
            f"{describe(value)} is not a public listener",
            "write http:HOST:PORT, https:HOST:PORT or http:unix:PATH",
        )

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        if self.path:
            return f"{scheme}:unix:{self.path}"
        return f"{scheme}:[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}:{self.host}:{self.port}"


class CertificateSettings(Section):
    """A certificate for https listeners."""

    certificate_file: FilePath = Field(
        description="The certificate chain in PEM form, such as fullchain.pem of certbot. It is loaded again when the "
        "file changes."
    )
    key_file: FilePath = Field(description="The private key in PEM form, such as privkey.pem of certbot.")


class PublicSettings(Section):
    """The HTTP server that strangers may reach. Off without a listener."""

    listen: Annotated[tuple[Annotated[PublicListen, parse_field(PublicListen)], ...], Field(max_length=16)] = Field(
        default=(),
        description="Where policies, report intake and the check page are served: http:HOST:PORT or http:unix:PATH "
        "behind a reverse proxy, https:HOST:PORT with certificates.",
    )
    unix_mode: Annotated[FileMode, parse_field(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of Unix sockets of listen, in octal and in quotes."
    )
    certificates: Annotated[tuple[CertificateSettings, ...], Field(max_length=4096)] = Field(
        default=(),
        description="Certificates for https listeners. Each client gets the one for the name that it asks for, "
        "otherwise the first.",
    )
    trusted_proxies: Networks = Field(
        default=_LOOPBACK,
        max_length=64,
        description="Networks of reverse proxies, whose X-Forwarded-For is believed and which may ask for /ask.",
    )
    max_connections: Count = Field(
        default=1024,
        ge=8,
        le=65536,
        description="Connections at the same time; beyond that the one idle longest is closed.",
    )

    check: StrictBool = Field(
        default=False, description="Let strangers check domains at /check. Each check connects to port 25 from here."
    )

    @field_validator("listen")
    @classmethod
    def _no_repeats(cls, value: tuple[PublicListen, ...]) -> tuple[PublicListen, ...]:
        places = [(one.host, one.port, one.path) for one in value]
        for position, place in enumerate(places):
            if place in places[:position] and place[1:] != (0, ""):
                raise BadValue(f"{value[position]} uses an address that is listed before", "remove one")
        return value

    @model_validator(mode="after")
    def _with_certificates(self) -> "PublicSettings":
        if any(one.tls for one in self.listen) and not self.certificates:
            raise Unresolved("an https listener needs a certificate", "add certificates")
        return self
