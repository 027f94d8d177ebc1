"""Report mails from an IMAP mailbox, by UID. Mails are neither changed nor removed.

The position in the mailbox is kept in the reports database. If the key of a mail's signature cannot be looked up, the
mail is tried again at each poll for a day and then accepted as unauthenticated; others do not wait for it.
"""

import asyncio
import base64
import imaplib
import json
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from ...errors import ReceivedReportDeferred, ReceivedReportError, StoreError
from ...log import log_event
from .database import Job, ReportsDatabase, SqlConnection
from .intake import Intake
from .model import DEFAULT_LIMITS, ReportSource

__all__ = ["ImapAccount", "ImapCounters", "ImapPoller", "quoted_mailbox"]

_TIMEOUT = 60.0
_AT_ONCE = 500
_SAVE_EVERY = 20
_MAX_PENDING = 1000
_RETRY_FOR = 86400
_NOT_PLAIN = re.compile(r"&|[^\x20-\x7e]+")
_UID = re.compile(rb"\bUID ([0-9]{1,10})\b")
_SIZE = re.compile(rb"\bRFC822\.SIZE ([0-9]{1,12})\b")


@dataclass(frozen=True, slots=True)
class ImapAccount:
    """The account to read. ``password`` reads the secret at each poll."""

    host: str
    port: int
    user: str
    mailbox: str
    password: Callable[[], str]
    every: float
    context: Callable[[], ssl.SSLContext]

    @property
    def source(self) -> str:
        """Key of the account's progress."""
        return f"imap:{self.user}@{self.host}:{self.port}/{self.mailbox}"


@dataclass(slots=True)
class ImapCounters:
    """Polls since the start. Read from other threads."""

    failures: int = 0
    last_success: float = 0.0
    last_error: str = ""


@dataclass(slots=True)
class _State:
    validity: int = 0
    last: int = 0
    pending: dict[int, int] = field(default_factory=dict)
    """UIDs that were deferred, and when first."""

    def text(self) -> str:
        return json.dumps([self.validity, self.last, sorted(self.pending.items())])

    @classmethod
    def parse(cls, text: str) -> "_State":
        validity, last, pending = json.loads(text)
        return cls(validity, last, dict(pending))


