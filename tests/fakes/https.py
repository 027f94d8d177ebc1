"""An HTTPS policy host for any number of ``mta-sts.*`` names, distinguished by SNI, behaving well or badly.

In a test:

    async with PolicyHost(Ca(tmp_path), {"example.com": Behaviour()}) as host:
        ...  # host.port; host.behaviours["example.com"] = Behaviour(status=503); host.requests

By hand, on any address and port (``--port 443`` needs the right to bind it):

    python -m tests.fakes.https --address 127.0.0.1 --port 8443 --ca-dir DIR policies.yml

where DIR gets ``ca.pem`` for ``https.ca_file``, and ``policies.yml`` maps policy domains (``"*"`` stands for all
others) to the fields of ``Behaviour``, all optional. SIGHUP reads the file again; SIGTERM ends.

    example.com:
      body: "version: STSv1\\nmode: enforce\\nmx: mx.example.com\\nmax_age: 86400\\n"
    slow.example:
      manner: hang
    expired.example:
      certificate: expired
    "*": {}
"""

import argparse
import asyncio
import gzip
import signal
import socket
import ssl
import struct
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import yaml

from tests.fakes.ca import Ca, Flaw
from tests.fakes.tls import ServerTls, client_hello_sni

__all__ = ["Behaviour", "Framing", "Manner", "PolicyHost", "Request", "load"]

POLICY = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"
"""The default policy."""


class Manner(StrEnum):
    """The behaviour towards a client. The last four concern the handshake, the others the response."""

    ANSWER = "answer"
    HANG = "hang"
    """Never send a byte."""
    HANG_MID_BODY = "hang-mid-body"
    """The headers and half of the body, then nothing."""
    DRIP = "drip"
    """The whole response, one byte every ``interval``."""
    CLOSE = "close"
    """Close the connection without a response."""
    CLOSE_MID_BODY = "close-mid-body"
    RESET = "reset"
    GARBAGE = "garbage"
    """Bytes that are not HTTP."""
    NO_CLOSE_NOTIFY = "no-close-notify"
    """The whole response, then a TCP FIN without close_notify."""
    TLS11 = "tls-1.1"
    """TLS 1.1 is the highest version."""
    HANG_TLS = "hang-tls"
    """Never answer the ClientHello."""
    RESET_TLS = "reset-tls"
    """Reset the connection after the ClientHello."""
    CLOSE_TLS = "close-tls"
    """Close the connection after the ClientHello."""
    NOT_TLS = "not-tls"
    """Answer the ClientHello in plain HTTP."""


class Framing(StrEnum):
    """How the body's end is marked."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of one policy host. ``path`` other than the two well-known ones is always 404."""

    body: bytes = POLICY
    """Served at /.well-known/mta-sts.txt, with ``status``."""
    status: int = 200
    reason: str = "Reason"
    trailing: bytes = b""
    """Bytes sent after the body, which are not part of it."""
    media_type: str | None = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    """Further header fields, sent as they are."""
    json_body: bytes | None = None
    """Served at /.well-known/mta-sts.json, as the 2017 draft has it."""
    json_media_type: str | None = "application/json"
    size: int | None = None
    """Pad or cut the body to this number of bytes."""
    gzip: bool = False
    """Compress the body and set Content-Encoding."""
    framing: Framing = Framing.LENGTH
    manner: Manner = Manner.ANSWER
    delay: float = 0.0
    """Seconds before the response."""
    interval: float = 0.01
    """Seconds between the bytes of a drip."""
    certificate: Flaw = Flaw.GOOD
    expires: datetime | None = None
    """The end of the certificate's life, instead of that of ``certificate``."""

    def answer(self, path: str) -> tuple[bytes, bytes]:
        """Return the head and the framed body of the response to a GET of ``path``."""
        status, body, media_type = self.status, self.body, self.media_type
        if path == "/.well-known/mta-sts.json" and self.json_body is not None:
            status, body, media_type = 200, self.json_body, self.json_media_type
        elif path != "/.well-known/mta-sts.txt":
            status, body, media_type = 404, b"no such path\n", "text/plain"
        if self.size is not None:
            body = body[: self.size].ljust(self.size, b"\n")
        lines = [f"HTTP/1.1 {status} {self.reason}", *(f"{name}: {value}" for name, value in self.headers)]
        if media_type is not None:
            lines.append(f"Content-Type: {media_type}")
        if self.gzip:
            body = gzip.compress(body)
            lines.append("Content-Encoding: gzip")
        if self.framing is Framing.LENGTH:
            lines.append(f"Content-Length: {len(body)}")
        elif self.framing is Framing.CHUNKED:
            lines.append("Transfer-Encoding: chunked")
            pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            lines.append("Connection: close")
        return "\r\n".join((*lines, "", "")).encode("latin-1"), body + self.trailing


