"""Receivers of TLS reports: an HTTPS server for any number of hosts, and a mail server that accepts or rejects.

In a test::

    async with RuaHost(ca, {"reports.example.com": Manner(status=503)}) as host:
        ...  # host.port; host.posts
    async with RuaMail(rcpt="550 5.1.1 nobody") as mail:
        ...  # mail.address; mail.taken
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.fakes.ca import Ca, Flaw

__all__ = ["Mail", "Manner", "Post", "RuaHost", "RuaMail"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a host answers a report."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    hang: bool = False
    """Never answer."""
    close: bool = False
    """Close without an answer."""
    endless: bool = False
    """A body that never ends."""
    certificate: Flaw = Flaw.GOOD


class Post(NamedTuple):
    """One received request."""

    host: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class RuaHost:
    """The HTTPS server. ``manners`` maps host names to behaviours and may be changed at any time."""

    def __init__(self, ca: Ca, manners: Mapping[str, Manner] | None = None) -> None:
        self.manners = dict(manners or {})
        self.posts: list[Post] = []
        self.arrived = asyncio.Event()
        self.port = 0
        self._ca = ca
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._ca.issue("nobody.example"))
        context.sni_callback = self._choose
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, host: str, path: str = "/v1") -> str:
        """Return a rua at this server."""
        return f"https://{host}:{self.port}{path}"

    async def seen(self, count: int) -> None:
        """Wait until ``count`` reports have arrived."""
        while len(self.posts) < count:
            self.arrived.clear()
            await self.arrived.wait()

    def _choose(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._ca.issue(name or "nobody.example", flaw=self._manner(name).certificate))
        tls.context = context

    def _manner(self, host: str | None) -> Manner:
        return self.manners.get(host or "", Manner())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        host = headers["host"].partition(":")[0]
        manner = self._manner(host)
        self.posts.append(Post(host, method, target, headers, body))
        self.arrived.set()
        if manner.hang:
            await asyncio.Event().wait()
        if manner.close:
            return
        fields = "".join(f"{name}: {value}\r\n" for name, value in manner.headers)
        length = "" if manner.endless else "Content-Length: 0\r\n"
        writer.write(f"HTTP/1.1 {manner.status} Whatever\r\n{fields}{length}\r\n".encode("latin-1"))
        while manner.endless:
            writer.write(b"x" * 65536)
            await writer.drain()
            # drain() does not yield to other tasks while the client reads as fast as this writes.
            await asyncio.sleep(0)
        await writer.drain()


class Mail(NamedTuple):
    """One accepted message."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    user: str
    tls: bool


class RuaMail:
    """The mail server. Replies that are not ``None`` are sent instead of accepting; all may be changed.

    At the command ``hang`` the server does not answer until ``go_on`` is set (and sets ``held``); at ``close`` it
    closes. ``certificate`` (a PEM file) offers STARTTLS; ``password`` requires a login after STARTTLS.
    """

    def __init__(
        self,
        *,
        rcpt: str | None = None,
        data: str | None = None,
        mail: str | None = None,
        hang: str = "",
        close: str = "",
        certificate: object = None,
        password: str = "",
    ) -> None:
        self.rcpt, self.data, self.mail = rcpt, data, mail
        self.hang, self.close = hang, close
        self.taken: list[Mail] = []
        self.offered = 0
        self.arrived, self.held, self.go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.address = ("127.0.0.1", 0)
        self._password, self._user = password, ""
        self._tls: ssl.SSLContext | None = None
        self._transports: list[asyncio.Transport] = []
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(str(certificate))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._session, *self.address)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for transport in self._transports:
            # Debian 12's Python loses the rest of a TLS transport that is closed twice, as aiosmtpd does.
            with contextlib.suppress(AttributeError):
                transport.abort()
        await asyncio.sleep(0)  # the event loop closes their sockets in it
        await self._server.wait_closed()

    async def seen(self, count: int) -> None:
        """Wait until ``count`` messages have been accepted."""
        while len(self.taken) < count:
            self.arrived.clear()
            await self.arrived.wait()

    def _session(self) -> SMTP:
        return _Session(
            self._transports,
            self,
            hostname="mail.example",
            tls_context=self._tls,
            auth_required=bool(self._password),
            authenticator=self._login,
            loop=asyncio.get_running_loop(),
        )

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: object) -> AuthResult:
        if isinstance(login, LoginPassword) and login.password == self._password.encode():
            self._user = login.login.decode()
            return AuthResult(success=True, auth_data=login.login)
        return AuthResult(success=False, handled=False)

    async def _met(self, server: SMTP, command: str) -> None:
        if self.hang == command:
            self.held.set()
            await self.go_on.wait()
        if self.close == command:
            self._transports[-1].abort()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        await self._met(server, "MAIL")
        if self.mail is not None:
            return self.mail
        envelope.mail_from = address
        return "250 2.1.0 Ok"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        await self._met(server, "RCPT")
        if self.rcpt is not None:
            return self.rcpt
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.offered += 1
        await self._met(server, "DATA")
        if self.data is not None:
            return self.data
        content = envelope.original_content or b""
        message = Mail(str(envelope.mail_from), tuple(envelope.rcpt_tos), content, self._user, session.ssl is not None)
        self.taken.append(message)
        self.arrived.set()
        return "250 2.0.0 Ok"


class _Session(SMTP):
    """aiosmtpd's session, which leaves the connection open if STARTTLS fails."""

    def __init__(self, transports: list[asyncio.Transport], *values: Any, **settings: Any) -> None:
        super().__init__(*values, **settings)
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transports.append(transport)
        super().connection_made(transport)
