"""Submitting report mails to a real mail server that accepts, rejects, hangs or closes."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.send.smtp_delivery import SmtpServer, submit
from tests.fakes.ca import Ca, Flaw
from tests.fakes.rua import Mail, RuaMail

MESSAGE = b"From: a@sender.example\r\nTo: b@example.com\r\n\r\n.one dot\r\ntext\r\n"
SENDER = "tlsrpt+0123@sender.example"


async def handed_in(server: RuaMail, name: str = "127.0.0.1", **settings: Any) -> DeliveryResult:
    """Submit one mail, on another thread than the server's, and return the result."""
    async with server:
        where = SmtpServer(name, server.address[1], **{"timeout": 10.0, **settings})
        return await asyncio.to_thread(submit, where, SENDER, "b@example.com", MESSAGE)


async def test_mail_is_submitted_byte_for_byte_with_its_envelope_sender() -> None:
    server = RuaMail()
    assert await handed_in(server) == DeliveryResult(Result.DELIVERED)
    assert server.taken == [Mail(SENDER, ("b@example.com",), MESSAGE, "", tls=False)]


@pytest.mark.parametrize("command", ["rcpt", "data"])
async def test_reply_to_recipient_or_message_concerns_this_report(command: str) -> None:
    later = await handed_in(RuaMail(**{command: "450 4.2.0 greylisted"}))
    assert later == DeliveryResult(Result.DEFERRED, "450 4.2.0 greylisted")
    never = await handed_in(RuaMail(**{command: "550 5.1.1 no such user"}))
    assert never == DeliveryResult(Result.REFUSED, "550 5.1.1 no such user")


@pytest.mark.parametrize("answer", ["550 5.7.1 you may not send", "421 4.3.2 shutting down"])
async def test_rejected_sender_defers_all_mail(answer: str) -> None:
    assert await handed_in(RuaMail(mail=answer)) == DeliveryResult(Result.DEFERRED, answer, host=True)


async def test_status_421_concerns_the_server() -> None:
    assert (await handed_in(RuaMail(rcpt="421 4.3.2 shutting down"))).host


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_silence_and_a_closed_connection_defer_the_report(command: str) -> None:
    silent = await handed_in(RuaMail(hang=command), timeout=1.0)
    assert (silent.result, silent.host) == (Result.DEFERRED, True)
    assert "timed out" in silent.detail
    closed = await handed_in(RuaMail(close=command))
    assert (closed.result, closed.host) == (Result.DEFERRED, True)


def test_missing_server_defers_the_report() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    found = submit(SmtpServer("127.0.0.1", port), SENDER, "b@example.com", MESSAGE)
    assert (found.result, found.host) == (Result.DEFERRED, True)
    assert "refused" in found.detail


async def test_tls_and_login_are_used_if_configured(tmp_path: Path) -> None:
    ca = Ca(tmp_path)
    server = RuaMail(certificate=ca.issue("localhost"), password="secret")
    settings = {"starttls": True, "ca_file": ca.pem, "user": "me", "password": "secret"}
    assert await handed_in(server, name="localhost", **settings) == DeliveryResult(Result.DELIVERED)
    assert (server.taken[0].user, server.taken[0].tls) == ("me", True)


@pytest.mark.parametrize(
    ("flaw", "offered", "password"),
    [(Flaw.WRONG_NAME, True, "secret"), (Flaw.EXPIRED, True, "secret"), (Flaw.GOOD, False, ""), (Flaw.GOOD, True, "x")],
)
async def test_no_mail_is_submitted_without_required_tls_and_login(
    flaw: Flaw, offered: bool, password: str, tmp_path: Path
) -> None:
    ca = Ca(tmp_path)
    server = RuaMail(certificate=ca.issue("localhost", flaw=flaw) if offered else None, password="secret")
    settings = {"starttls": True, "ca_file": ca.pem, "user": "me", "password": password}
    found = await handed_in(server, name="localhost", **settings)
    assert (found.result, found.host) == (Result.DEFERRED, True)
    assert server.taken == []


async def test_reply_of_the_server_is_short_and_printable() -> None:
    detail = (await handed_in(RuaMail(rcpt=f"550 5.1.1 \x1b[31m{'x' * 400}"))).detail
    assert detail.isascii()
    assert detail.isprintable()
    assert len(detail) < 300