@dataclass(frozen=True, slots=True)
class Request:
    """One received request: the name in SNI, and the first line and fields of its head."""

    sni: str
    method: str
    path: str
    headers: Mapping[str, str]
    """Field names in lower case."""


class PolicyHost:
    """The server. ``behaviours`` maps policy domains to behaviours and may be changed at any time.

    ``requests`` keeps the last 10,000; ``connections`` counts all that were accepted.
    """

    def __init__(self, ca: Ca, behaviours: Mapping[str, Behaviour] | None = None) -> None:
        self.ca = ca
        self.behaviours: dict[str, Behaviour] = dict(behaviours or {})
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._contexts: dict[tuple[str, Flaw, bool, datetime | None], ssl.SSLContext] = {}
        self.open: set[_Connection] = set()
        self.arrived = asyncio.Event()

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; ``port`` is the port in use if 0 was given."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), address, port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.open):
            connection.drop()
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def seen(self, count: int) -> None:
        """Wait until ``count`` requests have arrived."""
        while len(self.requests) < count:
            self.arrived.clear()
            await self.arrived.wait()

    def behaviour(self, host: str) -> Behaviour | None:
        """Return the behaviour of the host ``mta-sts.<policy domain>``; None if it is not served here."""
        return self.behaviours.get(host.removeprefix("mta-sts."), self.behaviours.get("*"))

    def prepare(self) -> None:
        """Issue the certificates of all names now, not at their first connection."""
        for domain, behaviour in self.behaviours.items():
            if domain != "*":
                self.context(f"mta-sts.{domain}", behaviour)

    def context(self, host: str, behaviour: Behaviour) -> ssl.SSLContext:
        """The TLS settings of one host."""
        old = behaviour.manner is Manner.TLS11
        key = host, behaviour.certificate, old, behaviour.expires
        if key not in self._contexts:
            context = self._contexts[key] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.ca.issue(host, flaw=behaviour.certificate, expires=behaviour.expires))
            if old:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return self._contexts[key]


