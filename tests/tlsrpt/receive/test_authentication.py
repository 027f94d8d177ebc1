"""Authentication of reports: signatures, alignment, Authentication-Results and forgeries."""

import base64
import time
from collections.abc import Mapping, Sequence

import pytest

from mtasts_daemon.errors import DnsTimeout
from mtasts_daemon.tlsrpt.receive.auth_results import passed_domains
from mtasts_daemon.tlsrpt.receive.authentication import (
    Authentication,
    AuthMethod,
    SenderClaims,
    SignatureCheck,
    SignatureStatus,
    authenticate,
)
from mtasts_daemon.tlsrpt.receive.dkim_check import fetch_keys, relevant_signatures, verify_signatures
from mtasts_daemon.tlsrpt.receive.mail_header import read_header
from tests.tlsrpt.receive.corpus import key_record, mail, packed, report, signed

KEYS = {"sel._domainkey.reporter.example": key_record()}


async def verdict_of(message: bytes, keys: Mapping[str, bytes | None] = KEYS) -> Authentication | None:
    async def lookup(name: str) -> Sequence[bytes]:
        if name not in keys:
            return ()
        record = keys[name]
        if record is None:
            raise DnsTimeout
        return (record,)

    header = read_header(message)
    if header.ambiguous:
        return Authentication(AuthMethod.NONE, detail=header.ambiguous)
    signatures = relevant_signatures(header.values("dkim-signature"), header.claims(), time.time())
    checks = verify_signatures(message, signatures, await fetch_keys(signatures, lookup))
    return authenticate(header.claims(), checks)


async def verdict(message: bytes, keys: Mapping[str, bytes | None] = KEYS) -> Authentication:
    found = await verdict_of(message, keys)
    assert found is not None
    return found


MAIL = mail(packed(report()))


async def test_signature_of_the_submitter_proves_it() -> None:
    assert await verdict(signed(MAIL)) == Authentication(AuthMethod.DKIM, "reporter.example")


@pytest.mark.parametrize("tags", ["s=tlsrpt; ", "s=*; ", "s=email; ", "s=email:tlsrpt; ", "", "s=other:tlsrpt; "])
async def test_key_for_reports_or_mail_counts(tags: str) -> None:
    keys = {"sel._domainkey.reporter.example": key_record(tags=tags)}
    assert (await verdict(signed(MAIL), keys)).method is AuthMethod.DKIM


@pytest.mark.parametrize("tags", ["s=other; ", "t=y; ", "t=y:s; ", "v=DKIM2; ", "p=; ", "k=rsa; "])
async def test_key_for_other_services_or_tests_does_not_count(tags: str) -> None:
    record = key_record(tags=tags).replace(b"v=DKIM1; ", b"") if "DKIM2" in tags else key_record(tags=tags)
    assert (await verdict(signed(MAIL), {"sel._domainkey.reporter.example": record})).method is AuthMethod.NONE


async def test_signature_of_a_parent_domain_is_organizational() -> None:
    message = mail(packed(report()), sender="t@mail.reporter.example", submitter="mail.reporter.example")
    assert await verdict(signed(message)) == Authentication(AuthMethod.DKIM_ORG, "reporter.example")


async def test_unsigned_mail_proves_nothing() -> None:
    assert (await verdict(MAIL)).method is AuthMethod.NONE


@pytest.mark.parametrize(
    ("sender", "submitter"),
    [
        ("tlsrpt@google.com", "reporter.example"),
        ("tlsrpt@reporter.example", "google.com"),
        ("tlsrpt@google.com", "google.com"),
        ("tlsrpt@notreporter.example", "notreporter.example"),
        ("tlsrpt@example", "example"),
    ],
)
async def test_signature_of_another_domain_proves_nothing(sender: str, submitter: str) -> None:
    message = mail(packed(report()), sender=sender, submitter=submitter)
    assert (await verdict(signed(message))).method is AuthMethod.NONE


async def test_signature_with_a_length_is_ignored() -> None:
    message = signed(MAIL, length=True)
    assert b"l=" in message
    found = await verdict(message)
    assert found.method is AuthMethod.NONE
    assert "l=" in found.detail


async def test_body_appended_after_a_length_is_ignored() -> None:
    assert (await verdict(signed(MAIL, length=True) + b"more\r\n")).method is AuthMethod.NONE


async def test_changed_body_proves_nothing() -> None:
    message = signed(MAIL)
    assert (
        await verdict(message.replace(b"This is a TLS report.", b"This is a TLS Report."))
    ).method is AuthMethod.NONE


async def test_expired_signature_proves_nothing() -> None:
    message = signed(MAIL).replace(b"; t=", b"; x=1000000000; t=", 1)
    found = await verdict(message)
    assert (found.method, "expired" in found.detail) == (AuthMethod.NONE, True)


@pytest.mark.parametrize(
    "extra",
    [
        "From: tlsrpt@google.com\r\n",
        "Content-Type: text/plain\r\n",
        "X: a\r\rContent-Type: text/plain\r\n",
        "X: a\rFrom: x@google.com\r\n",
        "TLS-Report-Submitter: google.com\r\n",
        "not a header line\r\n",
    ],
)
async def test_fields_added_above_a_signed_mail_prove_nothing(extra: str) -> None:
    assert (await verdict(extra.encode() + signed(MAIL))).method is AuthMethod.NONE


