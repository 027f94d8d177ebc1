"""Writing records by RFC 2136: what is written, refused, replaced and waited for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mtasts_daemon.config.sections.publish import DnsUpdateSettings
from mtasts_daemon.errors import DnsServerFailure, PublishError
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.publish import dns_update as module
from mtasts_daemon.publish.dns_records import DnsRecord, RecordType
from mtasts_daemon.publish.dns_update import DnsUpdater
from tests.fakes.authority import Authority
from tests.fakes.resolver import FakeResolver

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTMyYg=="
TXT = DnsRecord("_mta-sts.example.com", RecordType.TXT, "v=STSv1; id=1;")
HOST = [
    DnsRecord("mta-sts.example.com", RecordType.A, "192.0.2.1"),
    DnsRecord("mta-sts.example.com", RecordType.AAAA, "2001:db8::1"),
]


@asynccontextmanager
async def updating(
    folder: Path, *, secret: str = SECRET, wait: str = "5s", name_servers_known: bool = True
) -> AsyncIterator[tuple[DnsUpdater, Authority]]:
    key = folder / "tsig.key"
    key.write_text(secret + "\n")
    key.chmod(0o600)
    resolver = FakeResolver()
    resolver.put("example.com", RRType.NS, ["ns.example.com"])
    resolver.put("ns.example.com", RRType.A, ["127.0.0.1"])
    if not name_servers_known:
        resolver.fail("example.com", RRType.NS, DnsServerFailure())
    async with Authority("example.com", "mtasts", SECRET) as authority:
        settings = DnsUpdateSettings.model_validate(
            {"server": f"127.0.0.1:{authority.port}", "key_name": "mtasts", "key_file": str(key), "wait": wait}
        )
        yield DnsUpdater(settings, {}, lambda: resolver, authority.port), authority


def held(authority: Authority, name: str) -> list[str]:
    node = authority.zone.get_node(f"{name}.")
    return sorted(f"{item.rdtype.name} {one.to_text()}" for item in (node or ()) for one in item)


async def test_records_are_written_and_all_servers_agree(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, authority):
        result = await updater.write([*HOST, TXT])
        assert (result.zones, result.agreed) == (("example.com",), True)
        assert [(server.name, server.address) for server in result.servers] == [("ns.example.com", "127.0.0.1")]
        assert held(authority, "mta-sts.example.com") == ["A 192.0.2.1", "AAAA 2001:db8::1"]
        assert held(authority, "_mta-sts.example.com") == ['TXT "v=STSv1; id=1;"']
        assert authority.updates == 1


async def test_new_record_replaces_the_old_ones_of_its_name(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, authority):
        await updater.write([*HOST, TXT])
        cname = DnsRecord("mta-sts.example.com", RecordType.CNAME, "policy.example.net")
        await updater.write([cname, DnsRecord(TXT.name, RecordType.TXT, "v=STSv1; id=2;")])
        assert held(authority, "mta-sts.example.com") == ["CNAME policy.example.net."]
        assert held(authority, "_mta-sts.example.com") == ['TXT "v=STSv1; id=2;"']
        await updater.write(HOST)
        assert held(authority, "mta-sts.example.com") == ["A 192.0.2.1", "AAAA 2001:db8::1"]


async def test_records_are_removed_by_name_and_type(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, authority):
        await updater.write([*HOST, TXT])
        assert (await updater.write([], remove=[TXT, HOST[0]])).agreed
        assert held(authority, "_mta-sts.example.com") == []
        assert held(authority, "mta-sts.example.com") == ["AAAA 2001:db8::1"]


async def test_alias_out_of_the_zone_is_removed_in_its_own_zone(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, authority):
        cname = DnsRecord("mta-sts.example.com", RecordType.CNAME, "policy.example.net")
        await updater.write([cname])
        assert (await updater.write([], remove=[cname])).agreed
        assert held(authority, "mta-sts.example.com") == []


async def test_servers_are_asked_until_they_have_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    async with updating(tmp_path) as (updater, authority):
        authority.late = 3
        assert (await updater.write([TXT])).agreed
        assert authority.late == 0


async def test_server_that_stays_behind_is_named(tmp_path: Path) -> None:
    async with updating(tmp_path, wait="0s") as (updater, authority):
        authority.late = 9
        result = await updater.write([TXT])
        assert not result.agreed
        assert result.servers[0].problem == "does not have _mta-sts.example.com TXT"


async def test_wrong_key_is_refused_with_a_sentence(tmp_path: Path) -> None:
    wrong = "d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktMzI="
    async with updating(tmp_path, secret=wrong) as (updater, authority):
        with pytest.raises(PublishError) as caught:
            await updater.write([TXT])
        assert caught.value.detail
        assert authority.updates == 0


@pytest.mark.parametrize("secret", ["not base64!", "\xff"])
async def test_key_that_is_no_key_is_refused_with_a_sentence(tmp_path: Path, secret: str) -> None:
    async with updating(tmp_path, secret=secret) as (updater, _):
        with pytest.raises(PublishError, match="the TSIG key cannot be used"):
            await updater.write([TXT])


async def test_key_file_that_anybody_can_read_is_refused(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, _):
        (tmp_path / "tsig.key").chmod(0o644)
        with pytest.raises(PublishError, match=r"tsig\.key"):
            await updater.write([TXT])


async def test_name_of_another_zone_is_refused(tmp_path: Path) -> None:
    async with updating(tmp_path) as (updater, _):
        with pytest.raises(PublishError, match=r"not authoritative for _mta-sts\.example\.org"):
            await updater.write([DnsRecord("_mta-sts.example.org", RecordType.TXT, "x")])


async def test_server_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_SECONDS", 0.2)
    async with updating(tmp_path) as (updater, authority):
        await authority.__aexit__()
        with pytest.raises(PublishError, match=r"127\.0\.0\.1"):
            await updater.write([TXT])


async def test_name_servers_that_cannot_be_looked_up_are_not_agreement(tmp_path: Path) -> None:
    async with updating(tmp_path, wait="0s", name_servers_known=False) as (updater, authority):
        result = await updater.write([TXT])
        assert not result.agreed
        assert "cannot be looked up" in result.servers[0].problem
        assert held(authority, "_mta-sts.example.com") == ['TXT "v=STSv1; id=1;"']
