"""The resolver against DNS servers that misbehave as told: which one is asked, and what comes of it."""

import asyncio
import gc
from collections.abc import Sequence

import pytest

from mtasts_daemon.dns import resolver as dns_port
from mtasts_daemon.dns.resolv_conf import ResolvConf
from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.errors import DnsRefused, DnsServerFailure, DnsTimeout, DnsUnreachable
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from mtasts_daemon.ports import Resolver
from tests.dns.asking import HOST, LOOPS, MUTE, Run, asking, error_of, runner_on, until
from tests.fakes.dns import FakeDns


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return runner_on(request.param)


_NOBODY = ("127.0.0.1", 1)
"""Below the ports that are given away, so that no socket of a test can be there by chance."""


def test_every_type_is_asked_for_and_answered(run: Run) -> None:
    zone = {
        "": ["NS a.root-servers.net."],
        "example": ["A 192.0.2.1", "AAAA 2001:db8::1", "MX 10 mx.example.", "MX 5 .", 'TXT "a" "b"'],
        "alias.example": ["40 CNAME example."],
        "_25._tcp.mx.example": ["! TLSA raw 0301", "TLSA 3 1 1 " + "ab" * 32],
    }

    async def main() -> None:
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

    run(main())


def test_a_thousand_questions_at_once_get_each_its_own_answer(run: Run) -> None:
    zone = {f"d{number}.example": [f'TXT "{number}"'] for number in range(1000)}

    async def main() -> None:
        async with FakeDns(zone) as server, asking(server) as resolver:
            room = asyncio.Semaphore(150)  # what the buffer of one socket of the server surely holds

            async def ask(number: int) -> bool:
                async with room:
                    return (await resolver.txt(f"d{number}.example")).records == (str(number).encode(),)

            assert all(await asyncio.gather(*(ask(number) for number in range(1000))))
            assert resolver.counters.unexpected == resolver.counters.mismatched == 0

    run(main())


def test_a_name_that_cannot_exist_is_absent_without_a_question(run: Run) -> None:
    async def main() -> None:
        async with FakeDns() as server, asking(server) as resolver:
            for name in ("a" * 64 + ".example", r"m\200.example", "bücher.example", "a..example"):
                answer = await resolver.a(name)
                assert (answer.records, answer.exists, answer.authenticated) == ((), False, False)
            assert not server.queries

    run(main())


def test_an_ipv6_resolver_is_asked(run: Run) -> None:
    async def main() -> None:
        try:
            server = FakeDns(HOST, address="::1")
            await server.start()
        except OSError:
            pytest.skip("no IPv6 here")
        async with asking(server) as resolver:
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
        await server.close()

    run(main())


# -- fail-over ------------------------------------------------------------------------------------------------


def test_a_question_nobody_answers_times_out_after_some_tries(run: Run) -> None:
    async def main() -> None:
        async with FakeDns(MUTE) as server, asking(server, limit=0.25, try_timeout=0.1) as resolver:
            with pytest.raises(DnsTimeout, match=r"A host\.example"):
                await resolver.a("host.example")
            assert server.count("host.example", "A") >= 2
            assert resolver.counters.failures == {(RRType.A, "dns-timeout"): 1}

    run(main())


@pytest.mark.parametrize(
    ("zone", "told"),
    [(MUTE, 1), (None, 1), (HOST, 0), ({}, 0), ({"host.example": ["! * servfail"]}, 0)],
    ids=["mute", "nobody there", "an answer", "no such name", "a failure"],
)
def test_a_question_to_which_no_resolver_says_anything_is_told_of(
    run: Run, zone: dict[str, list[str]] | None, told: int
) -> None:
    calls: list[bool] = []

    async def main() -> None:
        async with FakeDns(zone or {}) as server:
            asked = _NOBODY if zone is None else server
            async with asking(asked, limit=0.25, try_timeout=0.1, unanswered=lambda: calls.append(True)) as resolver:
                await error_of(resolver.a("host.example"))
                assert len(calls) == told
                await error_of(resolver.a("host.example"))
        assert len(calls) == 2 * told

    run(main())


