"""The resolver with DNS servers that misbehave."""

import asyncio
import gc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from mtasts_daemon.dns import resolver as dns_port
from mtasts_daemon.dns.resolv_conf import ResolvConf
from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.errors import DnsRefused, DnsServerFailure, DnsTimeout, DnsUnreachable
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from mtasts_daemon.ports import Resolver
from tests.dns.asking import HOST, MUTE, asking, error_of
from tests.event_loop import advance, both_loops, until
from tests.fakes.dns import FakeDns

_NOBODY = ("127.0.0.1", 1)
"""Below the ephemeral ports, so that no socket of a test uses it by chance."""


@both_loops
async def test_every_type_is_asked_for_and_answered() -> None:
    zone = {
        "": ["NS a.root-servers.net."],
        "example": ["A 192.0.2.1", "AAAA 2001:db8::1", "MX 10 mx.example.", "MX 5 .", 'TXT "a" "b"'],
        "alias.example": ["40 CNAME example."],
        "_25._tcp.mx.example": ["! TLSA raw 0301", "TLSA 3 1 1 " + "ab" * 32],
    }

    async with FakeDns(zone, authenticated=True) as server, asking(server) as resolver:
        port: Resolver = resolver
        assert (await port.a("example")).records == ("192.0.2.1",)
        assert (await port.aaaa("alias.example")) == DnsAnswer(
            "alias.example", ("2001:db8::1",), 40, authenticated=True, canonical="example"
        )
        assert (await port.mx("example")).records == (MxRecord(10, "mx.example"), MxRecord(5, ""))
        assert (await port.txt("example")).records == (b"ab",)
        assert (await port.cname("alias.example")).records == ("example",)
        assert set((await port.tlsa("_25._tcp.mx.example")).records) == {
            TlsaRecord(3, 1, 1, b"\xab" * 32),
            TlsaRecord(3, 1, 255, b""),
        }
        assert (await port.ns("")) == DnsAnswer("", ("a.root-servers.net",), 300, authenticated=True)
        assert (await port.a("no.example")).exists is False
        assert resolver.counters.queries == {**dict.fromkeys(RRType, 1), RRType.A: 2}
        assert resolver.counters.failures == {}


@both_loops
async def test_thousand_questions_at_once_get_each_its_own_answer() -> None:
    zone = {f"d{number}.example": [f'TXT "{number}"'] for number in range(1000)}

    async with FakeDns(zone) as server, asking(server, limit=120, try_timeout=120) as resolver:
        room = asyncio.Semaphore(150)  # fits into the buffer of one socket of the server

        async def ask(number: int) -> bool:
            async with room:
                return (await resolver.txt(f"d{number}.example")).records == (str(number).encode(),)

        assert all(await asyncio.gather(*(ask(number) for number in range(1000))))
        assert resolver.counters.unexpected == resolver.counters.mismatched == 0


@both_loops
async def test_name_that_cannot_exist_is_absent_without_a_question() -> None:
    async with FakeDns() as server, asking(server) as resolver:
        for name in ("a" * 64 + ".example", r"m\200.example", "bücher.example", "a..example"):
            answer = await resolver.a(name)
            assert (answer.records, answer.exists, answer.authenticated) == ((), False, False)
        assert not server.queries


@both_loops
async def test_ipv6_resolver_is_asked() -> None:
    try:
        server = FakeDns(HOST, address="::1")
        await server.start()
    except OSError:
        pytest.skip("no IPv6 here")
    async with asking(server) as resolver:
        assert (await resolver.a("host.example")).records == ("192.0.2.1",)
    await server.close()


# -- fail-over ------------------------------------------------------------------------------------------------


@both_loops
async def test_question_without_a_reply_times_out_after_several_tries() -> None:
    async with FakeDns(MUTE) as server, asking(server, limit=1.0, try_timeout=0.1) as resolver:
        with pytest.raises(DnsTimeout, match=r"A host\.example"):
            await resolver.a("host.example")
        assert server.count("host.example", "A") >= 2
        assert resolver.counters.failures == {(RRType.A, "dns-timeout"): 1}


