"""Delivery status notifications (RFC 3464): the report they belong to, and their status."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.errors import DsnError
from mtasts_daemon.tlsrpt.model.dsn import MAX_DSN, Bounce, parse_dsn

TAG = "0123456789abcdef0123"
OTHER = "f" * 20
GROUP = """\
Final-Recipient: rfc822; tls@example.com
Original-Recipient: rfc822;tls@example.com
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.com
Diagnostic-Code: smtp; 550 5.1.1 <tls@example.com>: Recipient address
    rejected: User unknown
"""


def dsn(
    *, to: str = f"To: tlsrpt+{TAG}@sender.example", groups: str = GROUP, returned: str = "", kind: str = "text/plain"
) -> bytes:
    """Return a notification as Postfix writes it."""
    text = f"""\
Return-Path: <>
Date: Tue, 22 Sep 2026 00:10:00 +0000 (UTC)
From: MAILER-DAEMON@sender.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
{to}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
    boundary="4XW.1/sender.example"

This is a MIME-encapsulated message.

--4XW.1/sender.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

I'm sorry to have to inform you that your message could not be delivered.

--4XW.1/sender.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; sender.example
Arrival-Date: Tue, 22 Sep 2026 00:09:59 +0000 (UTC)

{groups}
--4XW.1/sender.example
Content-Description: Undelivered Message
Content-Type: {kind}

{returned}

--4XW.1/sender.example--
"""
    return text.encode()


DETAIL = "smtp; 550 5.1.1 <tls@example.com>: Recipient address rejected: User unknown"


def test_unknown_address_is_a_permanent_failure() -> None:
    assert parse_dsn(dsn()) == Bounce(TAG, failed=True, permanent=True, status="5.1.1", detail=DETAIL)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_lines_may_end_as_they_come_from_a_pipe_or_over_smtp(line_end: bytes) -> None:
    assert parse_dsn(dsn().replace(b"\n", line_end)).permanent


@pytest.mark.parametrize(
    ("action", "status", "failed", "permanent"),
    [
        ("failed", "5.4.4", True, True),
        ("Failed", "5.7.1 (refused)", True, True),
        ("failed", "4.4.7", True, False),
        ("failed", "", True, False),
        ("delayed", "4.4.1", False, False),
        ("delivered", "2.0.0", False, False),
        ("relayed", "2.0.0", False, False),
        ("", "5.1.1", False, False),
    ],
)
def test_only_what_failed_with_a_status_of_5_is_for_good(
    action: str, status: str, failed: bool, permanent: bool
) -> None:
    bounce = parse_dsn(dsn(groups=f"Final-Recipient: rfc822; a@example.com\nAction: {action}\nStatus: {status}\n"))
    assert (bounce.failed, bounce.permanent) == (failed, permanent)


def test_of_several_recipients_the_worst_counts() -> None:
    delayed = "Final-Recipient: rfc822; b@example.com\nAction: delayed\nStatus: 4.0.0\n"
    for groups in (f"{GROUP}\n{delayed}", f"{delayed}\n{GROUP}"):
        assert parse_dsn(dsn(groups=groups)).status == "5.1.1"


@pytest.mark.parametrize("name", ["Delivered-To", "X-Original-To", "Envelope-To", "To"])
def test_the_address_it_was_sent_to_says_which_report_it_was(name: str) -> None:
    assert parse_dsn(dsn(to=f"{name}: <tlsrpt+{TAG}@sender.example>")).tag == TAG


@pytest.mark.parametrize("kind", ["message/rfc822", "text/rfc822-headers"])
def test_so_does_the_report_mail_or_its_header_that_is_returned(kind: str) -> None:
    returned = f"From: tlsrpt@sender.example\nMessage-ID: <{TAG}@sender.example>\nTo: tls@example.com\n\ntext"
    plain = "To: tlsrpt@sender.example"
    assert parse_dsn(dsn(to=plain, returned=returned, kind=kind)).tag == TAG
    assert parse_dsn(dsn(returned=returned.replace(TAG, OTHER), kind=kind)).tag == TAG


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "no part"),
        (b"Subject: hello\n\nworld", "no part"),
        (dsn(groups=""), "no part"),
        (dsn(to="To: tlsrpt@sender.example"), "no report of ours"),
        (dsn(to=f"To: tlsrpt+{TAG[:-1]}@sender.example"), "no report of ours"),
        (dsn(to=f"Message-ID: <{TAG}@sender.example>"), "no report of ours"),
    ],
)
def test_message_that_is_no_notification_is_rejected(octets: bytes, why: str) -> None:
    with pytest.raises(DsnError, match=why):
        parse_dsn(octets)


def test_diagnostic_text_is_one_short_printable_line() -> None:
    said = f"Action: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; \x1b[31m{'x' * 5000}\n"
    detail = parse_dsn(dsn(groups=f"Final-Recipient: rfc822; a@b.c\n{said}")).detail
    assert detail.isascii()
    assert detail.isprintable()
    assert len(detail) < 300


def test_parts_within_parts_without_end_are_survived() -> None:
    nested = "".join(f'Content-Type: multipart/mixed; boundary="{n}"\n\n--{n}\n' for n in range(3000))
    with pytest.raises(DsnError):
        parse_dsn(f"MIME-Version: 1.0\n{nested}".encode())


def test_a_mail_without_end_is_read_to_a_bound() -> None:
    assert parse_dsn(dsn() + b"x" * (2 * MAX_DSN)).permanent


mutations = st.lists(st.tuples(st.integers(0, 1500), st.binary(max_size=3)), max_size=5)


@given(st.binary(max_size=300) | mutations.map(lambda found: _mutated(dsn(), found)))
def test_any_octets_are_a_bounce_or_none(octets: bytes) -> None:
    try:
        bounce = parse_dsn(octets)
    except DsnError:
        return
    assert len(bounce.tag) == 20
    assert bounce.detail.isprintable()


def _mutated(octets: bytes, mutations: list[tuple[int, bytes]]) -> bytes:
    for at, new in mutations:
        octets = octets[:at] + new + octets[at + len(new) :]
    return octets
