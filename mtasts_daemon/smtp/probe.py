"""Open an SMTP session as a sender does, up to the second EHLO, and record what the server offers.

EHLO, STARTTLS, EHLO, QUIT; never MAIL FROM. A host and address is probed at most once an hour, over all domains.
Runs on the standard asyncio event loop.
"""

import asyncio
import os
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ..https.address_filter import Address, IPNetwork, network_prefix, refusal_reason
from ..https.tls_stream import StreamClosed, StreamTooLarge, TlsSession, TlsStream, probe_context, tls_problem
from .certificates import LeafCertificate, read_leaf
from .chain_verification import ChainProblem, ChainVerifier
from .reply_reader import ReplySyntax, SmtpReply, SmtpReplyReader, keywords

__all__ = ["OUR_PROBLEMS", "ServerTlsEvidence", "SmtpProber", "SmtpSession", "greeting_name"]

_MAX_BYTES = 256 * 1024
_MAX_SESSIONS = 20_000
"""Sessions that are remembered."""
_PER_NETWORK = 4
"""Sessions at once with one /24 or /56."""
_NO_ROUTE = frozenset({"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES", "EPERM", "EMFILE", "ENFILE"})

OUR_PROBLEMS = frozenset({"smtp-no-route", "smtp-busy"})
"""Problems of this host, which say nothing about the server."""


@dataclass(frozen=True, slots=True)
class ServerTlsEvidence:
    """The TLS session of a server, and the verdict on its chain at the time; ``refused`` is None if it is trusted."""

    session: TlsSession
    leaf: LeafCertificate
    refused: ChainProblem | None

    def problem_for(self, host: str) -> str | None:
        """Return the slug of the first reason for which a sender cannot authenticate ``host``, or None."""
        if self.refused is not None:
            return self.refused.slug
        return None if self.leaf.names_host(host) else "certificate-name-mismatch"


@dataclass(frozen=True, slots=True)
class SmtpSession:
    """The session with a server at one address. ``problem`` is a slug, None if the whole dialogue succeeded.

    ``at`` is the wall-clock time of the session, ``seconds`` how long it took. ``offered`` are the EHLO keywords in
    the clear, ``offered_tls`` those under TLS. ``tls`` is set as soon as the handshake succeeded.
    """

    host: str
    address: str
    port: int
    at: float
    problem: str | None = None
    detail: str = ""
    seconds: float = 0.0
    connected: bool = False
    banner: str = ""
    offered: tuple[str, ...] = ()
    tls: ServerTlsEvidence | None = None
    offered_tls: tuple[str, ...] = ()

    @property
    def starttls(self) -> bool:
        """True if STARTTLS is offered."""
        return "STARTTLS" in self.offered

    @property
    def requiretls(self) -> bool:
        """True if REQUIRETLS is announced under TLS (RFC 8689 section 2)."""
        return "REQUIRETLS" in self.offered_tls


def greeting_name() -> str | None:
    """Return this host's name for EHLO, or None if it has no fully qualified one."""
    name = socket.gethostname()
    labels = name.split(".")
    plain = name.isascii() and all(label.replace("-", "").isalnum() for label in labels)
    return name if plain and len(labels) > 1 and not labels[-1].isdigit() else None


