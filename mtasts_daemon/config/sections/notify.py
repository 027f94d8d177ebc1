"""Alerts to the operator: what may be written below ``notify``."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator

from ...text import sanitize
from ..fields import FilePath, Section, parse_field
from ..problems import BadValue, Unresolved
from ..values import HostPort
from .tlsrpt import Mailbox

__all__ = ["NotifySettings"]


def _url(text: str) -> str:
    plain = text.isascii() and text.isprintable() and " " not in text
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and "@" not in parts.netloc
    except ValueError:
        valid = False
    if not plain or not valid:
        raise BadValue(f'"{sanitize(text)}" is not a webhook', "write http(s)://HOST[:PORT]/PATH")
    return text


class NotifySettings(Section):
    """Where alerts are sent. Off without mail and webhook; alerts are logged in any case."""

    mail: Mailbox | None = Field(default=None, description="The e-mail address that receives alerts.")
    sender: Mailbox | None = Field(default=None, description="The From address of alert mails. Default: that of mail.")
    smtp: Annotated[HostPort, parse_field(HostPort)] = Field(
        default=HostPort("127.0.0.1", 25), description="HOST:PORT of the mail server that sends alert mails."
    )
    smtp_starttls: StrictBool = Field(
        default=False, description="Require TLS to that server, with a certificate that is valid for its name."
    )
    smtp_user: StrictStr | None = Field(default=None, description="User name for that server. Default: no login.")
    smtp_password_file: FilePath | None = Field(
        default=None, description="A file with the password; not readable by others."
    )
    webhook: Annotated[StrictStr, AfterValidator(_url)] | None = Field(
        default=None, description="The URL that receives alerts as JSON by POST."
    )
    webhook_token_file: FilePath | None = Field(
        default=None, description="A file with a bearer token for the webhook; not readable by others."
    )

    @model_validator(mode="after")
    def _complete(self) -> "NotifySettings":
        if self.smtp_user and self.smtp_password_file is None:
            raise Unresolved("smtp_user needs smtp_password_file", "add smtp_password_file")
        return self