class _Connection(asyncio.Protocol):
    """Serve one connection: one request, one response."""

    def __init__(self, host: PolicyHost) -> None:
        self._host = host
        self._received = b""
        self._sni = ""
        self._tls: ServerTls | None = None
        self._transport: asyncio.Transport | None = None
        self._later: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio.Transport
        self._transport = cast("asyncio.Transport", transport)
        self._host.connections += 1
        self._host.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.open.discard(self)
        if self._later is not None:
            self._later.cancel()
        self._transport = None

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._received += data
            data = self._begin_tls()
        if self._tls is None or self._transport is None:
            return
        try:
            self._received += self._tls.receive(data)
        except ssl.SSLError:
            self._end()
            return
        self._transport.write(self._tls.pending())
        if b"\r\n\r\n" in self._received:
            self._requested()

    def _begin_tls(self) -> bytes:
        """Choose the host by the ClientHello. Return the bytes received."""
        try:
            sni = client_hello_sni(self._received)
        except (ValueError, IndexError):
            self.drop()
            return b""
        behaviour = None if sni is None else self._host.behaviour(sni)
        if sni is None or self._transport is None:
            return b""
        if behaviour is None:
            # RFC 6066 section 3: the fatal alert unrecognized_name
            self._transport.write(b"\x15\x03\x03\x00\x02\x02\x70")
            self._transport.close()
        elif behaviour.manner is Manner.NOT_TLS:
            self._transport.write(b"HTTP/1.1 400 This is not HTTPS\r\n\r\n")
            self._transport.close()
        elif behaviour.manner is Manner.RESET_TLS:
            reset(self._transport)
        elif behaviour.manner is Manner.CLOSE_TLS:
            self._transport.close()
        elif behaviour.manner is not Manner.HANG_TLS:
            self._sni, self._tls = sni, ServerTls(self._host.context(sni, behaviour))
        data, self._received = self._received, b""
        return data

    def _requested(self) -> None:
        head = self._received.partition(b"\r\n\r\n")[0]
        self._received = b""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, *_ = [*first.split(" "), "", ""]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._host.requests.append(Request(self._sni, method, path, headers))
        self._host.arrived.set()
        behaviour = self._host.behaviour(self._sni)
        if behaviour is None:
            self.drop()
        elif behaviour.delay:
            self._later = asyncio.get_running_loop().call_later(behaviour.delay, self._answer, behaviour, path)
        else:
            self._answer(behaviour, path)

    def _answer(self, behaviour: Behaviour, path: str) -> None:
        head, body = behaviour.answer(path)
        match behaviour.manner:
            case Manner.ANSWER:
                self._end(head + body)
            case Manner.HANG:
                pass
            case Manner.HANG_MID_BODY:
                self._send(head + body[: len(body) // 2])
            case Manner.DRIP:
                self._drip(head + body, 0, behaviour.interval)
            case Manner.NO_CLOSE_NOTIFY:
                self._send(head + body)
                if self._transport is not None:
                    self._transport.close()
            case Manner.CLOSE_MID_BODY:
                self._end(head + body[: len(body) // 2])
            case Manner.GARBAGE:
                self._end(b"\x00\xff220 mail.example.com ESMTP\r\n\r\n")
            case Manner.RESET:
                if self._transport is not None:
                    reset(self._transport)
            case _:
                self._end()

    def _drip(self, answer: bytes, at: int, interval: float) -> None:
        if at < len(answer):
            self._send(answer[at : at + 1])
            self._later = asyncio.get_running_loop().call_later(interval, self._drip, answer, at + 1, interval)
        else:
            self._end()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and self._tls is not None:
            self._tls.send(data)
            self._transport.write(self._tls.pending())

    def _end(self, data: bytes = b"") -> None:
        if self._transport is not None and self._tls is not None:
            self._tls.send(data)
            self._tls.end()
            self._transport.write(self._tls.pending())
            self._transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection (RST)."""
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def load(file: Path) -> dict[str, Behaviour]:
    """Read behaviours from a YAML file. Raises ``ValueError`` for an unknown field."""
    known = {field.name for field in fields(Behaviour)}
    behaviours = {}
    for domain, given in (yaml.safe_load(file.read_text()) or {}).items():
        values: dict[str, Any] = dict(given or {})
        if strange := set(values) - known:
            raise ValueError(f"{file}: {domain}: there is no {', '.join(sorted(strange))}")
        for name in ("body", "json_body"):
            if isinstance(values.get(name), str):
                values[name] = values[name].encode()
        for name, kind in (("manner", Manner), ("framing", Framing), ("certificate", Flaw)):
            if name in values:
                values[name] = kind(values[name])
        values["headers"] = tuple((str(name), str(value)) for name, value in dict(values.get("headers", {})).items())
        behaviours[str(domain)] = Behaviour(**values)
    return behaviours


async def _serve(arguments: argparse.Namespace) -> None:
    host = PolicyHost(Ca(arguments.ca_dir), load(arguments.policies))
    host.prepare()
    await host.start(arguments.address, arguments.port)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read_again() -> None:
        try:
            host.behaviours = load(arguments.policies)
        except (ValueError, OSError, yaml.YAMLError) as error:
            print(f"kept the old behaviours: {error}", flush=True)
        else:
            print(f"{len(host.behaviours)} policy hosts", flush=True)

    loop.add_signal_handler(signal.SIGHUP, read_again)
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, ended.set)
    print(f"serving {len(host.behaviours)} policy hosts at {arguments.address} port {host.port}", flush=True)
    await ended.wait()
    await host.stop()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.https", description="A fake HTTPS policy host.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--ca-dir", type=Path, required=True, help="gets ca.pem and all certificates")
    parser.add_argument("policies", type=Path, help="YAML: policy domain to behaviour")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
