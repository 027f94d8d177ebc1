"""Reports over HTTPS to a server that answers well, badly or not at all."""

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import DnsServerFailure
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.model.record import parse_rua
from mtasts_daemon.tlsrpt.send.https_delivery import MAX_WAIT, HttpsDelivery
from tests.fakes.ca import Ca, Flaw
from tests.fakes.clock import FakeClock
from tests.fakes.resolver import FakeResolver
from tests.fakes.rua import Manner, Post, RuaHost

HOST = "reports.example.com"
BODY = b"\x1f\x8bthe report"
LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


async def posted(
    ca: Ca, manner: Manner, path: str = "/v1", *, resolver: FakeResolver | None = None, **settings: Any
) -> tuple[DeliveryResult, list[Post]]:
    zone = resolver or FakeResolver()
    if resolver is None:
        zone.put(HOST, RRType.A, ["127.0.0.1"])
    given = {"ca_file": ca.pem, "allowed": LOOPBACK, "own": frozenset, "total": 10.0, **settings}
    https_delivery = HttpsDelivery(zone, FakeClock(), **given)
    try:
        async with RuaHost(ca, {HOST: manner}) as host:
            return await https_delivery.post(parse_rua(host.url(HOST, path)), BODY), host.posts
    finally:
        await https_delivery.close()


async def test_a_report_is_posted_as_section_5_4_has_it(ca: Ca) -> None:
    attempt, (post,) = await posted(ca, Manner(201), "/v1/a%2Cb?key=%21x")
    assert attempt == DeliveryResult(Result.DELIVERED)
    assert (post.method, post.host, post.target, post.body) == ("POST", HOST, "/v1/a%2Cb?key=%21x", BODY)
    assert post.headers["content-type"] == "application/tlsrpt+gzip"
    assert "content-encoding" not in post.headers
    assert post.headers["user-agent"].startswith("mtasts-daemon/")


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_only_2xx_is_a_delivery(ca: Ca, status: int) -> None:
    assert (await posted(ca, Manner(status)))[0].result is Result.DELIVERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_refuses_the_report(ca: Ca, status: int) -> None:
    attempt, posts = await posted(ca, Manner(status, (("Location", f"https://{HOST}/elsewhere"),)))
    assert attempt == DeliveryResult(Result.REFUSED, f"{status} to https://{HOST}/elsewhere")
    assert len(posts) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422])
async def test_rejected_request_is_a_permanent_failure(ca: Ca, status: int) -> None:
    assert (await posted(ca, Manner(status)))[0] == DeliveryResult(Result.REFUSED, str(status))


async def test_gone_address_is_suppressed(ca: Ca) -> None:
    assert (await posted(ca, Manner(410)))[0].result is Result.GONE


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_the_servers_own_trouble_is_for_later(ca: Ca, status: int) -> None:
    assert (await posted(ca, Manner(status)))[0] == DeliveryResult(Result.DEFERRED, str(status), host=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (format_datetime(datetime.fromtimestamp(FakeClock().wall() + 900, UTC), usegmt=True), 900.0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
        ("99999999999999999999", MAX_WAIT),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("9" * 5000, MAX_WAIT),
        ("Fri, 99 Foo 99999 00:00:00 GMT", 0.0),
    ],
)
async def test_retry_after_is_honoured_within_bounds(ca: Ca, value: str, seconds: float) -> None:
    assert (await posted(ca, Manner(429, (("Retry-After", value),))))[0].wait == seconds


async def test_silence_is_for_later(ca: Ca) -> None:
    attempt, _ = await posted(ca, Manner(hang=True), total=1.5)
    assert attempt == DeliveryResult(Result.DEFERRED, "timeout", host=True)


async def test_a_closed_connection_is_for_later(ca: Ca) -> None:
    attempt, _ = await posted(ca, Manner(close=True))
    assert (attempt.result, attempt.host) == (Result.DEFERRED, True)


async def test_a_body_without_end_is_not_read(ca: Ca) -> None:
    assert (await posted(ca, Manner(endless=True)))[0] == DeliveryResult(Result.DELIVERED)


@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        (Flaw.EXPIRED, "webpki-expired"),
        (Flaw.WRONG_NAME, "webpki-name-mismatch"),
        (Flaw.SELF_SIGNED, "webpki-self-signed"),
        (Flaw.UNTRUSTED, "webpki-untrusted"),
    ],
)
async def test_invalid_certificate_is_noted_and_the_report_is_sent(ca: Ca, flaw: Flaw, expected: str) -> None:
    attempt, posts = await posted(ca, Manner(certificate=flaw))
    assert attempt.result is Result.DELIVERED
    assert expected in attempt.detail
    assert len(posts) == 1


async def test_an_address_that_only_we_can_reach_is_not_connected_to(ca: Ca) -> None:
    attempt, posts = await posted(ca, Manner(), allowed=())
    assert (attempt.result, posts) == (Result.DEFERRED, [])
    assert "127.0.0.1: loopback" in attempt.detail


async def test_a_host_without_address_and_a_failing_lookup_are_for_later(ca: Ca) -> None:
    resolver = FakeResolver()
    assert (await posted(ca, Manner(), resolver=resolver))[0].detail == f"host-not-found: {HOST}"
    resolver.fail(HOST, RRType.A, DnsServerFailure())
    assert "host-lookup-failed" in (await posted(ca, Manner(), resolver=resolver))[0].detail


async def test_the_next_address_is_tried_where_one_does_not_connect(ca: Ca) -> None:
    resolver = FakeResolver()
    resolver.put(HOST, RRType.A, ["127.9.9.9", "127.0.0.1"])
    assert (await posted(ca, Manner(), resolver=resolver))[0] == DeliveryResult(Result.DELIVERED)


async def test_close_ends_pending_deliveries(ca: Ca, tmp_path: Path) -> None:
    async def run() -> DeliveryResult:
        resolver = FakeResolver()
        resolver.put(HOST, RRType.A, ["127.0.0.1"])
        https_delivery = HttpsDelivery(resolver, FakeClock(), ca_file=ca.pem, allowed=LOOPBACK, own=frozenset)
        async with RuaHost(ca, {HOST: Manner(hang=True)}) as host:
            posting = asyncio.create_task(https_delivery.post(parse_rua(host.url(HOST)), BODY))
            await host.seen(1)
            await https_delivery.close()
            return await posting

    assert (await run()).result is Result.DEFERRED