def test_neither_one_mute_resolver_among_two_nor_the_end_is_told_of(run: Run) -> None:
    calls: list[bool] = []

    async def main() -> None:
        async with FakeDns(MUTE) as mute, FakeDns(HOST) as good:
            async with asking(mute, good, try_timeout=0.05, unanswered=lambda: calls.append(True)) as resolver:
                assert (await resolver.a("host.example")).records == ("192.0.2.1",)
            async with asking(mute, unanswered=lambda: calls.append(True)) as resolver:
                pending = resolver.a("host.example")
            assert await error_of(pending) is DnsUnreachable

    run(main())
    assert calls == []


def test_a_mute_resolver_is_passed_over_and_soon_asked_no_more(run: Run) -> None:
    async def main() -> None:
        async with FakeDns(MUTE) as mute, FakeDns(HOST) as good, asking(mute, good, try_timeout=0.05) as resolver:
            for _ in range(6):
                assert (await resolver.a("host.example")).records == ("192.0.2.1",)
            assert mute.count() == 3
            assert good.count() == 6

    run(main())


def test_the_first_resolver_is_asked_first_again_once_it_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with (
            FakeDns(MUTE) as first,
            FakeDns(HOST) as second,
            asking(first, second, try_timeout=0.05) as resolver,
        ):
            for _ in range(4):
                await resolver.a("host.example")
            first.load(HOST)
            monkeypatch.setattr(dns_port, "_RECALL_SECONDS", 0.0)
            resolver._recall_at = 0.0
            first.queries.clear()
            second.queries.clear()
            for _ in range(5):
                await resolver.a("host.example")
            assert (first.count(), second.count()) == (5, 0)

    run(main())


def test_a_lost_packet_does_not_change_the_preferred_resolver(run: Run) -> None:
    async def main() -> None:
        async with (
            FakeDns(MUTE) as first,
            FakeDns(HOST) as second,
            asking(first, second, try_timeout=0.05) as resolver,
        ):
            await resolver.a("host.example")
            first.load(HOST)
            await resolver.a("host.example")
            assert (first.count(), second.count()) == (2, 1)

    run(main())


def test_servfail_is_asked_of_every_resolver_once(run: Run) -> None:
    bogus = {"host.example": ["A 192.0.2.1", "! A servfail"]}

    async def main() -> None:
        async with FakeDns(bogus) as first, FakeDns(bogus) as second, asking(first, second) as resolver:
            assert await error_of(resolver.a("host.example")) is DnsServerFailure
            assert (first.count(), second.count()) == (1, 1)
            second.load(HOST)
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)

    run(main())


def test_what_a_resolver_says_is_told_rather_than_that_another_is_gone(run: Run) -> None:
    async def main() -> None:
        async with (
            FakeDns({"host.example": ["! A servfail"]}) as server,
            asking(server, _NOBODY) as resolver,
        ):
            assert await error_of(resolver.a("host.example")) is DnsServerFailure

    run(main())


@pytest.mark.parametrize("behaviour", ["refused", "notimp", "formerr"])
def test_other_error_codes_are_refusals(run: Run, behaviour: str) -> None:
    async def main() -> None:
        async with FakeDns({"host.example": [f"! A {behaviour}"]}) as server, asking(server) as resolver:
            assert await error_of(resolver.a("host.example")) is DnsRefused

    run(main())


def test_a_port_where_nobody_listens_is_unreachable_at_once(run: Run) -> None:
    async def main() -> None:
        async with asking(_NOBODY, limit=3600, try_timeout=3600) as resolver:
            assert await error_of(resolver.a("host.example")) is DnsUnreachable
            assert await error_of(resolver.a("host.example")) is DnsUnreachable

    run(main())


def test_a_port_where_nobody_listens_is_passed_over_at_once(run: Run) -> None:
    async def main() -> None:
        async with (
            FakeDns(HOST) as good,
            asking(_NOBODY, good, limit=3600, try_timeout=3600) as resolver,
        ):
            answers = await asyncio.gather(*(resolver.a("host.example") for _ in range(50)))
            assert {answer.records for answer in answers} == {("192.0.2.1",)}

    run(main())


