"""Fetching policies over HTTPS: requests, accepted responses, and the error of each failure."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mtasts_daemon import __version__, errors
from mtasts_daemon.https.connector import MAX_RECEIVED
from mtasts_daemon.https.fetch_limiter import FetchLimiter
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.policy.draft2017 import DRAFT_2017
from mtasts_daemon.policy.mtasts import MAX_BODY
from mtasts_daemon.ports import FetchedBody
from tests.fakes.ca import Ca, Flaw
from tests.fakes.https import POLICY, Behaviour, Framing, Manner
from tests.https.https_world import DOMAIN, HOST, SOON, World, failure, fetched

# -- what is sent ------------------------------------------------------------------------------------------


async def test_policy_is_fetched_as_served(ca: Ca) -> None:
    assert await fetched(ca, Behaviour()) == FetchedBody(POLICY)


async def test_request_asks_for_the_well_known_path_with_nothing_to_follow_it(ca: Ca) -> None:
    async with World(ca, Behaviour(headers=(("Set-Cookie", "a=b"), ("Cache-Control", "max-age=9")))) as world:
        await world.fetch()
        await world.fetch()
        first, second = world.host.requests
        assert world.host.connections == 2
    assert first == second
    assert (first.sni, first.method, first.path) == (HOST, "GET", "/.well-known/mta-sts.txt")
    assert dict(first.headers) == {
        "host": f"{HOST}:{world.host.port}",
        "accept": "text/plain, */*;q=0.1",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": f"mtasts-daemon/{__version__}",
    }


async def test_no_proxy_is_taken_from_the_environment(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await fetched(ca, Behaviour())).body == POLICY


# -- what is taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", list(Framing))
async def test_body_of_64_kib_is_taken(ca: Ca, framing: Framing) -> None:
    assert len((await fetched(ca, Behaviour(size=MAX_BODY, framing=framing))).body) == MAX_BODY


@pytest.mark.parametrize("framing", list(Framing))
async def test_one_octet_more_than_64_kib_is_refused(ca: Ca, framing: Framing) -> None:
    assert type(await failure(ca, Behaviour(size=MAX_BODY + 1, framing=framing))) is errors.PolicyTooLarge


@pytest.mark.parametrize("media_type", ["text/plain", "TEXT/Plain; charset=utf-8", "text/plain ;x"])
async def test_parameters_and_case_of_the_media_type_do_not_matter(ca: Ca, media_type: str) -> None:
    assert (await fetched(ca, Behaviour(media_type=media_type))).body == POLICY


async def test_empty_body_is_taken(ca: Ca) -> None:
    assert (await fetched(ca, Behaviour(body=b""))).body == b""


TOLERATED = {
    "a header field of 9,000 bytes": Behaviour(headers=(("X", "x" * 9000),)),
    "a first line of 9,000 bytes": Behaviour(reason="x" * 9000),
    "200 header fields": Behaviour(headers=tuple((f"X-{number}", "x") for number in range(200))),
    "bytes after the body": Behaviour(headers=(("Connection", "close"),), trailing=b"<!-- cached -->"),
    "bytes after a chunked body": Behaviour(
        framing=Framing.CHUNKED, headers=(("Connection", "close"),), trailing=b"<!-- cached -->"
    ),
    "Content-Encoding UTF-8": Behaviour(headers=(("Content-Encoding", "UTF-8"),)),
    "Content-Encoding none": Behaviour(headers=(("Content-Encoding", "none"),)),
    "no close_notify after a whole body": Behaviour(manner=Manner.NO_CLOSE_NOTIFY),
    "no close_notify after a chunked body": Behaviour(manner=Manner.NO_CLOSE_NOTIFY, framing=Framing.CHUNKED),
}


@pytest.mark.parametrize("case", TOLERATED)
async def test_harmless_mistakes_of_a_server_are_tolerated(ca: Ca, case: str) -> None:
    assert (await fetched(ca, TOLERATED[case])).body == POLICY


async def test_identity_is_no_content_encoding(ca: Ca) -> None:
    assert (await fetched(ca, Behaviour(headers=(("Content-Encoding", "Identity"),)))).body == POLICY


HEADER_FLOOD = tuple((f"X-{number}", "x" * 4096) for number in range(MAX_RECEIVED // 4096 + 1))

REFUSED = {
    "a missing policy": (Behaviour(status=404), errors.PolicyHttpStatus, "404"),
    "a server error": (Behaviour(status=503), errors.PolicyHttpStatus, "503"),
    "another success": (Behaviour(status=206), errors.PolicyHttpStatus, "206"),
    "a redirect": (
        Behaviour(status=301, headers=(("Location", "https://mta-sts.example.com/x"),)),
        errors.PolicyRedirect,
        "301 to https://mta-sts.example.com/x",
    ),
    "a redirect with a bad target": (
        Behaviour(status=302, headers=(("Location", "\x7f\xe9"),)),
        errors.PolicyRedirect,
        "302 to \\x7f",
    ),
    "not modified": (Behaviour(status=304, body=b""), errors.PolicyRedirect, "304 to nowhere"),
    "HTML": (Behaviour(media_type="text/html"), errors.PolicyMediaType, "text/html"),
    "no media type": (Behaviour(media_type=None), errors.PolicyMediaType, "no Content-Type"),
    "JSON": (Behaviour(media_type="application/json"), errors.PolicyMediaType, "application/json"),
    "a gzip bomb": (Behaviour(size=50_000_000, gzip=True), errors.PolicyEncoding, "gzip"),
    "an unknown encoding": (
        Behaviour(headers=(("Content-Encoding", "br, identity"),)),
        errors.PolicyEncoding,
        "br, identity",
    ),
    "a transfer encoding": (
        Behaviour(framing=Framing.CLOSE, headers=(("Transfer-Encoding", "gzip, chunked"),), body=b"0\r\n\r\n"),
        errors.PolicyEncoding,
        "Transfer-Encoding gzip, chunked",
    ),
    "a flood of header fields": (Behaviour(headers=HEADER_FLOOD), errors.PolicyTooLarge, "bytes came"),
    "endless chunk extensions": (
        Behaviour(
            framing=Framing.CLOSE,
            headers=(("Transfer-Encoding", "chunked"),),
            body=b"1;" + b"x" * MAX_RECEIVED + b"\r\nv\r\n0\r\n\r\n",
        ),
        errors.PolicyHttpBroken,
        "",
    ),
    "a header field that is none": (Behaviour(headers=(("X\x00", "x"),)), errors.PolicyHttpBroken, ""),
    "two lengths": (Behaviour(headers=(("Content-Length", "1"),)), errors.PolicyHttpBroken, ""),
    "garbage": (Behaviour(manner=Manner.GARBAGE), errors.PolicyHttpBroken, ""),
    "no answer": (Behaviour(manner=Manner.CLOSE), errors.PolicyHttpBroken, "closed"),
    "a reset": (Behaviour(manner=Manner.RESET), errors.PolicyHttpBroken, ""),
    "half a body": (Behaviour(manner=Manner.CLOSE_MID_BODY), errors.PolicyHttpBroken, "ended early"),
    "half a chunked body": (
        Behaviour(manner=Manner.CLOSE_MID_BODY, framing=Framing.CHUNKED),
        errors.PolicyHttpBroken,
        "ended early",
    ),
    "a body that ends without close_notify": (
        Behaviour(manner=Manner.NO_CLOSE_NOTIFY, framing=Framing.CLOSE),
        errors.PolicyHttpBroken,
        "close_notify",
    ),
    "TLS 1.1": (Behaviour(manner=Manner.TLS11), errors.PolicyTlsFailed, ""),
    "a close in the handshake": (Behaviour(manner=Manner.CLOSE_TLS), errors.PolicyTlsFailed, "handshake"),
    "no TLS": (Behaviour(manner=Manner.NOT_TLS), errors.PolicyTlsFailed, ""),
    "an expired certificate": (Behaviour(certificate=Flaw.EXPIRED), errors.WebPkiExpired, "expired"),
    "a future certificate": (Behaviour(certificate=Flaw.NOT_YET_VALID), errors.WebPkiNotYetValid, "not yet valid"),
    "another's certificate": (Behaviour(certificate=Flaw.WRONG_NAME), errors.WebPkiNameMismatch, HOST),
    "a common name": (Behaviour(certificate=Flaw.CN_ONLY), errors.WebPkiNameMismatch, HOST),
    "a self-signed certificate": (Behaviour(certificate=Flaw.SELF_SIGNED), errors.WebPkiSelfSigned, "self-signed"),
    "an unknown authority": (Behaviour(certificate=Flaw.UNTRUSTED), errors.WebPkiUntrusted, "issuer"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_response_that_is_no_policy_is_rejected_by_name(ca: Ca, case: str) -> None:
    behaviour, leaf, detail = REFUSED[case]
    error = await failure(ca, behaviour)
    assert type(error) is leaf
    assert detail in error.detail


async def test_redirect_is_not_followed(ca: Ca) -> None:
    async with World(ca, Behaviour(status=307, headers=(("Location", "/.well-known/mta-sts.txt"),))) as world:
        with pytest.raises(errors.PolicyRedirect):
            await world.fetch()
        assert len(world.host.requests) == 1


async def test_name_that_the_policy_host_does_not_know_fails_its_handshake(ca: Ca) -> None:
    async with World(ca, Behaviour()) as world:
        world.resolver.put("mta-sts.example.net", RRType.A, ["127.0.0.1"])
        with pytest.raises(errors.PolicyTlsFailed, match="UNRECOGNIZED_NAME"):
            await world.fetch("example.net")


async def test_systems_trust_anchors_are_the_default(ca: Ca) -> None:
    assert type(await failure(ca, Behaviour(), ca_file=None)) is errors.WebPkiUntrusted


async def test_ca_file_that_cannot_be_read_is_our_failure(ca: Ca, tmp_path: Path) -> None:
    async with World(ca, Behaviour(), ca_file=tmp_path / "ca.pem") as world:
        with pytest.raises(errors.CaCertificatesMissing, match=r"ca\.pem: No such file"):
            await world.fetch()
        assert world.host.connections == 0
        assert "ca.pem" in (world.fetcher.own_failure or "")


# -- time --------------------------------------------------------------------------------------------------


async def test_host_that_does_not_answer_completely_in_time_is_given_up(ca: Ca) -> None:
    slow = [Behaviour(manner=manner) for manner in (Manner.HANG, Manner.HANG_MID_BODY, Manner.HANG_TLS)]
    slow.append(Behaviour(manner=Manner.DRIP, interval=0.02))
    failures = await asyncio.gather(*(failure(ca, behaviour, total=SOON) for behaviour in slow))
    assert [type(error) for error in failures] == [errors.PolicyTimeout] * len(slow)


async def test_slow_answer_in_time_is_taken(ca: Ca) -> None:
    assert (await fetched(ca, Behaviour(manner=Manner.DRIP, interval=0.0001))).body == POLICY


async def test_total_time_includes_dns(ca: Ca) -> None:
    async with World(ca, Behaviour(), total=SOON) as world:
        world.resolver.gates[HOST, RRType.AAAA] = world.resolver.gates[HOST, RRType.A] = asyncio.Event()
        with pytest.raises(errors.PolicyHostLookupFailed, match="in time"):
            await world.fetch()


async def test_cancelled_fetch_is_cancelled_and_gives_its_slot_back(ca: Ca) -> None:
    async with World(ca, Behaviour(manner=Manner.HANG), limit=1) as world:
        fetch = asyncio.create_task(world.fetch())
        await world.host.seen(1)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        world.host.behaviours[DOMAIN] = Behaviour()
        assert (await world.fetch()).body == POLICY


async def test_closing_ends_the_fetches_under_way_and_forbids_new_ones(ca: Ca) -> None:
    async with World(ca, Behaviour(manner=Manner.HANG)) as world, asyncio.timeout(5):
        fetch = asyncio.create_task(world.fetch())
        await world.host.seen(1)
        await world.fetcher.close()
        for ended in (fetch, world.fetch()):
            with pytest.raises((errors.PolicyHttpBroken, errors.HttpsUnavailable)):
                await ended
        assert world.host.connections == 1


async def test_hanging_network_stalls_no_other_and_no_live_policy(ca: Ca) -> None:
    async with World(ca, Behaviour(manner=Manner.HANG), per_network=4) as world:
        world.host.behaviours |= {"good.example": Behaviour(), "near.example": Behaviour()}
        world.resolver.put("mta-sts.good.example", RRType.A, ["127.0.1.1"])
        world.resolver.put("mta-sts.near.example", RRType.A, ["127.0.0.2"])
        async with asyncio.TaskGroup() as group:
            hung = [group.create_task(world.fetch()) for _ in range(20)]
            await world.host.seen(3)
            assert (await world.fetch("good.example")).body == POLICY
            assert (await world.fetch("near.example", live=True)).body == POLICY
            assert sum(request.sni == HOST for request in world.host.requests) == 3
            for task in hung:
                task.cancel()


def hanging(world: World, *names: str) -> None:
    """Make the policy hosts of these domains hang, each in another network."""
    for number, name in enumerate(names, 1):
        world.host.behaviours[name] = Behaviour(manner=Manner.HANG)
        world.resolver.put(f"mta-sts.{name}", RRType.A, [f"127.0.{number}.1"])


async def test_first_fetch_that_hangs_yields_to_one_that_waits(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FetchLimiter.__init__.__kwdefaults__ or {}, "patience", 0.1)

    async with World(ca, Behaviour(), total=60.0, limit=4) as world:
        names = [f"hung{number}.example" for number in range(10)]
        hanging(world, *names)
        live = asyncio.create_task(world.fetch(names[0], live=True))
        hung = [asyncio.create_task(world.fetch(name)) for name in names]
        await world.host.seen(4)
        assert (await world.fetch()).body == POLICY
        assert {type(task.exception()) for task in hung if task.done()} == {errors.PolicyFetchBusy}
        assert not live.done()
        await world.fetcher.close()
        await asyncio.gather(live, *hung, return_exceptions=True)


# -- the 2017 draft ----------------------------------------------------------------------------------------

DRAFT = Behaviour(status=404, json_body=b'{"version": "STSv1"}')


@pytest.mark.parametrize("media_type", ["application/json", "text/json; charset=utf-8"])
async def test_missing_policy_is_fetched_as_json_if_the_draft_is_enabled(ca: Ca, media_type: str) -> None:
    behaviour = replace(DRAFT, json_media_type=media_type)
    assert await fetched(ca, behaviour, policy_format=DRAFT_2017) == FetchedBody(b'{"version": "STSv1"}')


async def test_draft_is_not_asked_for_otherwise(ca: Ca) -> None:
    assert type(await failure(ca, DRAFT)) is errors.PolicyHttpStatus
    assert type(await failure(ca, replace(DRAFT, status=500), policy_format=DRAFT_2017)) is errors.PolicyHttpStatus
    assert await fetched(ca, replace(DRAFT, status=200), policy_format=DRAFT_2017) == FetchedBody(POLICY)


async def test_draft_must_be_there_and_be_json(ca: Ca) -> None:
    assert (await failure(ca, Behaviour(status=404), connections=2, policy_format=DRAFT_2017)).detail == "404"
    text = replace(DRAFT, json_media_type="text/plain")
    assert type(await failure(ca, text, connections=2, policy_format=DRAFT_2017)) is errors.PolicyMediaType
