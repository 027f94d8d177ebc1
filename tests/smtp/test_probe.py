"""The SMTP probe against servers on loopback."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.smtp.chain_verification import ChainVerifier
from mtasts_daemon.smtp.probe import SmtpProber, SmtpSession
from tests.event_loop import advance, idle, until
from tests.fakes.ca import Ca, Flaw
from tests.fakes.probed_smtp import MxBehaviour, MxManner, ProbedSmtp

LOOPBACK = (ip_network("127.0.0.0/8"),)
HOST = "mx.example.com"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


def prober(server: ProbedSmtp, **settings: Any) -> SmtpProber:
    own: Callable[[], frozenset[Any]] = frozenset
    given = {"own": own, "allowed": LOOPBACK, "port": server.port, "total": 5.0, **settings}
    return SmtpProber(ChainVerifier(server.ca.pem), **given)


async def probed(ca: Ca, behaviour: MxBehaviour, **settings: Any) -> tuple[SmtpSession, ProbedSmtp]:
    async with ProbedSmtp(ca, {"127.0.0.1": behaviour}) as server:
        return await prober(server, **settings).probe(HOST, "127.0.0.1"), server


async def test_probe_of_good_host_reads_everything(ca: Ca) -> None:
    session, _ = await probed(ca, MxBehaviour(HOST, requiretls=True))
    assert session.problem is None
    assert session.tls is not None
    assert session.tls.session.version == "TLSv1.3"
    assert session.tls.problem_for(HOST) is None
    assert session.tls.leaf.names == (HOST,)
    assert session.tls.leaf.key == "EC 256"
    assert session.requiretls
    assert "STARTTLS" in session.offered
    assert "STARTTLS" not in session.offered_tls
    assert session.banner == "220 mx.example.com ESMTP"


async def test_probe_says_quit_and_never_mail_from(ca: Ca) -> None:
    _, server = await probed(ca, MxBehaviour(HOST))
    verbs = [line.split(" ")[0] for _, line in server.commands]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]


@pytest.mark.parametrize(
    ("flaw", "problem"),
    [
        (Flaw.EXPIRED, "certificate-expired"),
        (Flaw.NOT_YET_VALID, "certificate-not-yet-valid"),
        (Flaw.WRONG_NAME, "certificate-name-mismatch"),
        (Flaw.CN_ONLY, "certificate-name-mismatch"),
        (Flaw.SELF_SIGNED, "certificate-self-signed"),
        (Flaw.UNTRUSTED, "certificate-untrusted"),
    ],
)
async def test_probe_keeps_chain_of_bad_certificate(ca: Ca, flaw: Flaw, problem: str) -> None:
    session, _ = await probed(ca, MxBehaviour(HOST, flaw=flaw, requiretls=True))
    assert session.problem is None
    assert session.requiretls
    assert session.tls is not None
    assert session.tls.problem_for(HOST) == problem
    assert len(session.tls.session.chain) == 1
    assert len(session.tls.leaf.sha256) == 64


@pytest.mark.parametrize(
    ("manner", "problem"),
    [
        (MxManner.NO_STARTTLS, "starttls-not-offered"),
        (MxManner.REJECT_STARTTLS, "starttls-rejected"),
        (MxManner.TLS11, "tls-version-old"),
        (MxManner.CLOSE_TLS, "smtp-closed"),
        (MxManner.GARBAGE_TLS, "tls-handshake-failed"),
        (MxManner.INJECT, "starttls-injection"),
        (MxManner.GREETING_554, "smtp-greeting-rejected"),
        (MxManner.EHLO_550, "smtp-ehlo-rejected"),
        (MxManner.EHLO_TLS_550, "smtp-ehlo-tls-failed"),
        (MxManner.CLOSE, "smtp-closed"),
        (MxManner.GARBAGE, "smtp-protocol"),
        (MxManner.FLOOD, "smtp-protocol"),
        (MxManner.FLOOD_TLS, "smtp-ehlo-tls-failed"),
    ],
)
async def test_probe_names_each_way_to_fail(ca: Ca, manner: MxManner, problem: str) -> None:
    session, _ = await probed(ca, MxBehaviour(HOST, manner))
    assert session.problem == problem
    assert session.connected
    assert session.detail.isprintable()


async def test_silent_host_ends_after_total(ca: Ca) -> None:
    session, _ = await probed(ca, MxBehaviour(HOST, MxManner.SILENT), total=1.0)
    assert session.problem == "smtp-timeout"


async def test_refused_connection_is_named(ca: Ca) -> None:
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server)
    session = await probe.probe(HOST, "127.0.0.1")
    assert session.problem == "smtp-connect-refused"
    assert not session.connected


async def test_missing_route_is_our_problem_and_not_remembered(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server, allowed=(ip_network("127.0.0.0/8"), ip_network("2001:db8::/32")))

        async def unreachable(*_: object, **__: object) -> Any:
            raise OSError(101, "Network is unreachable")

        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "open_connection", unreachable)
            assert (await probe.probe(HOST, "127.0.0.1")).problem == "smtp-no-route"
        assert (await probe.probe(HOST, "127.0.0.1")).problem is None


async def test_address_filter_is_that_of_policy_hosts(ca: Ca) -> None:
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        refused = await prober(server, allowed=()).probe(HOST, "127.0.0.1")
        own = await prober(server, allowed=(), own=lambda: frozenset({ip_address("1.1.1.1")})).probe(HOST, "1.1.1.1")
        assert server.connections == []
    assert (refused.problem, refused.detail) == ("smtp-address-refused", "loopback, RFC 1122")
    assert (own.problem, own.detail) == ("smtp-address-refused", "an address of this host")


async def test_session_is_remembered_until_its_certificate_expires(ca: Ca) -> None:
    now = [1000.0]
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST, expires=expires)}) as server:
        probe = prober(server, monotonic=lambda: now[0], wall=lambda: expires.timestamp() - 60)
        await probe.probe(HOST, "127.0.0.1")
        now[0] += 59
        await probe.probe(HOST, "127.0.0.1")
        assert len(server.connections) == 1
        now[0] += 2
        await probe.probe(HOST, "127.0.0.1")
        assert len(server.connections) == 2


async def test_one_session_an_hour_over_all_callers(ca: Ca) -> None:
    now = [1000.0]
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server, monotonic=lambda: now[0])
        first = await asyncio.gather(*(probe.probe(HOST, "127.0.0.1") for _ in range(20)))
        now[0] += 3599
        again = await probe.probe(HOST, "127.0.0.1")
        assert len(server.connections) == 1
        assert {id(session) for session in first} == {id(again)}
        now[0] += 2
        await probe.probe(HOST, "127.0.0.1")
        assert len(server.connections) == 2


async def test_bad_session_is_opened_again_sooner(ca: Ca) -> None:
    now = [1000.0]
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST, flaw=Flaw.EXPIRED)}) as server:
        probe = prober(server, monotonic=lambda: now[0])
        await probe.probe(HOST, "127.0.0.1")
        now[0] += 301
        await probe.probe(HOST, "127.0.0.1")
        assert len(server.connections) == 2


async def test_sessions_with_one_network_are_limited(ca: Ca) -> None:
    addresses = [f"127.0.0.{number}" for number in range(1, 11)]
    behaviours = {address: MxBehaviour(HOST, MxManner.SILENT) for address in addresses}
    async with ProbedSmtp(ca, behaviours) as server:
        probe = prober(server, total=600.0)
        tasks = [asyncio.create_task(probe.probe(HOST, address)) for address in addresses]
        for connected in (4, 8, 10):
            await until(lambda: len(server.connections) >= connected)  # noqa: B023
            await idle()
            assert len(server.connections) == connected
            await advance(600.0)
        sessions = await asyncio.gather(*tasks)
    assert {session.problem for session in sessions} == {"smtp-timeout"}


async def test_one_caller_gone_does_not_end_session_of_others(ca: Ca) -> None:
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server)
        gone = asyncio.create_task(probe.probe(HOST, "127.0.0.1"))
        stays = asyncio.create_task(probe.probe(HOST, "127.0.0.1"))
        await idle()
        gone.cancel()
        assert (await stays).problem is None
        assert len(server.connections) == 1


async def test_close_ends_sessions_under_way(ca: Ca) -> None:
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST, MxManner.SILENT)}) as server:
        probe = prober(server)
        waiting = asyncio.create_task(probe.probe(HOST, "127.0.0.1"))
        await server.arrived.wait()
        await probe.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_verifier_of_missing_file_names_it(tmp_path: Path) -> None:
    from mtasts_daemon.errors import ConfigError

    with pytest.raises(ConfigError, match="no-such"):
        ChainVerifier(tmp_path / "no-such.pem")


async def test_slow_network_does_not_hold_the_slots_of_others(ca: Ca) -> None:
    slow = {f"127.0.1.{number}": MxBehaviour(HOST, MxManner.SILENT) for number in range(1, 9)}
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST), **slow}) as server:
        probe = prober(server, limit=5, total=3600.0)
        tasks = [asyncio.create_task(probe.probe(HOST, address)) for address in slow]
        await server.arrived.wait()
        assert (await probe.probe(HOST, "127.0.0.1")).problem is None
        await probe.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_names_for_one_address_are_limited(ca: Ca) -> None:
    now = [1000.0]
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server, per_address=3, monotonic=lambda: now[0])
        problems = [(await probe.probe(f"mx{number}.example", "127.0.0.1")).problem for number in range(5)]
        assert problems == [None, None, None, "smtp-busy", "smtp-busy"]
        assert len(server.connections) == 3
        now[0] += 3601
        assert (await probe.probe("mx9.example", "127.0.0.1")).problem is None


async def test_session_forgotten_by_its_age_is_opened_again(ca: Ca) -> None:
    now = [1000.0]
    async with ProbedSmtp(ca, {"127.0.0.1": MxBehaviour(HOST)}) as server:
        probe = prober(server, wall=lambda: now[0])
        first = await probe.probe(HOST, "127.0.0.1")
        now[0] += 19
        probe.forget(20)
        assert await probe.probe(HOST, "127.0.0.1") is first
        for moved in (1, -3600):  # a clock that is set back makes no session last longer
            now[0] += moved
            probe.forget(20)
            assert await probe.probe(HOST, "127.0.0.1") is not first
        assert len(server.connections) == 3
