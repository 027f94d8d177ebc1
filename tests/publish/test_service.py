"""Publishing as a whole: configuration, gate, rollout, removal, drift, restarts."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mtasts_daemon.diagnose.check.evidence import CheckFailure
from mtasts_daemon.errors import DnsServerFailure, PublishError
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.publish.decision import Outcome
from mtasts_daemon.publish.dns_records import DnsRecord
from mtasts_daemon.publish.dns_update import UpdateResult
from mtasts_daemon.publish.policy_text import policy_id
from mtasts_daemon.publish.rollout import DayReports
from mtasts_daemon.publish.state import PublishPhase
from mtasts_daemon.smtp.chain_verification import ChainProblem

from .world import DAY, PublishWorld, certificate, mx_host, publishing, session

ENFORCE = {"mode": "enforce", "mx": ["mx.example.com"]}
TESTING = {"mode": "testing", "mx": ["mx.example.com"]}
LIVE_ENFORCE = "version: STSv1 mode: enforce mx: mx.example.com max_age: 2592000"
LIVE_TESTING = "version: STSv1 mode: testing mx: mx.example.com max_age: 2592000"
CLEAN = DayReports(10, 0)
EXPIRED = ChainProblem("certificate-expired", "")


async def test_testing_goes_live_at_once_and_enforce_waits_for_the_gate(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": TESTING})
        assert world.text() == LIVE_TESTING
        await world.configure({"example.com": ENFORCE})
        assert world.text() == LIVE_TESTING
        assert world.one().outcome is Outcome.GATED
        await world.visit()
        assert world.text() == LIVE_ENFORCE
        assert world.one().outcome is Outcome.UNCHANGED


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (
            session("mx.example.com", "192.0.2.25", problem="starttls-not-offered", tls=None, offered=()),
            "mx.example.com [192.0.2.25]: does not offer STARTTLS",
        ),
        (
            session("mx.example.com", "192.0.2.25", tls=certificate("other.example")),
            "mx.example.com [192.0.2.25]: the certificate is not for the name of the MX host",
        ),
        (
            session("mx.example.com", "192.0.2.25", tls=certificate("mx.example.com", refused=EXPIRED)),
            "mx.example.com [192.0.2.25]: the certificate has expired",
        ),
        (
            session("mx.example.com", "192.0.2.25", problem="smtp-no-route", connected=False, tls=None),
            "mx.example.com [192.0.2.25]: this host has no route to the address, so it was not probed",
        ),
    ],
)
async def test_gate_refuses_enforce_while_one_address_does_not_fit(
    tmp_path: Path, broken: object, problem: str
) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        good = session("mx.example.com", "192.0.2.26")
        world.outside.hosts["mx.example.com"] = mx_host(
            "mx.example.com", "192.0.2.25", "192.0.2.26", sessions=(broken, good)
        )
        await world.configure({"example.com": ENFORCE})
        one = await world.visit()
        assert world.text() == ""
        assert one.gate is not None
        assert [found.text for found in one.gate.problems] == [problem]
        # Repaired: the gate is tried again after an hour.
        del world.outside.hosts["mx.example.com"]
        await world.visit(after=3599)
        assert world.text() == ""
        await world.visit(after=1)
        assert world.text() == LIVE_ENFORCE


async def test_gate_asks_for_every_address_of_every_host(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com", "backup.example.net")
        seen = (session("mx.example.com", "192.0.2.25"),)
        world.outside.hosts["mx.example.com"] = mx_host("mx.example.com", "192.0.2.25", "2001:db8::25", sessions=seen)
        await world.configure({"example.com": ENFORCE})
        one = await world.visit()
        assert one.gate is not None
        assert [found.text for found in one.gate.problems] == [
            "mx.example.com [2001:db8::25]: was not checked",
            "backup.example.net: no mx pattern of the new policy permits this MX host",
        ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"present": False}, "mta-sts.example.com: the policy host has no address"),
        (
            {"endpoint": certificate("other.example")},
            "mta-sts.example.com [192.0.2.80]: the certificate is not for the name of the MX host",
        ),
        (
            {"policy_failure": CheckFailure("webpki-expired", "The policy host's certificate has expired")},
            "mta-sts.example.com: The policy host's certificate has expired",
        ),
    ],
)
async def test_gate_needs_the_policy_host_with_a_valid_certificate(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        for name, value in change.items():
            setattr(world.outside, name, value)
        await world.configure({"example.com": ENFORCE})
        one = await world.visit()
        assert one.gate is not None
        assert [found.text for found in one.gate.problems] == [problem]
        assert world.text() == ""


async def test_gate_refuses_while_no_check_can_be_made(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        world.outside.error = PublishError("no route to anywhere")
        await world.configure({"example.com": ENFORCE})
        one = await world.visit()
        assert (world.text(), one.check_problem) == ("", "no route to anywhere")
        world.outside.error = None
        await world.visit(after=600)
        assert world.text() == LIVE_ENFORCE


async def test_force_passes_the_gate_and_its_reason_is_kept(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        world.outside.hosts["mx.example.com"] = mx_host("mx.example.com", sessions=())
        await world.configure({"example.com": ENFORCE})
        refused = await world.operations.apply("example.com")
        assert (refused["mode"], refused["gate"]["passed"]) == (None, False)
        forced = await world.operations.apply("example.com", force="the check cannot\nreach us from here")
        assert (forced["mode"], forced["forced"]) == ("enforce", "the check cannot reach us from here")
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        found = await world.operations.domain("example.com")
        assert found["forced"] == "the check cannot reach us from here"
        assert found["history"][0]["event"] == "forced"
        # Another policy is another decision.
        await world.configure({"example.com": TESTING})
        assert (await world.operations.domain("example.com"))["forced"] is None


async def test_policy_survives_a_restart_and_a_lost_configuration(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        await world.visit()
        live_since = world.one().state.live_since
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        world.clock.advance(1000)
        await world.configure({})
        assert world.text() == LIVE_ENFORCE
        one = await world.visit()
        assert one.state.live_since == live_since
        page = (await world.operations.domains("", 10, attention=True))["domains"]
        assert page[0]["next_step"] == "not configured any more: publish remove, or configure it again"


async def test_policy_that_cannot_be_kept_does_not_go_live_if_it_is_stricter(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": TESTING})
        with closing(sqlite3.connect(tmp_path / "publish.sqlite", isolation_level=None)) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON domain BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
            )
        await world.configure({"example.com": ENFORCE})
        with pytest.raises(Exception, match="disk is full"):
            await world.visit()
        assert world.text() == LIVE_TESTING
        # A less strict policy does not wait for the disk.
        await world.configure({"example.com": {**TESTING, "mode": "none"}})
        assert "mode: none" in world.text()
        assert "disk is full" in (await world.operations.overview())["problems"][0]
        with closing(sqlite3.connect(tmp_path / "publish.sqlite", isolation_level=None)) as connection:
            connection.execute("DROP TRIGGER full")
        registry = world.service.registry
        assert registry is not None
        await registry.recover()
        assert (await world.operations.overview())["problems"] == []
    async with publishing(tmp_path) as world:
        await world.configure({})
        assert "mode: none" in world.text()


# -- mx: auto --------------------------------------------------------------------------------------------------


async def test_auto_follows_the_mx_records(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await world.configure({"example.com": {"mode": "enforce", "mx": "auto"}})
        one = await world.visit()
        assert one.outcome is Outcome.MX_UNKNOWN
        world.mx("example.com", "mx2.example.com", "mx1.example.com")
        await world.visit(after=900)
        assert "mx: mx1.example.com mx: mx2.example.com" in world.text()
        # A host that is added is permitted at once.
        world.mx("example.com", "mx1.example.com", "mx2.example.com", "mx3.example.com")
        await world.visit(after=900)
        assert "mx: mx3.example.com" in world.text()
        # Broken DNS, and a zone without MX records, remove no host, also if no check is possible.
        world.resolver.fail("example.com", RRType.MX, DnsServerFailure())
        world.outside.error = PublishError("DNS is broken")
        await world.visit(after=900)
        world.resolver.put("example.com", RRType.MX, [])
        await world.visit(after=900)
        assert "mx: mx1.example.com mx: mx2.example.com mx: mx3.example.com" in world.text()


async def test_auto_permits_a_new_host_though_nothing_can_be_checked(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx1.example.com")
        await world.configure({"example.com": {"mode": "enforce", "mx": "auto"}})
        await world.visit()
        world.mx("example.com", "mx2.example.com")
        world.outside.error = PublishError("the check cannot be made")
        await world.visit(after=900)
        assert "mx: mx1.example.com mx: mx2.example.com" in world.text()


async def test_auto_permits_a_new_host_though_the_gate_keeps_the_old_one(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx1.example.com")
        await world.configure({"example.com": {"mode": "enforce", "mx": "auto"}})
        await world.visit()
        world.mx("example.com", "mx2.example.com")
        world.outside.hosts["mx2.example.com"] = mx_host("mx2.example.com", sessions=())
        await world.visit(after=900)
        assert "mx: mx1.example.com mx: mx2.example.com" in world.text()
        del world.outside.hosts["mx2.example.com"]
        await world.visit(after=3600)
        assert "mx1" not in world.text()


# -- delegation ------------------------------------------------------------------------------------------------


async def test_delegated_domain_has_the_policy_of_its_target(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("provider.example", "mx.provider.example")
        world.mx("user.example", "mx.provider.example")
        domains: dict[str, dict[str, object]] = {
            "provider.example": {"mode": "testing", "mx": ["mx.provider.example"]},
            "user.example": {"delegate_to": "provider.example"},
        }
        await world.configure(domains)
        await world.visit("user.example")
        assert world.text("user.example") == world.text("provider.example") != ""
        domains["provider.example"] = {"mode": "enforce", "mx": ["mx.provider.example"]}
        await world.configure(domains)
        await world.visit("provider.example")
        await world.visit("user.example")
        assert "mode: enforce" in world.text("user.example")


async def test_delegated_domain_with_other_hosts_stays_out_of_enforce(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("provider.example", "mx.provider.example")
        world.mx("user.example", "mx.elsewhere.example")
        await world.configure(
            {
                "provider.example": {"mode": "enforce", "mx": ["mx.provider.example"]},
                "user.example": {"delegate_to": "provider.example"},
            }
        )
        await world.visit("provider.example")
        one = await world.visit("user.example")
        assert one.gate is not None
        assert one.gate.problems[0].text == (
            "mx.elsewhere.example: no mx pattern of the new policy permits this MX host"
        )
        assert world.text("user.example") == ""


# -- rollout and removal ---------------------------------------------------------------------------------------


def clean_days(first: int, count: int) -> dict[str, DayReports]:
    return {f"2027-01-{first + at:02d}": CLEAN for at in range(count)}


async def test_automatic_rollout_goes_from_testing_to_enforce_by_evidence(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:  # it is 2027-01-15
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": {**ENFORCE, "rollout": "automatic"}}, clean_days=3)
        assert world.text() == "version: STSv1 mode: testing mx: mx.example.com max_age: 86400"
        world.txt("example.com")
        await world.visit(after=60)
        one = await world.visit(after=DAY)
        assert one.step is not None
        assert one.step.missing == ("TLS reports are not received here, so nothing shows whether senders succeed",)
        world.days = clean_days(16, 3) | {"2027-01-17": DayReports(5, 2)}
        await world.visit(after=DAY)
        assert "mode: testing" in world.text()
        world.days = clean_days(18, 3)
        await world.visit(after=DAY)
        assert world.text() == "version: STSv1 mode: enforce mx: mx.example.com max_age: 86400"
        one = await world.visit(after=DAY)
        assert one.state.phase is PublishPhase.ENFORCE_DAY
        world.days = clean_days(19, 8)
        await world.visit(after=DAY)
        assert world.text() == LIVE_ENFORCE
        assert world.one().state.phase is PublishPhase.COMPLETE


async def test_manual_rollout_moves_on_by_command(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE}, clean_days=1)
        begun = await world.operations.rollout("example.com")
        assert [step["phase"] for step in begun["plan"] if step["current"]] == ["testing"]
        assert "mode: testing" in world.text()
        with pytest.raises(PublishError, match="the next step is not ready: TLS reports are not received"):
            await world.operations.rollout("example.com", step=True)
        world.days = clean_days(16, 2)
        await world.visit(after=2 * DAY)
        assert "mode: testing" in world.text()
        await world.operations.rollout("example.com", step=True)
        assert "mode: enforce" in world.text()
        moved = await world.operations.rollout("example.com", step=True, force="the reports are late")
        assert moved["phase"] == "complete"
        assert world.text() == LIVE_ENFORCE


async def test_removal_serves_none_until_max_age_has_passed(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        await world.visit()
        world.txt("example.com")
        found = await world.operations.remove("example.com")
        assert found["removal"]["step"] == "wait"
        assert world.text() == "version: STSv1 mode: none max_age: 86400"
        world.txt("example.com")
        await world.visit(after=30 * DAY - 1)
        assert (await world.operations.remove("example.com"))["delete"] == []
        await world.visit(after=3600)
        assert [alert.slug for alert in world.alerts] == ["publish-removal-ready"]
        # It remains ready until the record is gone: the daily check neither resolves nor repeats that.
        for _ in range(3):
            await world.visit(after=DAY + 1)
        assert [alert.slug for alert in world.alerts] == ["publish-removal-ready"]
        found = await world.operations.remove("example.com")
        assert found["delete"] == [f'_mta-sts.example.com. 3600 IN TXT "v=STSv1; id={found["id"]};"']
        assert "mode: none" in world.text()
        world.resolver.forget("_mta-sts.example.com", RRType.TXT)
        await world.visit(after=3600)
        assert world.text() == ""
        # It stays removed although it is still configured, until a command publishes it.
        await world.configure({"example.com": TESTING})
        assert world.text() == ""
        await world.operations.apply("example.com")
        assert world.text() == LIVE_TESTING


YEAR = 365 * DAY


def backup_of(folder: Path) -> Path:
    """Copy the database into a folder below and return the folder."""
    copy = folder / "copy"
    copy.mkdir()
    source, target = sqlite3.connect(folder / "publish.sqlite"), sqlite3.connect(copy / "publish.sqlite")
    with closing(source), closing(target):
        source.backup(target)
    return copy


async def enforced(world: PublishWorld) -> None:
    """Publish example.com in mode enforce, with its TXT record."""
    world.mx("example.com", "mx.example.com")
    await world.configure({"example.com": ENFORCE})
    await world.visit()
    world.txt("example.com")


async def test_removal_waits_though_the_clock_jumps_by_a_year(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await enforced(world)
        until = (await world.operations.remove("example.com"))["removal"]["until"]
        assert until == world.clock.wall() + 30 * DAY
        world.clock.set_back(-YEAR)
        world.resolver.forget("_mta-sts.example.com", RRType.TXT)
        await world.visit(after=DAY)
        found = await world.operations.remove("example.com")
        assert found["removal"] == {"step": "wait", "until": world.clock.wall() + 29 * DAY}
        assert "mode: none" in world.text()
        world.clock.set_back(3 * YEAR)
        await world.visit(after=28 * DAY)
        assert "mode: none" in world.text()
        await world.visit(after=DAY)
        assert world.text() == ""


async def test_removal_waits_though_the_clock_was_wrong_at_a_restart(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await enforced(world)
        await world.operations.remove("example.com")
        world.clock.advance(DAY)
    for jump in (YEAR, -10 * YEAR, 0.0):
        async with publishing(tmp_path) as world:
            world.clock.set_back(-jump)
            await world.configure({"example.com": ENFORCE})
            found = await world.operations.remove("example.com")
            assert found["removal"] == {"step": "wait", "until": world.clock.wall() + 29 * DAY}


async def test_removal_after_a_crash_waits_for_the_time_not_stored(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await enforced(world)
        await world.operations.remove("example.com")
        registry = world.service.registry
        assert registry is not None
        for _ in range(20):
            world.clock.advance(60)
            await registry.recover()
        world.clock.advance(599)
        copy = backup_of(tmp_path)  # as the file is after a crash
    async with publishing(copy) as world:
        await world.configure({"example.com": ENFORCE})
        found = await world.operations.remove("example.com")
        assert found["removal"]["until"] == world.clock.wall() + 30 * DAY - 1200


async def test_removal_with_a_lost_state_waits_for_policies_announced_in_dns(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        world.outside.hosts["mx.example.com"] = mx_host("mx.example.com", sessions=())
        world.resolver.put("_mta-sts.example.com", RRType.TXT, [b"v=STSv1; id=before;"])
        await world.configure({"example.com": ENFORCE})
        await world.visit()
        assert world.text() == ""
        found = await world.operations.remove("example.com")
        assert found["removal"] == {"step": "wait", "until": world.clock.wall() + 30 * DAY}
        assert "mode: none" in world.text()


async def test_removal_without_state_waits_if_dns_cannot_be_asked(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.outside.error = PublishError("no check")
        await world.configure({"example.com": ENFORCE, "b.example": ENFORCE})
        world.resolver.fail("_mta-sts.example.com", RRType.TXT, DnsServerFailure())
        assert (await world.operations.remove("example.com"))["removal"]["step"] == "wait"
        assert (await world.operations.remove("b.example"))["removal"]["step"] == "done"


async def test_removal_with_a_state_from_a_backup_waits_for_the_later_policy(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": {**TESTING, "max_age": "1d"}})
        backup = backup_of(tmp_path)
        await enforced(world)
        announced = world.resolver
    async with publishing(backup) as world:
        world.resolver = announced
        world.outside.error = PublishError("no check")
        await world.configure({"example.com": ENFORCE})
        assert "mode: testing" in world.text()
        found = await world.operations.remove("example.com")
        assert found["removal"]["until"] == world.clock.wall() + 30 * DAY


async def test_rollout_goes_on_after_the_clock_was_a_year_ahead(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:  # it is 2027-01-15
        world.clock.set_back(-YEAR)
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": {**ENFORCE, "rollout": "automatic"}}, clean_days=3)
        world.txt("example.com")
        world.clock.set_back(YEAR)
        await world.visit(after=60)
        world.days = clean_days(16, 3)
        await world.visit(after=4 * DAY)
        assert "mode: enforce" in world.text()


# -- drift -----------------------------------------------------------------------------------------------------


async def live(world: PublishWorld) -> None:
    world.mx("example.com", "mx.example.com")
    await world.configure({"example.com": ENFORCE})
    await world.visit()
    world.txt("example.com")
    await world.visit(after=2 * DAY)
    await world.visit(after=DAY)
    assert world.one().findings == ()
    assert world.alerts == []


def slugs(world: PublishWorld) -> list[tuple[str, bool]]:
    return [(alert.slug, alert.resolved) for alert in world.alerts]


@pytest.mark.parametrize(
    ("breakage", "slug"),
    [
        ("forget-txt", "publish-record-missing"),
        ("old-txt", "publish-id-differs"),
        ("other-mx", "publish-mx-not-permitted"),
        ("mx-certificate", "publish-mx-broken"),
        ("mx-certificate-expires", "publish-mx-certificate-expires"),
        ("certificate-expires", "publish-certificate-expires"),
        ("unreachable", "publish-host-unreachable"),
    ],
)
async def test_drift_is_alerted_when_it_was_seen_twice_and_when_it_is_over(
    tmp_path: Path, breakage: str, slug: str
) -> None:
    async with publishing(tmp_path) as world:
        await live(world)
        before = dict(world.resolver.zone)
        expiring = world.clock.wall() + 5 * DAY
        match breakage:
            case "forget-txt":
                world.resolver.forget("_mta-sts.example.com", RRType.TXT)
            case "old-txt":
                world.resolver.put("_mta-sts.example.com", RRType.TXT, [b"v=STSv1; id=20200101;"])
            case "other-mx":
                world.mx("example.com", "mx.example.com", "new.example.com")
            case "mx-certificate":
                broken = session("mx.example.com", "192.0.2.25", tls=certificate("other.example"))
                world.outside.hosts["mx.example.com"] = mx_host("mx.example.com", sessions=(broken,))
            case "mx-certificate-expires":
                tls = certificate("mx.example.com", not_after=expiring)
                late = session("mx.example.com", "192.0.2.25", tls=tls)
                world.outside.hosts["mx.example.com"] = mx_host("mx.example.com", sessions=(late,))
            case "certificate-expires":
                world.outside.endpoint = certificate("mta-sts.example.com", not_after=expiring)
            case "unreachable":
                world.outside.policy_failure = CheckFailure("policy-connect-failed", "it is down")
        await world.visit(after=DAY)
        assert [finding.slug for finding in world.one().findings] == [slug]
        assert slugs(world) == []
        await world.visit(after=600)
        assert slugs(world) == [(slug, False)]
        await world.visit(after=DAY)
        assert slugs(world) == [(slug, False)]
        world.resolver.zone = before
        world.outside.hosts.clear()
        world.outside.endpoint = world.outside.policy_failure = None
        await world.visit(after=DAY)
        assert slugs(world) == [(slug, False), (slug, True)]
        assert world.text() == LIVE_ENFORCE


async def test_failure_of_our_own_neither_alerts_nor_resolves(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await live(world)
        world.resolver.forget("_mta-sts.example.com", RRType.TXT)
        await world.visit(after=DAY)
        await world.visit(after=600)
        assert slugs(world) == [("publish-record-missing", False)]
        world.txt("example.com")
        world.outside.policy_failure = CheckFailure("https-unavailable", "HTTPS is not available", ours=True)
        await world.visit(after=DAY)
        assert slugs(world) == [("publish-record-missing", False)]
        assert [finding.slug for finding in world.one().findings] == ["publish-record-missing"]
        world.outside.policy_failure = None
        await world.visit(after=DAY)
        assert slugs(world) == [("publish-record-missing", False), ("publish-record-missing", True)]


# -- the file of domains ---------------------------------------------------------------------------------------


async def test_domains_file_is_read_again_at_a_reload(tmp_path: Path) -> None:
    lines = tmp_path / "domains"
    lines.write_text("a.example mode=testing mx=mx.example.com\nnot a domain\n")
    async with publishing(tmp_path) as world:
        await world.configure({"b.example": TESTING}, domains_file=str(lines))
        assert "mode: testing" in world.text("a.example")
        assert "mode: testing" in world.text("b.example")
        assert len(world.served) == 2
        assert len((await world.operations.overview())["problems"]) == 1
        lines.write_text("a.example mode=none\n")
        await world.configure({"b.example": TESTING}, domains_file=str(lines))
        assert "mode: none" in world.text("a.example")
        lines.unlink()
        with pytest.raises(OSError, match="cannot be read: No such file"):
            await world.configure({"b.example": {**TESTING, "mode": "none"}}, domains_file=str(lines))
        assert "mode: none" in world.text("a.example")


async def test_pages_of_domains_follow_one_another(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await world.configure({f"d{number}.example": TESTING for number in range(7)})
        first = await world.operations.domains("", 3)
        second = await world.operations.domains(first["next"], 3)
        last = await world.operations.domains(second["next"], 3)
        names = [one["domain"] for page in (first, second, last) for one in page["domains"]]
        assert names == [f"d{number}.example" for number in range(7)]
        assert last["next"] is None
        assert (await world.operations.overview())["modes"] == {"testing": 7}


async def test_unknown_domain_is_a_key_error_and_nothing_published_is_an_error(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        with pytest.raises(PublishError, match=r"add publish\.domains"):
            await world.operations.records("example.com")
        await world.configure({"example.com": TESTING})
        with pytest.raises(KeyError):
            await world.operations.records("example.org")


async def test_domain_taken_out_while_it_is_checked_is_not_published(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        one, check = world.one(), world.service.check

        async def meanwhile(domain: str, *, fresh: bool = False) -> object:
            await world.configure({})
            return await check(domain)

        world.service.check = meanwhile  # type: ignore[assignment]
        await world.watch.visit(one)
        assert world.served == {}


async def test_configuration_changed_while_a_domain_is_checked_counts(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        one, check = world.one(), world.service.check

        async def meanwhile(domain: str, *, fresh: bool = False) -> object:
            found = await check(domain)
            await world.configure({"example.com": {**ENFORCE, "mx": ["other.example.com"]}})
            return found

        world.service.check = meanwhile  # type: ignore[assignment]
        await world.watch.visit(one)
        assert world.text() == ""
        assert one.due <= world.clock.monotonic()


async def test_check_by_an_operator_uses_no_earlier_session_and_the_watch_does(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        await world.visit(after=60)
        assert not world.outside.fresh
        for work in (world.operations.check, world.operations.rollout, world.operations.apply):
            world.outside.fresh = False
            await world.configure({"example.com": {**ENFORCE, "mx": [f"mx{world.outside.checks}.example.com"]}})
            await work("example.com")
            assert world.outside.fresh


class FailingUpdater:
    """Writes records, and fails at those of the names in ``down``."""

    def __init__(self) -> None:
        self.down: tuple[str, ...] = ()
        self.written: list[str] = []

    async def write(self, records: Sequence[DnsRecord], *, remove: Sequence[DnsRecord] = ()) -> UpdateResult:
        for record in (*records, *remove):
            if record.name.startswith(self.down):
                raise PublishError("192.0.2.53 does not answer")
            self.written.append(record.name)
        return UpdateResult(("example.com",), ())


async def test_apply_resumes_after_the_name_server_failed_half_way(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE}, addresses=["192.0.2.80"])
        updater = FailingUpdater()
        updater.down = ("_mta-sts.",)
        world.service.updater = updater  # type: ignore[assignment]
        with pytest.raises(PublishError, match="does not answer"):
            await world.operations.apply("example.com")
        # The policy is served before any record announces it.
        assert updater.written == ["mta-sts.example.com"] * 2
        assert world.text() == LIVE_ENFORCE
        updater.down = ()
        await world.operations.apply("example.com")
        assert updater.written[-1] == "_mta-sts.example.com"
        assert world.one().state.dns_id == policy_id(world.served[b"mta-sts.example.com"])


async def test_record_that_could_not_be_written_is_written_after_ten_minutes(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await enforced(world)
        updater = FailingUpdater()
        world.service.updater = updater  # type: ignore[assignment]
        await world.operations.apply("example.com")
        updater.down = ("_mta-sts.",)
        found = await world.operations.remove("example.com")
        assert found["dns"] is None
        assert (await world.operations.domain("example.com"))["problems"] == ["192.0.2.53 does not answer"]
        updater.down, updater.written = (), []
        one = await world.visit(after=60)
        assert updater.written == ["_mta-sts.example.com"]
        assert (one.dns_problem, one.state.dns_id) == ("", policy_id(world.served[b"mta-sts.example.com"]))


def due_now(world: PublishWorld) -> list[str]:
    registry = world.service.registry
    assert registry is not None
    return [one.state.domain for one in registry.take_due(world.clock.monotonic(), 100)]


async def test_domains_published_by_a_reload_are_not_visited_for_it(tmp_path: Path) -> None:
    # 100,000 visits took seconds of CPU after each reload.
    names = [f"d{number}.example" for number in range(50)]
    async with publishing(tmp_path) as world:
        for hosts in (["mx1.example.net"], ["mx1.example.net", "mx2.example.net"]):
            await world.configure({name: {"mode": "testing", "mx": hosts} for name in names})
            assert hosts[-1] in world.text(names[-1])
            assert due_now(world) == []


async def test_domain_whose_record_the_daemon_wrote_is_visited_after_a_reload(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await world.configure({"example.com": TESTING})
        one, registry = world.one(), world.service.registry
        assert registry is not None
        assert one.state.live is not None
        await registry.put([replace(one.state, dns_id=one.state.live.id)], [], must_keep=True)
        await world.configure({"example.com": TESTING})
        assert due_now(world) == []
        await world.configure({"example.com": {**TESTING, "max_age": "7d"}})
        assert due_now(world) == ["example.com"]


async def test_domain_whose_mx_becomes_auto_is_visited_soon(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": {"mode": "testing", "mx": "auto"}})
        await world.visit()
        await world.configure({"example.com": {"mode": "testing", "mx": ["other.example.com"]}})
        await world.visit(after=DAY)
        await world.configure({"example.com": {"mode": "testing", "mx": "auto"}})
        world.clock.advance(1.0)
        assert due_now(world) == ["example.com"]