@pytest.mark.parametrize(
    ("zone", "suspected"),
    [(MUTE, True), (None, True), (HOST, False), ({}, False), ({"host.example": ["! * servfail"]}, False)],
    ids=["mute", "refused connection", "an answer", "no such name", "a failure"],
)
@both_loops
async def test_question_without_any_reply_raises_a_suspicion(
    zone: dict[str, list[str]] | None, suspected: bool
) -> None:
    calls: list[bool] = []

    async with FakeDns(zone or {}) as server:
        asked = _NOBODY if zone is None else server
        limit = 0.2 if suspected else 5.0
        async with asking(asked, limit=limit, try_timeout=0.1, unanswered=lambda: calls.append(True)) as resolver:
            await error_of(resolver.a("host.example"))
            assert any(calls) is suspected


@both_loops
async def test_one_silent_resolver_of_two_and_close_raise_no_suspicion() -> None:
    calls: list[bool] = []

    async with FakeDns(MUTE) as mute, FakeDns(HOST) as good:
        async with asking(mute, good, try_timeout=0.3, unanswered=lambda: calls.append(True)) as resolver:
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        async with asking(mute, unanswered=lambda: calls.append(True)) as resolver:
            pending = resolver.a("host.example")
        assert await error_of(pending) is DnsUnreachable
    assert calls == []


@both_loops
async def test_silent_resolver_is_skipped_and_soon_asked_last() -> None:
    async with FakeDns(MUTE) as mute, FakeDns(HOST) as good, asking(mute, good, try_timeout=0.3) as resolver:
        for _ in range(6):
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        assert mute.count() == 3
        assert good.count() == 6


async def test_first_resolver_is_asked_first_again_once_it_answers() -> None:
    async with (
        FakeDns(MUTE) as first,
        FakeDns(HOST) as second,
        asking(first, second, try_timeout=0.3) as resolver,
    ):
        for _ in range(4):
            await resolver.a("host.example")
        first.load(HOST)
        await advance(30)
        first.queries.clear()
        second.queries.clear()
        for _ in range(5):
            await resolver.a("host.example")
        assert (first.count(), second.count()) == (5, 0)


@both_loops
async def test_lost_packet_does_not_change_the_preferred_resolver() -> None:
    async with (
        FakeDns(MUTE) as first,
        FakeDns(HOST) as second,
        asking(first, second, try_timeout=0.3) as resolver,
    ):
        await resolver.a("host.example")
        first.load(HOST)
        await resolver.a("host.example")
        assert (first.count(), second.count()) == (2, 1)


@both_loops
async def test_servfail_is_asked_of_every_resolver_once() -> None:
    bogus = {"host.example": ["A 192.0.2.1", "! A servfail"]}

    async with FakeDns(bogus) as first, FakeDns(bogus) as second, asking(first, second) as resolver:
        assert await error_of(resolver.a("host.example")) is DnsServerFailure
        assert (first.count(), second.count()) == (1, 1)
        second.load(HOST)
        assert (await resolver.a("host.example")).records == ("192.0.2.1",)


@both_loops
async def test_error_reply_takes_precedence_over_an_unreachable_resolver() -> None:
    async with (
        FakeDns({"host.example": ["! A servfail"]}) as server,
        asking(server, _NOBODY) as resolver,
    ):
        assert await error_of(resolver.a("host.example")) is DnsServerFailure


@pytest.mark.parametrize("behaviour", ["refused", "notimp", "formerr"])
@both_loops
async def test_other_error_codes_are_refusals(behaviour: str) -> None:
    async with FakeDns({"host.example": [f"! A {behaviour}"]}) as server, asking(server) as resolver:
        assert await error_of(resolver.a("host.example")) is DnsRefused


@both_loops
async def test_refused_connection_is_retried_until_the_timeout() -> None:
    async with asking(_NOBODY, limit=0.5, try_timeout=3600) as resolver:
        assert await error_of(resolver.a("host.example")) is DnsUnreachable
        assert resolver.counters.retries >= 1


