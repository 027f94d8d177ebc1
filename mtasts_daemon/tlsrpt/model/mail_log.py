"""Parse the mail log of a Postfix without TLSRPT support into TLS sessions by recipient domain.

smtp(8) logs a TLS handshake in lines without a queue id, and the recipient in a later line. It makes one delivery at a
time, so all lines of one process up to a recipient's line belong to that recipient's domain. With
``smtp_tls_connection_reuse``, tlsproxy(8) logs why a handshake failed; its lines are matched by the server's address.

Requires ``smtp_tls_loglevel = 1``. The formats are those of Postfix 3.4 to 3.10. Lines are untrusted: their content is
truncated and cleaned, and unknown lines are skipped.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from ...policy.next_hop import policy_domain
from .event import Failure, failure_of, host_name

__all__ = ["MAX_LINE", "LoggedSession", "MailLog", "moment_of"]

MAX_LINE = 4096
"""Maximum length of a line in characters; longer lines are truncated."""

_MAX_PROCESSES = 2000
_MAX_PENDING = 50
"""Maximum number of processes, and of sessions per process that wait for their recipient."""

_MAX_PROXIED = 1000
_PROXIED_FOR = timedelta(seconds=60)
"""Maximum number of failures logged by tlsproxy(8) and not yet by smtp(8), and how long they are kept."""

HANDSHAKE_FAILED = "tls-handshake-failure"
TLSA_UNUSABLE = "all-TLSA-records-unusable"


@dataclass(frozen=True, slots=True)
class LoggedSession:
    """TLS session, or if ``session`` is False an attempt without session.

    ``verified`` is True if the server was authenticated, which only a policy or DANE requires. ``tlsa`` is True for a
    DANE failure. ``mx_host`` is empty if unknown.
    """

    moment: datetime
    domain: str
    mx_host: str
    failure: Failure | None = None
    verified: bool = False
    tlsa: bool = False
    session: bool = True


# -- lines -------------------------------------------------------------------------------------------------

_LINE = re.compile(
    r"(?:<\d{1,3}>)?([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ]\S{8,26}) (\S{1,255}) "
    r"\S{1,100}/(smtp|tlsproxy)\[(\d{1,10})\]: (.*)"
)
_PEER = r"([^\s\[\]]{1,255})\[([^\s\[\]]{1,64})\](?::\d{1,5})?"
_ESTABLISHED = re.compile(rf"(Anonymous|Untrusted|Trusted|Verified) TLS connection (established|reused) to {_PEER}: ")
_NOT_VERIFIED = re.compile(rf"(?:server |CA )?certificate verification failed for {_PEER}: (.*)")
_UNTRUSTED_RESUMED = re.compile(rf"{_PEER}: re-using session with untrusted (?:certificate|peer credential)")
_UNUSABLE = re.compile(rf"warning: {_PEER}: all TLSA records unusable")
_BROKEN = re.compile(rf"SSL_connect error to {_PEER}: ")
_PROXY_BROKEN = re.compile(r"TLS handshake failed for service=\S{1,100} peer=\[([^\s\[\]]{1,64})\]:\d{1,5}")
_NOT_OFFERED = re.compile(rf"TLS is required, but (?:was not offered by host|host) {_PEER}")
_LOOKUP = re.compile(r"warning: TLS policy lookup for ([^\s/]{1,255})/([^\s/]{1,255}): (.*)")
_QUEUE_ID = re.compile(r"([0-9A-Za-z]{5,20}): (.*)")
_DELIVERY = re.compile(r"to=<(.{0,600}?)>, (?:orig_to|relay)=")
_RELAY = re.compile(r"relay=([^\s\[\],]{1,255})\[")
_STATUS = re.compile(r", dsn=[\d.]{5,11}, status=(\w{1,20}) \((.*)\)?\Z")
_NATIVE = "TLSRPT: status="

_FAILED_LOOKUPS = {
    "TLSA lookup error for": ("dnssec-invalid", "tlsa-lookup-error"),
    "no TLSA records found": ("dane-required", "no-tlsa-records"),
    "TLSA records unusable": ("tlsa-invalid", TLSA_UNUSABLE),
    "non DNSSEC destination": ("dane-required", "no-dnssec"),
}


def _certificate_failure(text: str) -> tuple[str, str]:
    """Return the result type and reason code of a rejected certificate, as Postfix 3.10 itself reports them."""
    # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH, X509_V_ERR_CERT_HAS_EXPIRED.
    if text.startswith(("num=62:", "num=64:")):
        return "certificate-host-mismatch", ""
    if text.startswith(("certificate has expired", "num=10:")):
        return "certificate-expired", ""
    if text.startswith(("not trusted by local or TLSA policy", "num=")):
        return "certificate-not-trusted", ""
    # The text after the cause (an issuer's name, a limit) would make each certificate a separate cause.
    cause = re.split(r" /| for use|\(", text, maxsplit=1)[0]
    return "validation-failure", cause[:64].strip().replace(" ", "_")


# -- processes ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """Session whose recipient is not yet known."""

    host: str
    failure: Failure | None
    verified: bool = False
    trusted: bool = False
    tlsa: bool = False


@dataclass(slots=True)
class _Process:
    """State of one smtp(8) process since its last recipient."""

    failures: dict[str, tuple[Failure, bool]] = field(default_factory=dict)
    """Failures by the server's address."""
    attempts: list[_Attempt] = field(default_factory=list)
    recipient: tuple[str, str] = ("", "")
    """Queue id and domain of the last recipient; further recipients of the same delivery may follow."""
    active: bool = False
    """True if other lines were logged since the last recipient."""
    native: bool = False
    """True if the process reports to libtlsrpt itself."""

    def add(self, attempt: _Attempt) -> None:
        """Keep the attempt, up to the limit."""
        if len(self.attempts) < _MAX_PENDING:
            self.attempts.append(attempt)

    def complete(self, queue_id: str, domain: str) -> list[_Attempt]:
        """Return the attempts for the recipient now known, and start a new delivery."""
        attempts, self.attempts = self.attempts, []
        self.failures, self.active, self.recipient = {}, False, (queue_id, domain)
        return [] if self.native else attempts