class _Refused(Exception):
    """The dialogue ended with a problem: a slug and a detail."""

    def __init__(self, problem: str, detail: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.detail = detail


class SmtpProber:
    """Probes SMTP servers, and caches the sessions. Times are in seconds.

    A session is remembered for ``hold`` or until its certificate expires, one with a problem for ``hold_failed``; in
    ``hold`` seconds an address gets at most ``per_address`` sessions, regardless of the name (None: no limit).
    ``allowed`` networks may be connected to even if the address filter rejects them; ``own`` returns this host's
    addresses.
    """

    def __init__(
        self,
        verifier: ChainVerifier,
        *,
        own: Callable[[], Container[Address]],
        allowed: tuple[IPNetwork, ...] = (),
        port: int = 25,
        connect: float = 10.0,
        total: float = 60.0,
        limit: int = 64,
        hold: float = 3600.0,
        hold_failed: float = 300.0,
        per_address: int | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.port = port
        self.last_connected: float | None = None
        """When a connection to port 25 last succeeded, by ``monotonic``."""
        self._verifier = verifier
        self._own = own
        self._allowed = allowed
        self._connect_within = connect
        self._total = total
        self._hold, self._hold_failed = hold, hold_failed
        self._wall, self._monotonic = wall, monotonic
        self._context = probe_context()
        self._name = greeting_name()
        self._slots = asyncio.Semaphore(limit)
        self._per_address = per_address
        self._addresses: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._networks: dict[tuple[int, int], int] = {}
        self._freed = asyncio.Condition()
        self._known: OrderedDict[tuple[str, str], tuple[float, SmtpSession]] = OrderedDict()
        self._running: dict[tuple[str, str], asyncio.Task[SmtpSession]] = {}

    async def probe(self, host: str, address: str) -> SmtpSession:
        """Return the session with ``host`` at ``address``, a remembered one if it is recent.

        Raises nothing: every failure is part of the session.
        """
        key = host, address
        known = self._known.get(key)
        if known is not None and self._monotonic() < known[0]:
            return known[1]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._open(host, address))
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    def forget(self, age: float) -> None:
        """Forget sessions that began ``age`` seconds ago or earlier, or in the future because the clock was set."""
        now = self._wall()
        for key, (_, session) in list(self._known.items()):
            if not 0 <= now - session.at < age:
                del self._known[key]

    async def close(self) -> None:
        """Cancel the sessions under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, key: tuple[str, str], task: "asyncio.Task[SmtpSession]") -> None:
        self._running.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        session = task.result()
        if session.problem in OUR_PROBLEMS:
            return  # our failure: the next check tries again
        self._known.pop(key, None)
        while len(self._known) >= _MAX_SESSIONS:
            self._known.popitem(last=False)
        self._known[key] = self._monotonic() + self._lifetime(session), session

    def _lifetime(self, session: SmtpSession) -> float:
        tls = session.tls
        if session.problem is None and tls is not None and tls.problem_for(session.host) is None:
            return min(self._hold, tls.leaf.not_after - self._wall())
        return min(self._hold, self._hold_failed)

    async def _open(self, host: str, text: str) -> SmtpSession:
        session = SmtpSession(host, text, self.port, self._wall())
        reason = refusal_reason(text, self._allowed, self._own())
        if reason is not None:
            return replace(session, problem="smtp-address-refused", detail=reason)
        address = ip_address(text)
        network = network_prefix(address)
        if not self._admits(text):
            return replace(session, problem="smtp-busy", detail="too many sessions with this address in an hour")
        # The network first: hosts of one network that wait for each other must not hold the slots of all.
        await self._enter(network)
        try:
            async with self._slots:
                return await self._converse(session, address)
        finally:
            await self._leave(network)

    def _admits(self, address: str) -> bool:
        """Count a session with the address, and return False if there were too many: many names may point at one."""
        if self._per_address is None:
            return True
        now = self._monotonic()
        began, count = self._addresses.pop(address, (now, 0))
        if now - began >= self._hold:
            began, count = now, 0
        self._addresses[address] = began, min(count + 1, self._per_address + 1)
        while len(self._addresses) > _MAX_SESSIONS:
            self._addresses.popitem(last=False)
        return count < self._per_address

    async def _enter(self, network: tuple[int, int]) -> None:
        async with self._freed:
            while self._networks.get(network, 0) >= _PER_NETWORK:
                await self._freed.wait()
            self._networks[network] = self._networks.get(network, 0) + 1

    async def _leave(self, network: tuple[int, int]) -> None:
        async with self._freed:
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]
            self._freed.notify_all()

    async def _converse(self, session: SmtpSession, address: Address) -> SmtpSession:
        started = self._monotonic()
        session = replace(session, at=self._wall())
        dialogue: _Dialogue | None = None
        try:
            async with asyncio.timeout(self._total):
                async with asyncio.timeout(self._connect_within):
                    stream = await TlsStream.connect(address, self.port, limit=_MAX_BYTES)
                self.last_connected = self._monotonic()
                async with stream:
                    name = self._name or _literal(stream.local_address)
                    dialogue = _Dialogue(stream, replace(session, connected=True), name)
                    await dialogue.run(self._context, self._verifier)
                    return replace(dialogue.session, seconds=self._monotonic() - started)
        except Exception as error:  # any error caused by the peer is a finding about it
            problem, detail = _problem(error, connected=dialogue is not None)
        reached = session if dialogue is None else dialogue.session
        return replace(reached, problem=problem, detail=detail, seconds=self._monotonic() - started)


class _Dialogue:
    """The dialogue with one server; ``session`` holds the results so far."""

    def __init__(self, stream: TlsStream, session: SmtpSession, name: str) -> None:
        self._stream = stream
        self._replies = SmtpReplyReader()
        self._name = name
        self.session = session

    async def run(self, context: ssl.SSLContext, verifier: ChainVerifier) -> None:
        """Go through the dialogue. Raises ``_Refused``, ``OSError`` or ``ReplySyntax``."""
        greeting = await self._reply()
        self.session = replace(self.session, banner=greeting.text)
        if greeting.code != 220:
            await self._quit()
            raise _Refused("smtp-greeting-rejected", greeting.text)
        ehlo = await self._command(f"EHLO {self._name}")
        if ehlo.code != 250:
            await self._quit()
            raise _Refused("smtp-ehlo-rejected", ehlo.text)
        self.session = replace(self.session, offered=keywords(ehlo))
        if not self.session.starttls:
            await self._quit()
            raise _Refused("starttls-not-offered")
        answer = await self._command("STARTTLS")
        if answer.code != 220:
            await self._quit()
            raise _Refused("starttls-rejected", answer.text)
        if self._replies.pending:
            # An attacker on the path could inject replies there (RFC 3207 section 4.2).
            raise _Refused("starttls-injection", "bytes in the clear after the reply to STARTTLS")
        tls = await self._stream.start_tls(context, self.session.host)
        leaf = read_leaf(tls.chain[0]) if tls.chain else LeafCertificate("", readable=False)
        self.session = replace(self.session, tls=ServerTlsEvidence(tls, leaf, verifier.problem(tls.chain)))
        await self._under_tls()

    async def _under_tls(self) -> None:
        try:
            ehlo = await self._command(f"EHLO {self._name}")
        except (OSError, ReplySyntax) as error:
            problem, detail = _problem(error, connected=True)
            raise _Refused("smtp-ehlo-tls-failed", detail or problem) from error
        if ehlo.code != 250:
            await self._quit()
            raise _Refused("smtp-ehlo-tls-failed", ehlo.text)
        self.session = replace(self.session, offered_tls=keywords(ehlo))
        await self._quit()

    async def _command(self, line: str) -> SmtpReply:
        await self._stream.send(line.encode("ascii") + b"\r\n")
        return await self._reply()

    async def _reply(self) -> SmtpReply:
        reply = self._replies.feed(b"")
        while reply is None:
            data = await self._stream.receive()
            if not data:
                raise StreamClosed("closed by the peer")
            reply = self._replies.feed(data)
        return reply

    async def _quit(self) -> None:
        """Say QUIT; the answer, if any, does not matter."""
        with suppress(OSError, ReplySyntax):
            async with asyncio.timeout(2.0):
                await self._command("QUIT")


def _literal(address: str) -> str:
    """Return this host's address as the name for EHLO (RFC 5321 section 4.1.3)."""
    address = address.partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _problem(error: Exception, *, connected: bool) -> tuple[str, str]:
    """Return the slug and the detail of what ended a session."""
    if isinstance(error, _Refused):
        return error.problem, error.detail
    if isinstance(error, TimeoutError):
        return ("smtp-timeout" if connected else "smtp-connect-timeout"), ""
    if isinstance(error, ssl.SSLError):
        return tls_problem(error)
    if isinstance(error, ReplySyntax):
        return "smtp-protocol", str(error)
    if isinstance(error, StreamTooLarge):
        return "smtp-too-large", str(error)
    if isinstance(error, OSError):
        return _system_problem(error, connected)
    return "smtp-protocol", type(error).__name__


def _system_problem(error: OSError, connected: bool) -> tuple[str, str]:
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    if connected:
        return "smtp-closed", reason
    if isinstance(error, ConnectionRefusedError):
        return "smtp-connect-refused", ""
    if _name_of(error.errno) in _NO_ROUTE:
        return "smtp-no-route", reason
    return "smtp-connect-failed", reason


def _name_of(number: int | None) -> str:
    import errno

    return errno.errorcode.get(number or 0, "")