@both_loops
async def test_restart_of_the_resolver_loses_no_question() -> None:
    async with FakeDns(HOST) as stopped:
        address, port = stopped.address
    async with asking((address, port)) as resolver:
        asked = [resolver.a("host.example") for _ in range(20)]
        await until(lambda: resolver.counters.retries >= 20)
        async with FakeDns(HOST, address=address, port=port):
            assert {answer.records for answer in await asyncio.gather(*asked)} == {("192.0.2.1",)}


@both_loops
async def test_question_fails_at_once_while_the_resolver_is_down() -> None:
    async with FakeDns(HOST) as stopped:
        address, port = stopped.address
    async with asking((address, port), limit=3600) as resolver:
        resolver.set_down("no answer for 10 s")
        with pytest.raises(DnsUnreachable, match="no answer for 10 s"):
            await resolver.a("host.example")
        probe = resolver.probe()
        async with FakeDns(HOST, address=address, port=port):
            await probe
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)


@both_loops
async def test_consecutive_error_replies_raise_a_suspicion() -> None:
    calls: list[bool] = []

    zone = {"host.example": ["! * servfail"], "good.example": ["A 192.0.2.1"]}
    async with FakeDns(zone) as server, asking(server, unanswered=lambda: calls.append(True)) as resolver:
        for _ in range(2):
            for _ in range(4):
                await error_of(resolver.a("host.example"))
            await resolver.a("good.example")
        assert calls == []
        for _ in range(5):
            await error_of(resolver.a("host.example"))
        assert calls == [True]


@both_loops
async def test_recent_answer_with_ad_is_remembered() -> None:
    async with FakeDns(HOST) as server, asking(server) as resolver:
        await resolver.a("host.example")
        assert not resolver.authenticated_within(3600)
        server.authenticated = True
        server.load(HOST)
        await resolver.a("host.example")
        assert resolver.authenticated_within(3600)
        assert not resolver.authenticated_within(0)
        resolver.forget_authenticated()
        assert not resolver.authenticated_within(3600)


class OldServer(asyncio.DatagramProtocol):
    """A resolver that rejects queries with EDNS by ``rcode``."""

    def __init__(self, rcode: int) -> None:
        self.rcode = rcode
        self.queries: list[dns.message.Message] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        self.queries.append(query)
        reply = dns.message.make_response(query)
        if query.edns >= 0:
            reply.set_rcode(dns.rcode.Rcode(self.rcode))
            reply.use_edns(False)
        else:
            reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1"))
        self.transport.sendto(reply.to_wire(), addr)


@pytest.mark.parametrize("rcode", [1, 4])
@both_loops
async def test_resolver_that_rejects_edns_is_asked_without_it(rcode: int) -> None:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: OldServer(rcode), ("127.0.0.1", 0))
    async with asking(transport.get_extra_info("sockname")) as resolver:
        for _ in range(2):
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
    assert [query.edns for query in server.queries] == [0, -1, -1]
    transport.close()


@both_loops
async def test_resolver_that_refuses_connections_is_skipped_at_once() -> None:
    async with (
        FakeDns(HOST) as good,
        asking(_NOBODY, good, limit=3600, try_timeout=3600) as resolver,
    ):
        answers = await asyncio.gather(*(resolver.a("host.example") for _ in range(50)))
        assert {answer.records for answer in answers} == {("192.0.2.1",)}


@both_loops
async def test_no_resolver_at_all_is_unreachable() -> None:
    async with asking() as resolver:
        assert await error_of(resolver.a("host.example")) is DnsUnreachable


def test_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dns\.example"):
        DnsResolver([("dns.example", 53)])


@both_loops
async def test_unusable_addresses_are_skipped_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dns_port, "_RESOLV_CONF_SECONDS", 0.0)
    monkeypatch.setattr(dns_port, "_UNUSABLE_SECONDS", 0.0)

    async with FakeDns(HOST) as server:
        resolver = DnsResolver(resolv_conf=_Named(("fe80::1%no-such-if", 53), server.address))
        for _ in range(5):
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        assert list(resolver.addresses) == ["{}:{}".format(*server.address)]
        await resolver.close()
    assert [record.getMessage() for record in caplog.records] == ["resolver-address-unusable"]