class MailLog:
    """Parser of one log. Feed it all lines in order; it yields a session when its recipient is logged."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        """``lines``; ``sessions``, and the ``failures`` among them; ``attempts`` without session; deliveries in
        ``plaintext``, which are not reported; ``native``: sessions that Postfix reports itself; ``undated`` lines;
        ``dropped``: sessions of processes removed because there were too many."""
        self._processes: dict[tuple[str, str], _Process] = {}
        self._proxied: dict[tuple[str, str], tuple[datetime, Failure, bool]] = {}

    @property
    def waiting(self) -> int:
        """Return the number of incomplete sessions and unmatched failures."""
        held = sum(len(process.attempts) + len(process.failures) for process in self._processes.values())
        return held + len(self._proxied)

    def feed(self, line: str, now: datetime) -> Iterator[LoggedSession]:
        """Yield the sessions that the line completes. ``now`` gives the year and time zone of lines without them."""
        self.counters["lines"] += 1
        found = _LINE.match(line[:MAX_LINE].rstrip())
        if found is None:
            return
        stamp, host, program, pid, text = found.groups()
        moment = moment_of(stamp, now)
        if moment is None:
            self.counters["undated"] += 1
            return
        if program == "tlsproxy":
            self._proxy_line(host, text, moment)
            return
        for session in self._smtp_line(host, pid, text, moment):
            self.counters["sessions" if session.session else "attempts"] += 1
            self.counters["failures"] += session.session and session.failure is not None
            yield session

    def _smtp_line(self, host: str, pid: str, text: str, moment: datetime) -> Iterator[LoggedSession]:
        process = self._process(host, pid)
        queued = None if text.startswith(("warning: ", _NATIVE)) else _QUEUE_ID.match(text)
        if queued is not None:
            yield from self._queue_line(host, process, queued[1], queued[2], moment)
        elif text.startswith(_NATIVE):
            process.native = process.active = True
            self.counters["native"] += 1
        elif (looked_up := _LOOKUP.match(text)) is not None:
            yield from _failed_lookup(looked_up, moment)
        elif self._handshake_line(host, process, text, moment):
            process.active = True

    def _process(self, host: str, pid: str) -> _Process:
        process = self._processes.pop((host, pid), None) or _Process()
        while len(self._processes) >= _MAX_PROCESSES:
            gone = self._processes.pop(next(iter(self._processes)))
            self.counters["dropped"] += len(gone.attempts)
        self._processes[host, pid] = process
        return process

    # -- handshakes ----------------------------------------------------------------------------------------

    def _handshake_line(self, host: str, process: _Process, text: str, moment: datetime) -> bool:
        if (found := _ESTABLISHED.match(text)) is not None:
            word, how, name, address = found.groups()
            if how == "established":
                logged = process.failures.pop(address, None)
                failure, tlsa = logged or self._proxied_failure(host, address, moment)
                process.add(_Attempt(name, failure, word == "Verified", word in ("Trusted", "Verified"), tlsa))
            return True
        if (found := _BROKEN.match(text)) is not None:
            name, address = found.groups()
            failure, tlsa = process.failures.pop(address, (None, False))
            process.add(_Attempt(name, failure or _broken(name, address), tlsa=tlsa))
            return True
        failed = _peer_failure(text)
        if failed is not None and len(process.failures) < _MAX_PENDING:
            address, failure, tlsa = failed
            process.failures.setdefault(address, (failure, tlsa))
        return failed is not None

    def _proxy_line(self, host: str, text: str, moment: datetime) -> None:
        failed = _peer_failure(text)
        if failed is None and (found := _PROXY_BROKEN.match(text)) is not None:
            failed = found[1], _broken("", found[1]), False
        if failed is None:
            return
        address, failure, tlsa = failed
        self._proxied.setdefault((host, address), (moment, failure, tlsa))
        while len(self._proxied) > _MAX_PROXIED:
            del self._proxied[next(iter(self._proxied))]

    def _proxied_failure(self, host: str, address: str, moment: datetime) -> tuple[Failure | None, bool]:
        logged_at, failure, tlsa = self._proxied.pop((host, address), (moment, None, False))
        return (failure, tlsa) if abs(moment - logged_at) <= _PROXIED_FOR else (None, False)

    def _proxied_handshake(self, host: str, name: str, moment: datetime) -> Failure:
        """Return the first unmatched failure logged by tlsproxy(8), for a line of smtp(8) without address."""
        for (where, address), (logged_at, failure, _) in self._proxied.items():
            if where == host and failure.reason_code == HANDSHAKE_FAILED and abs(moment - logged_at) <= _PROXIED_FOR:
                del self._proxied[where, address]
                return replace(failure, mx_host=name)
        return _broken(name, "")

    # -- deliveries ----------------------------------------------------------------------------------------

    def _queue_line(
        self, host: str, process: _Process, queue_id: str, text: str, moment: datetime
    ) -> Iterator[LoggedSession]:
        found = _DELIVERY.match(text)
        if found is None:
            # The line is about a server, and others will be tried.
            process.active |= self._refusal(host, process, text, "", moment)
            return
        domain = _domain(found[1])
        if not process.active and process.recipient == (queue_id, domain):
            return
        status, relay = _STATUS.search(text, found.end()), _RELAY.search(text, found.end() - len("relay="))
        if status is not None and not self._refusal(host, process, status[2], relay[1] if relay else "", moment):
            plain = not process.active and status[1] == "sent" and ", conn_use=" not in text
            self.counters["plaintext"] += plain
        for attempt in process.complete(queue_id, domain):
            if domain:
                mx_host = host_name(attempt.host)
                yield LoggedSession(moment, domain, mx_host, attempt.failure, attempt.verified, attempt.tlsa)

    def _refusal(self, host: str, process: _Process, reason: str, relay: str, moment: datetime) -> bool:
        """Add the failure if TLS is the reason why Postfix gave up a server. Return True if it is."""
        if (found := _NOT_OFFERED.match(reason)) is not None:
            name, address = found.groups()
            process.add(_Attempt(name, _failure("starttls-not-supported", name, address)))
            return True
        if reason.startswith("Cannot start TLS: handshake failure"):
            last = process.attempts[-1] if process.attempts else None
            if last is None or last.failure is None or last.failure.reason_code != HANDSHAKE_FAILED:
                process.add(_Attempt(relay, self._proxied_handshake(host, relay, moment)))
            return True
        if reason.startswith("Server certificate not "):
            if process.attempts:
                last = process.attempts[-1]
                # No other failure was logged for a certificate from a trusted issuer, so its name does not match.
                result = "certificate-host-mismatch" if last.trusted else "certificate-not-trusted"
                last.failure = last.failure or _failure(result, last.host, "")
            return True
        return False


def _peer_failure(text: str) -> tuple[str, Failure, bool] | None:
    """Return the server's address, the failure, and True for a DANE failure; None for other lines."""
    if (found := _NOT_VERIFIED.match(text)) is not None:
        name, address, cause = found.groups()
        result, reason = _certificate_failure(cause)
        return address, _failure(result, name, address, reason), cause.startswith("not trusted by local or TLSA")
    if (found := _UNTRUSTED_RESUMED.match(text)) is not None:
        return found[2], _failure("certificate-not-trusted", found[1], found[2]), False
    if (found := _UNUSABLE.match(text)) is not None:
        return found[2], _failure("tlsa-invalid", found[1], found[2], TLSA_UNUSABLE), True
    return None