class ImapPoller:
    """Polls one account from the receive thread's loop."""

    def __init__(
        self,
        account: ImapAccount,
        intake: Intake,
        database: ReportsDatabase,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.counters = ImapCounters()
        self._account = account
        self._intake = intake
        self._database = database
        self._now = now
        self._sleep = sleep

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                while await self.poll():
                    pass
            except Exception as error:  # imaplib raises other exceptions than its own, too
                self.counters.failures += 1
                self.counters.last_error = ascii(str(error))[1:200]
                log_event(
                    "tlsrpt-imap-poll-failed",
                    level=logging.WARNING,
                    host=self._account.host,
                    error=self.counters.last_error,
                )
            await self._sleep(self._account.every)

    async def poll(self) -> bool:
        """Process a bounded number of new mails. Return True if there are more."""
        loop = asyncio.get_running_loop()
        more = await asyncio.to_thread(self._poll, loop)
        self.counters.last_success, self.counters.last_error = self._now(), ""
        return more

    # -- on a thread -------------------------------------------------------------------------------------------

    def _poll(self, loop: asyncio.AbstractEventLoop) -> bool:
        account = self._account
        connection = imaplib.IMAP4_SSL(account.host, account.port, ssl_context=account.context(), timeout=_TIMEOUT)
        try:
            _log_in(connection, account.user, account.password())
            _checked(connection.select(quoted_mailbox(account.mailbox), readonly=True))
            state = self._load(_validity(connection))
            uids = _search(connection, state.last)
            self._take_all(connection, state, [*state.pending, *uids[:_AT_ONCE]], loop)
            return len(uids) > _AT_ONCE
        finally:
            try:
                connection.logout()
            except (OSError, imaplib.IMAP4.error):
                connection.shutdown()

    def _take_all(
        self, connection: imaplib.IMAP4, state: _State, uids: Iterable[int], loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            for count, uid in enumerate(uids, 1):
                self._take(connection, state, uid, loop)
                if count % _SAVE_EVERY == 0:
                    self._save(state)
        finally:
            self._save(state)

    def _take(self, connection: imaplib.IMAP4, state: _State, uid: int, loop: asyncio.AbstractEventLoop) -> None:
        """Process one mail and record it in ``state``. Raises ``StoreError``, which ends the poll."""
        message = _fetch(connection, uid)
        first_tried = state.pending.get(uid, int(self._now()))
        if message is not None:
            final = self._now() - first_tried >= _RETRY_FOR or len(state.pending) >= _MAX_PENDING
            taking = self._intake.take_mail(message, ReportSource.IMAP, final=final)
            taken = asyncio.run_coroutine_threadsafe(taking, loop)
            try:
                taken.result()
            except ReceivedReportError as error:
                log_event("tlsrpt-report-refused", once_a_minute=error.slug, reason=error.slug, error=error)
            except ReceivedReportDeferred:
                state.pending[uid] = first_tried
                state.last = max(state.last, uid)
                return
            except (StoreError, CancelledError):
                raise
            except Exception:  # a bug must not block the mails after this one
                logging.getLogger(__name__).exception("tlsrpt-intake-internal-error")
                if not final:
                    state.pending[uid] = first_tried
                    state.last = max(state.last, uid)
                    return
        state.pending.pop(uid, None)
        state.last = max(state.last, uid)

    def _load(self, validity: int) -> _State:
        def job(connection: SqlConnection) -> _State:
            row = connection.execute("SELECT state FROM progress WHERE source = ?", (self._account.source,)).fetchone()
            found = _State() if row is None else _State.parse(row[0])
            # RFC 3501 section 2.3.1.1: UIDs of another validity are of other mails.
            return found if found.validity == validity else _State(validity)

        return self._database.read(job)

    def _save(self, state: _State) -> None:
        self._database.write(_saving(self._account.source, state.text(), int(self._now())))


def _saving(source: str, text: str, now: int) -> Job[None]:
    def job(connection: SqlConnection) -> None:
        connection.execute(
            "INSERT INTO progress (source, state, seen_at) VALUES (?, ?, ?)"
            " ON CONFLICT (source) DO UPDATE SET state = excluded.state, seen_at = excluded.seen_at",
            (source, text, now),
        )

    return job


def quoted_mailbox(name: str) -> str:
    """Return the name as a quoted string in modified UTF-7 (RFC 3501 section 5.1.3)."""
    return _quoted(_NOT_PLAIN.sub(_utf7, name))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _utf7(run: re.Match[str]) -> str:
    if run[0] == "&":
        return "&-"
    octets = base64.b64encode(run[0].encode("utf-16-be", "surrogatepass")).decode()
    return f"&{octets.rstrip('=').replace('/', ',')}-"


def _log_in(connection: imaplib.IMAP4, user: str, password: str) -> None:
    """Log in by AUTHENTICATE PLAIN (RFC 4616), which takes any characters, or by LOGIN if the server lacks it."""
    if "AUTH=PLAIN" in connection.capabilities:
        connection.authenticate("PLAIN", lambda _challenge: f"\0{user}\0{password}".encode())
    else:
        connection.login(_quoted(user), password)


def _checked(answer: tuple[str, list[Any]]) -> list[Any]:
    status, data = answer
    if status != "OK":
        raise imaplib.IMAP4.error(f"the server answered {status}: {data[:1]!r}")
    return data


def _validity(connection: imaplib.IMAP4) -> int:
    _, data = connection.response("UIDVALIDITY")
    return int(data[0]) if data and data[0] else 0


def _search(connection: imaplib.IMAP4, last: int) -> list[int]:
    data = _checked(connection.uid("SEARCH", f"UID {last + 1}:*"))
    found = (int(word) for word in (data[0] or b"").split() if word.isdigit())
    # "N:*" always matches the last mail, even if its UID is below N.
    return sorted(uid for uid in found if uid > last)


def _fetch(connection: imaplib.IMAP4, uid: int) -> bytes | None:
    """Return the mail, or None if it is gone or too large."""
    sizes = _checked(connection.uid("FETCH", str(uid), "(UID RFC822.SIZE)"))
    size = next((int(match[1]) for line in sizes if (match := _SIZE.search(_line(line)))), None)
    if size is None:
        return None
    if size > DEFAULT_LIMITS.mail:
        log_event("tlsrpt-report-refused", once_a_minute="imap-size", reason="report-too-large", uid=uid)
        return None
    for item in _checked(connection.uid("FETCH", str(uid), "(UID BODY.PEEK[])")):
        if isinstance(item, tuple) and len(item) == 2 and (match := _UID.search(item[0])) and int(match[1]) == uid:
            return bytes(item[1])
    return None


def _line(item: Any) -> bytes:
    return item if isinstance(item, bytes) else item[0] if isinstance(item, tuple) else b""
