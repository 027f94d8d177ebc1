"""Hand alerts over: to a mail server by SMTP, to a webhook by HTTP POST."""

import asyncio
import smtplib
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import Config
from ..config.secrets import read_secret
from ..config.sections.notify import NotifySettings
from .alert import Alert
from .service import AlertChannel, alert_mail, webhook_body

__all__ = ["channels_for"]

_SMTP_WITHIN = 30.0
_WEBHOOK_WITHIN = 30.0


def channels_for(config: Config, environ: Mapping[str, str]) -> list[AlertChannel]:
    """Return the channels of the configuration. Raises ``ConfigError`` if a secret cannot be read."""
    settings, found = config.notify, list[AlertChannel]()
    if settings.mail is not None:
        password = _secret(settings.smtp_password_file, environ)
        mail = _MailDelivery(settings, settings.mail, password, config.https.ca_file)
        found.append(AlertChannel("mail", mail))
    if settings.webhook is not None:
        token = _secret(settings.webhook_token_file, environ)
        found.append(AlertChannel("webhook", _WebhookDelivery(settings.webhook, token, config.https.ca_file)))
    return found


def _secret(path: Path | None, environ: Mapping[str, str]) -> str:
    return "" if path is None else read_secret(path, environ).decode("utf-8", "replace").strip()


class _MailDelivery:
    def __init__(self, settings: NotifySettings, recipient: str, password: str, ca_file: Path | None) -> None:
        self._settings = settings
        self._recipient = recipient
        self._sender = settings.sender or recipient
        self._password = password
        self._ca_file = ca_file

    async def __call__(self, alerts: Sequence[Alert]) -> None:
        message = alert_mail(alerts, self._sender, self._recipient, time.time())
        await asyncio.to_thread(self._submit, message)

    def _submit(self, message: bytes) -> None:
        settings = self._settings
        try:
            with smtplib.SMTP(settings.smtp.host, settings.smtp.port, timeout=_SMTP_WITHIN) as client:
                if settings.smtp_starttls:
                    client.starttls(context=ssl.create_default_context(cafile=self._ca_file))
                if settings.smtp_user:
                    client.login(settings.smtp_user, self._password)
                client.sendmail(self._sender, [self._recipient], message)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            # One type for all: SMTPException is an OSError, but its text is not the sentence.
            raise OSError(f"{settings.smtp}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


class _WebhookDelivery:
    def __init__(self, url: str, token: str, ca_file: Path | None) -> None:
        self._url = url
        self._token = token
        self._ca_file = ca_file

    async def __call__(self, alerts: Sequence[Alert]) -> None:
        import aiohttp

        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        context = ssl.create_default_context(cafile=self._ca_file)
        timeout = aiohttp.ClientTimeout(total=_WEBHOOK_WITHIN)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.post(
                    self._url, data=webhook_body(alerts), headers=headers, ssl=context, allow_redirects=False
                ) as response,
            ):
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise OSError(f"webhook: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
        if not 200 <= status < 300:
            raise OSError(f"webhook: status {status}")