def _failed_lookup(found: re.Match[str], moment: datetime) -> Iterator[LoggedSession]:
    destination, host, reason = found.groups()
    domain = _domain(destination)
    for begin, (result, code) in _FAILED_LOOKUPS.items():
        if domain and reason.startswith(begin):
            failure = _failure(result, host, "", code)
            yield LoggedSession(moment, domain, failure.mx_host, failure, tlsa=True, session=False)


def _failure(result: str, name: str, address: str, reason: str = "") -> Failure:
    return failure_of(result, "", name, "", address, "", reason)


def _broken(name: str, address: str) -> Failure:
    return _failure("validation-failure", name, address, HANDSHAKE_FAILED)


def _domain(recipient: str) -> str:
    """Return the policy domain of a recipient or a destination, or an empty string."""
    try:
        return policy_domain(recipient.rpartition("@")[2])
    except ValueError:
        return ""


# -- time --------------------------------------------------------------------------------------------------

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def moment_of(stamp: str, now: datetime) -> datetime | None:
    """Parse a timestamp of RFC 3339, journalctl's short-iso, or syslog. Return it in UTC, or None if it is invalid.

    A timestamp without a year is the latest one at most a day after ``now``, in the time zone of ``now``.
    """
    try:
        if stamp[0].isdigit():
            found = datetime.fromisoformat(stamp)
            return (found if found.tzinfo else found.replace(tzinfo=now.tzinfo)).astimezone(UTC)
        month, day = _MONTHS.index(stamp[:3]) + 1, int(stamp[4:6])
        hour, minute, second = (int(part) for part in stamp[7:].split(":"))
    except (ValueError, OverflowError):
        return None
    for year in range(now.year + 1, now.year - 9, -1):  # includes a leap year, for 29 February
        try:
            found = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=now.tzinfo)
        except ValueError:
            continue
        if found <= now + timedelta(days=1):
            return found.astimezone(UTC)
    return None
