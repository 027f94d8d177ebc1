"""Reports posted by HTTPS, RFC 8460 section 5.4: 201, 400, 401, 413, 415, 429 or 503."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ...errors import MtaStsError
from ...log import log_event
from .authentication import Authentication, AuthMethod
from .model import ReportSource
from .replies import reply_to_accepted, reply_to_error
from .writes import Accepted

__all__ = ["MAX_BODY", "PATH", "HttpAnswer", "PostedReports"]

PATH = "/v1/tls-reports"
MAX_BODY = 5 << 20
_TYPES = frozenset(
    {"application/tlsrpt+gzip", "application/tlsrpt+json", "application/gzip", "application/x-gzip", "application/json"}
)
_TAKE_SECONDS = 25.0

TakeBody = Callable[[bytes, ReportSource, Authentication], Awaitable[Accepted]]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, text and further header fields."""

    status: int
    text: str
    headers: Mapping[str, str]


class PostedReports:
    """Answers POST requests on any event loop. ``token`` is that of own daemons, or None."""

    def __init__(self, take: TakeBody, token: Callable[[], str | None]) -> None:
        self._take = take
        self._token = token

    async def answer(self, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Take the report in ``body``; nothing is answered with 201 before it is committed."""
        media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type not in _TYPES:
            return _answer(415, "send application/tlsrpt+gzip or application/tlsrpt+json (RFC 8460 section 5.4)")
        if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            return _answer(415, "send the report without Content-Encoding")
        verdict = self._verdict(headers.get("Authorization"))
        if verdict is None:
            return HttpAnswer(401, "the token is wrong\n", {"WWW-Authenticate": "Bearer"})
        try:
            async with asyncio.timeout(_TAKE_SECONDS):
                accepted = await self._take(body, ReportSource.HTTPS, verdict)
            reply = reply_to_accepted(accepted)
        except MtaStsError as error:
            log_event("tlsrpt-report-refused", once_a_minute=error.slug, reason=error.slug, error=error)
            reply = reply_to_error(error)
        except (TimeoutError, RuntimeError):
            return _answer(503, "the report was not stored in time")
        except Exception:
            logging.getLogger(__name__).exception("tlsrpt-intake-internal-error")
            return _answer(503, "internal error")
        return _answer(reply.http, reply.text)

    def _verdict(self, authorization: str | None) -> Authentication | None:
        """Return the verdict, or None if a token was sent that is not ours."""
        if authorization is None:
            return Authentication(AuthMethod.HTTPS, detail="posted by HTTPS, which does not prove the sender")
        scheme, _, sent = authorization.partition(" ")
        token = self._token()
        if scheme.lower() != "bearer" or token is None:
            return None
        # Bytes of a header that are not UTF-8 come as surrogates.
        if not hmac.compare_digest(sent.strip().encode("utf-8", "surrogateescape"), token.encode()):
            return None
        return Authentication(AuthMethod.FLEET, detail="posted with the token of own daemons")


def _answer(status: int, text: str) -> HttpAnswer:
    headers = {"Retry-After": "3600" if status == 429 else "300"} if status in (429, 503) else {}
    return HttpAnswer(status, f"{text}\n", headers)