@both_loops
async def test_resolv_conf_with_unusable_addresses_only_is_unreachable() -> None:
    resolver = DnsResolver(resolv_conf=_Named(("fe80::1%no-such-if", 53)))
    assert await error_of(resolver.a("host.example")) is DnsUnreachable
    await resolver.close()


# -- resolv.conf, and the resolver's life -------------------------------------------------------------------------


def open_sockets() -> set[str]:
    """Return the sockets of this process, by inode."""
    links = set[str]()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder is closed by now
            links.add(str(descriptor.readlink()))
    return {link for link in links if link.startswith("socket:")}


class _Named(ResolvConf):
    """A resolv.conf that with ports."""

    def __init__(self, *named: tuple[str, int]) -> None:
        super().__init__()
        self.named: list[tuple[str, int]] | None = list(named)

    def read(self) -> list[tuple[str, int]] | None:
        named, self.named = self.named, None
        return named


@both_loops
async def test_changed_resolv_conf_is_followed_without_losing_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_port, "_RESOLV_CONF_SECONDS", 0.0)
    slow = {"host.example": ["A 192.0.2.1"], "slow.example": ["A 192.0.2.2", "! A delay 0.2"]}

    async with FakeDns(slow) as first, FakeDns(HOST) as second:
        named = _Named(first.address)
        changes: list[Sequence[str]] = []
        resolver = DnsResolver(resolv_conf=named, changed=changes.append)
        assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        pending = resolver.a("slow.example")
        named.named = [second.address]
        await resolver.a("host.example")
        assert (first.count("host.example"), second.count("host.example")) == (1, 1)
        assert (await pending).records == ("192.0.2.2",)
        assert changes == [["{}:{}".format(*server.address)] for server in (first, second)]
        await resolver.close()


@both_loops
async def test_cancelled_question_is_forgotten() -> None:
    async with (
        FakeDns({"host.example": ["A 192.0.2.1", "! A delay 0.1"], "mute.example": ["! A silent"]}) as server,
        asking(server, try_timeout=0.05) as resolver,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.a("host.example"), 0.01)
        asked = server.count("host.example")
        other = resolver.a("mute.example")
        # It is retried meanwhile, the cancelled one is not.
        await until(lambda: server.count("mute.example") >= 3)
        other.cancel()
        assert resolver.counters.failures == {}
        assert server.count("host.example") == asked


@both_loops
async def test_close_fails_questions_in_flight_and_later_ones() -> None:
    async with FakeDns(MUTE) as server:
        resolver = DnsResolver([server.address])
        pending = resolver.a("host.example")
        await until(lambda: server.count() == 1)
        await resolver.close()
        assert await error_of(pending) is DnsUnreachable
        assert await error_of(resolver.a("host.example")) is DnsUnreachable
        await resolver.close()


@both_loops
async def test_failure_of_an_abandoned_question_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeDns(MUTE) as server:
        resolver = DnsResolver([server.address])
        asked = resolver.a("host.example")
        await until(lambda: server.count() == 1)
        await resolver.close()
        del asked, resolver
    gc.collect()
    assert caplog.records == []


@both_loops
async def test_no_socket_is_opened_before_the_first_question_nor_left_open_after_close() -> None:
    async with FakeDns(HOST) as server:
        before = open_sockets()
        resolver = DnsResolver([server.address])
        assert open_sockets() <= before
        for _ in range(20):
            await resolver.a("host.example")
        assert open_sockets() - before
        await resolver.close()
        await until(lambda: open_sockets() <= before)
    gc.collect()  # a socket left open would warn now, and warnings are errors


@both_loops
async def test_resolver_serves_one_event_loop() -> None:
    resolver = DnsResolver([])

    async def ask() -> None:
        await error_of(resolver.a("host.example"))

    await ask()
    with pytest.raises(RuntimeError, match="one event loop"):
        await asyncio.to_thread(asyncio.run, ask())
