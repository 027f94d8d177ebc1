"""LMTP on a Unix socket, RFC 2033. 250 is sent after the commit and not before."""

import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import Envelope, Session

from ...errors import MtaStsError
from ...log import log_event
from .intake import Intake
from .model import DEFAULT_LIMITS, ReportSource
from .replies import IntakeReply, reply_to_accepted, reply_to_error

__all__ = ["LmtpServer"]

# From Python 3.13 a server removes the path of its Unix socket when it closes; systemd's is not ours to remove.
_LEAVE_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}

_MAX_CONNECTIONS = 20
"""Postfix's default_destination_concurrency_limit."""

_MAX_BUFFERED = 64 << 20
"""Bytes of all mails that are being received or processed; a mail beyond that is deferred."""

_COMMAND_SECONDS = 60.0
_TAKE_SECONDS = 90.0
_STOP_SECONDS = 2.0
_LINE = 64 * 1024
_END = b"\r\n.\r\n"
_STUFFED = re.compile(rb"\A\.|(?<=\r\n)\.")
logging.getLogger("mail.log").addHandler(logging.NullHandler())
logging.getLogger("mail.log").propagate = False


class _Shared:
    """State shared by all sessions."""

    def __init__(self) -> None:
        self.buffered = 0
        self.transports: set[asyncio.BaseTransport] = set()


class _Session(LMTP):
    """One connection."""

    line_length_limit = _LINE

    def __init__(self, take: "Callable[[bytes], Awaitable[IntakeReply]]", shared: _Shared, **options: Any) -> None:
        super().__init__(self, hostname="localhost", ident="mtasts-daemon", timeout=_COMMAND_SECONDS, **options)
        self._take = take
        self._shared = shared

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._shared.transports.add(transport)
        self._mine = transport
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.transports.discard(self._mine)
        super().connection_lost(error)

    async def handle_RCPT(  # noqa: N802
        self, _server: object, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if len(envelope.rcpt_tos) >= 100:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        """Receive the mail and reply once for each recipient (RFC 2033 section 4.2)."""
        if self.envelope is None or not self.envelope.rcpt_tos or arg:
            await self.push("503 5.5.1 need RCPT" if not arg else "501 5.5.4 DATA takes no argument")
            return
        recipients = len(self.envelope.rcpt_tos)
        await self.push("354 end data with <CR><LF>.<CR><LF>")
        held = bytearray()
        try:
            problem = await self._receive(held)
            # RFC 5321 section 4.5.2: a dot that begins a line is an addition of the client.
            reply = problem or (await self._take(_STUFFED.sub(b"", bytes(held)))).lmtp
        finally:
            self._shared.buffered -= len(held)
        self.envelope = self._create_envelope()
        await self.push("\r\n".join([reply] * recipients))

    async def _receive(self, held: bytearray) -> str:
        """Read up to the final dot into ``held``. Return a reply if the mail cannot be taken.

        Reads by chunks, not by lines: a mail may consist of millions of lines. A mail without any line, which Postfix
        never sends, ends with the timeout.
        """
        problem, ended = "", False
        while not ended:
            try:
                chunk = await self._reader.readuntil(_END)
                chunk, ended = chunk[: 2 - len(_END)], True
            except asyncio.LimitOverrunError as error:
                # The last bytes, which may begin the end, stay in the reader.
                chunk = await self._reader.read(error.consumed)
            self._reset_timeout()
            if not problem and len(held) + len(chunk) > DEFAULT_LIMITS.mail:
                problem = "552 5.3.4 the mail is larger than is accepted"
            elif not problem and self._shared.buffered > _MAX_BUFFERED:
                problem = "452 4.3.1 too many mails at once"
            if problem:
                self._shared.buffered -= len(held)
                held.clear()
            else:
                held += chunk
                self._shared.buffered += len(chunk)
        return problem


class LmtpServer:
    """Serves a listening Unix socket on the running event loop, which ``sock`` belongs to from then on."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._shared = _Shared()
        self._server: asyncio.Server | None = None
        self._taking: set[asyncio.Task[Any]] = set()

    async def start(self, sock: socket.socket) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()

        def session() -> asyncio.Protocol:
            if len(self._shared.transports) >= _MAX_CONNECTIONS:
                return _Refusing()
            return _Session(self._take, self._shared, loop=loop)

        self._server = await loop.create_unix_server(session, sock=sock, backlog=64, **_LEAVE_PATH)

    async def close(self) -> None:
        """Accept no more, let mails that are being stored finish for a few seconds, and close all connections."""
        if self._server is not None:
            self._server.close()
        if self._taking:
            await asyncio.wait(self._taking, timeout=_STOP_SECONDS)
        for transport in list(self._shared.transports):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    async def _take(self, message: bytes) -> IntakeReply:
        task = asyncio.current_task()
        assert task is not None
        self._taking.add(task)
        try:
            async with asyncio.timeout(_TAKE_SECONDS):
                return reply_to_accepted(await self._intake.take_mail(message, ReportSource.LMTP))
        except MtaStsError as error:
            log_event("tlsrpt-report-refused", once_a_minute=error.slug, reason=error.slug, error=error)
            return reply_to_error(error)
        except TimeoutError:
            return IntakeReply("451 4.3.0 the report was not stored in time", 503, os.EX_TEMPFAIL, "")
        except Exception:
            logging.getLogger(__name__).exception("tlsrpt-intake-internal-error")
            return IntakeReply("451 4.3.0 internal error", 503, os.EX_TEMPFAIL, "")
        finally:
            self._taking.discard(task)


class _Refusing(asyncio.Protocol):
    """Rejects a connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"421 4.3.2 too many connections\r\n")
        transport.close()