async def test_harmless_fields_above_a_signed_mail_change_nothing() -> None:
    extra = b"Received: from a by b; Sat, 28 Nov 2026 01:02:03 +0000\r\nX-Spam: no\r\n"
    assert (await verdict(extra + signed(MAIL))).method is AuthMethod.DKIM


async def test_mail_with_bare_line_feeds_is_verified() -> None:
    assert (await verdict(signed(MAIL).replace(b"\r\n", b"\n"))).method is AuthMethod.DKIM


async def test_second_signature_that_counts_is_enough() -> None:
    message = signed(signed(MAIL), "google.com", who="google")
    assert await verdict(message) == Authentication(AuthMethod.DKIM, "reporter.example")


async def test_key_that_cannot_be_looked_up_defers_the_decision() -> None:
    assert await verdict_of(signed(MAIL), {"sel._domainkey.reporter.example": None}) is None


async def test_unrelated_key_that_cannot_be_looked_up_is_not_even_asked_for() -> None:
    message = signed(MAIL, "evil.example")
    assert (await verdict(message, {"sel._domainkey.evil.example": None})).method is AuthMethod.NONE


async def test_missing_key_proves_nothing() -> None:
    assert (await verdict(signed(MAIL), {})).method is AuthMethod.NONE


async def test_hostile_blanks_do_not_take_quadratic_time() -> None:
    message = signed(MAIL) + b" " * 5_000_000 + b"x\r\n"
    before = time.process_time()
    assert (await verdict(message)).method is AuthMethod.NONE
    assert time.process_time() - before < 10


async def test_key_with_a_huge_exponent_is_not_used() -> None:
    der = _public_der((1 << 4000) + 1, (1 << 4095) + 1)
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)
    found = await verdict(signed(MAIL), {"sel._domainkey.reporter.example": record})
    assert (found.method, "exponent" in found.detail) == (AuthMethod.NONE, True)


def _public_der(exponent: int, modulus: int) -> bytes:
    def item(tag: int, body: bytes) -> bytes:
        length = len(body)
        size = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2, "big")
        return bytes([tag]) + size + body

    def integer(value: int) -> bytes:
        return item(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    inner = item(0x30, integer(modulus) + integer(exponent))
    algorithm = item(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    return item(0x30, algorithm + item(3, b"\0" + inner))


# -- the decision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("senders", [(), ("a.example", "b.example"), ("a.example", "a.example")])
def test_mail_without_exactly_one_sender_proves_nothing(senders: tuple[str, ...]) -> None:
    checks = [SignatureCheck("a.example", SignatureStatus.PASS)]
    found = authenticate(SenderClaims(senders), checks)
    assert found is not None
    assert found.method is AuthMethod.NONE


def test_trusted_results_of_another_host_count_as_local() -> None:
    claims = SenderClaims(("reporter.example",), ("reporter.example",))
    found = authenticate(claims, [], frozenset({"reporter.example"}))
    assert found == Authentication(AuthMethod.LOCAL, "reporter.example")


def test_trusted_results_for_a_signature_with_a_length_do_not_count() -> None:
    claims = SenderClaims(("reporter.example",))
    checks = [SignatureCheck("reporter.example", SignatureStatus.FAIL, "l=", partial=True)]
    found = authenticate(claims, checks, frozenset({"reporter.example"}))
    assert found is not None
    assert found.method is AuthMethod.NONE


@pytest.mark.parametrize(
    ("fields", "domains"),
    [
        (["mx.example.net; dkim=pass header.d=a.example"], {"a.example"}),
        (["mx.example.net 1; spf=pass; dkim=pass (2048-bit) header.d=A.example header.s=x"], {"a.example"}),
        (["mx.example.net; dkim=pass header.i=@a.example"], {"a.example"}),
        (["mx.example.net; dkim=pass header.d=a.example; dkim=pass header.d=b.example"], {"a.example", "b.example"}),
        (["mx.example.net; dkim=fail header.d=a.example"], set()),
        (['mx.example.net; dkim=fail reason="dkim=pass header.d=a.example"'], set()),
        (["mx.example.net; dkim=fail (; dkim=pass header.d=a.example)"], set()),
        (["mx.example.net; dkim=fail (\\); dkim=pass header.d=a.example"], set()),
        (["other.example; dkim=pass header.d=a.example"], set()),
        (["mx.example.net.evil.example; dkim=pass header.d=a.example"], set()),
        (["mx.example.net; none", "mx.example.net; dkim=pass header.d=a.example"], set()),
        (["other.example; none", "mx.example.net; dkim=pass header.d=a.example"], {"a.example"}),
        (["(comment) mx.example.net; dkim=pass header.d=a.example"], {"a.example"}),
        ([""], set()),
        (['"unterminated; dkim=pass header.d=a.example'], set()),
    ],
)
def test_authentication_results_of_trusted_hosts_are_read(fields: list[str], domains: set[str]) -> None:
    assert passed_domains(fields, frozenset({"mx.example.net"})) == domains