def test_a_resolver_that_starts_late_is_heard(run: Run) -> None:
    async def main() -> None:
        async with FakeDns(HOST) as stopped:
            address, port = stopped.address
        async with asking((address, port)) as resolver:
            for _ in range(20):
                assert await error_of(resolver.a("host.example")) is DnsUnreachable
            async with FakeDns(HOST, address=address, port=port):
                for _ in range(20):
                    assert (await resolver.a("host.example")).records == ("192.0.2.1",)

    run(main())


def test_no_resolver_at_all_is_unreachable(run: Run) -> None:
    async def main() -> None:
        async with asking() as resolver:
            assert await error_of(resolver.a("host.example")) is DnsUnreachable

    run(main())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dns\.example"):
        DnsResolver([("dns.example", 53)])


# -- resolv.conf, and the resolver's life -------------------------------------------------------------------------


class _Named(ResolvConf):
    """A resolv.conf that tells of ports too."""

    def __init__(self, *named: tuple[str, int]) -> None:
        super().__init__()
        self.named: list[tuple[str, int]] | None = list(named)

    def read(self) -> list[tuple[str, int]] | None:
        named, self.named = self.named, None
        return named


def test_a_changed_resolv_conf_is_followed_without_losing_a_question(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_port, "_RESOLV_CONF_SECONDS", 0.0)
    slow = {"host.example": ["A 192.0.2.1"], "slow.example": ["A 192.0.2.2", "! A delay 0.2"]}

    async def main() -> None:
        async with FakeDns(slow) as first, FakeDns(HOST) as second:
            named = _Named(first.address)
            told: list[Sequence[str]] = []
            resolver = DnsResolver(resolv_conf=named, changed=told.append)
            assert (await resolver.a("host.example")).records == ("192.0.2.1",)
            pending = resolver.a("slow.example")
            named.named = [second.address]
            await resolver.a("host.example")
            assert (first.count("host.example"), second.count("host.example")) == (1, 1)
            assert (await pending).records == ("192.0.2.2",)
            assert told == [["{}:{}".format(*server.address)] for server in (first, second)]
            await resolver.close()

    run(main())


def test_a_cancelled_question_is_forgotten(run: Run) -> None:
    async def main() -> None:
        async with (
            FakeDns({"host.example": ["A 192.0.2.1", "! A delay 0.1"]}) as server,
            asking(server, try_timeout=0.05) as resolver,
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(resolver.a("host.example"), 0.01)
            await until(lambda: not resolver._in_flight)
            assert resolver.counters.failures == {}
            assert server.count() == 1

    run(main())


def test_closing_fails_what_is_under_way_and_what_comes_after(run: Run) -> None:
    async def main() -> None:
        async with FakeDns(MUTE) as server:
            resolver = DnsResolver([server.address])
            pending = resolver.a("host.example")
            await until(lambda: server.count() == 1)
            await resolver.close()
            assert await error_of(pending) is DnsUnreachable
            assert await error_of(resolver.a("host.example")) is DnsUnreachable
            await resolver.close()

    run(main())


def test_a_question_that_fails_when_whoever_asked_has_gone_is_not_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with FakeDns(MUTE) as server:
            resolver = DnsResolver([server.address])
            asked = resolver.a("host.example")
            await until(lambda: server.count() == 1)
            await resolver.close()
            del asked, resolver
        gc.collect()

    run(main())
    assert caplog.records == []


def test_no_socket_is_opened_before_the_first_question_nor_left_open_after_close(run: Run) -> None:
    async def main() -> None:
        async with FakeDns(HOST) as server:
            resolver = DnsResolver([server.address])
            assert not resolver._upstreams[0].is_open()
            for _ in range(20):
                await resolver.a("host.example")
            assert resolver._upstreams[0].is_open()
            await resolver.close()
            assert not resolver._upstreams[0].is_open()
        gc.collect()  # a socket left open would warn now, and warnings are errors

    run(main())


def test_a_resolver_serves_one_event_loop(run: Run) -> None:
    resolver = DnsResolver([])

    async def main() -> None:
        await error_of(resolver.a("host.example"))

    run(main())
    with pytest.raises(RuntimeError, match="one event loop"):
        run(main())
