"""Reports sent to a real daemon by LMTP: acknowledged after the commit, and neither lost nor counted twice."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.process import Internet, Process

from . import corpus
from .corpus import mail, packed, report, signed
from .site import ReceivingSite, dated, deliver, receiving_site, sent_without_reading_the_reply, soon


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ReceivingSite]:
    with receiving_site(tmp_path) as made:
        yield made


def stored(path: Path, sql: str = "SELECT report_id FROM report") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_signed_report_is_taken_and_shown(site: ReceivingSite) -> None:
    assert site.send(report(**{"date-range": dated(1)})) == {}
    found = site.wait_for_api().get("/api/v1/received").json
    assert [(one["domain"], one["successful"], one["failed"]) for one in found["domains"]] == [("example.com", 100, 3)]
    detail = site.api().get("/api/v1/received/example.com").json
    assert detail["reporters"][0]["submitter"] == "reporter.example"
    listed = site.api().get("/api/v1/received/example.com/reports").json["reports"]
    assert [(one["method"], one["source"], one["counted"]) for one in listed] == [("dkim", "lmtp", True)]
    raw = site.api().get(f"/api/v1/received-reports/{listed[0]['id']}/raw").json["text"]
    assert "Reporter Inc." in raw


def test_replies_are_sent_for_each_recipient(site: ReceivingSite) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(site.lmtp))
        file = sock.makefile("rb")
        assert file.readline().startswith(b"220")
        sock.sendall(b"LHLO x\r\n")
        while file.readline()[3:4] == b"-":
            pass
        sock.sendall(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        assert [file.readline()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        sock.sendall(b"Subject: x\r\n\r\n..dot\r\n.\r\nNOOP\r\n")
        assert [file.readline()[:3] for _ in range(3)] == [b"554", b"554", b"250"]


def test_mail_beyond_the_limit_is_refused_and_the_session_goes_on(site: ReceivingSite) -> None:
    big = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 160_000
    (reply,) = deliver(site.lmtp, big).values()
    assert reply[0] == 552
    assert site.send(report()) == {}


def test_mail_of_empty_lines_takes_no_more_memory_than_its_size(site: ReceivingSite) -> None:
    (reply,) = deliver(site.lmtp, b"Subject: x\r\n\r\n" + b"\r\n" * 3_500_000).values()
    assert reply[0] == 552
    pid = site.daemon.logged("receiving-process-started")[0].rpartition("pid=")[2]
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    assert peak < 250


def test_unknown_key_server_defers_the_mail(site: ReceivingSite) -> None:
    site.internet.records("sel._domainkey.reporter.example", "! TXT servfail")
    (reply,) = site.send(report()).values()
    assert reply[0] == 451
    assert stored(site.database) == []


def test_removed_database_directory_defers_the_mail_and_lookups_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    with receiving_site(tmp_path, receive={"database": str(folder / "received.sqlite")}) as site:
        assert site.send(report()) == {}
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        folder.write_text("a file in the way")
        (reply,) = site.send(report(**{"report-id": "2"})).values()
        assert reply[0] in (451, 452)
        site.internet.publish("known.example")
        assert site.daemon.lookup("known.example").startswith("OK secure")
        folder.unlink()
        assert site.send(report(**{"report-id": "3"})) == {}
        assert stored(folder / "received.sqlite") == [("3",)]


def test_socket_that_cannot_be_made_is_retried_and_stops_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "lmtp.sock"
    blocked.write_text("in the way")
    with Internet(tmp_path / "internet") as internet:
        internet.publish("known.example")
        settings = {"receive": {"own_domains": ["example.com"], "lmtp_socket": str(blocked)}}
        with Process(tmp_path / "daemon", internet, settings) as daemon:
            daemon.logged("part-failed part=tls-report-receiver")
            assert daemon.lookup("known.example").startswith("OK secure")
            blocked.unlink()
            daemon.reload()
            daemon.logged("tlsrpt-receiver-listening")
            assert deliver(blocked, mail(packed(report()))) == {}


def test_reload_takes_over_own_domains(site: ReceivingSite) -> None:
    content = report(policies=[corpus.policy(policy={"policy-type": "sts", "policy-domain": "other.example"})])
    assert site.send(content) == {}
    assert stored(site.database) == []
    receive = site.daemon.settings["receive"] | {"own_domains": ["other.example"]}
    site.daemon.reload(receive=receive)
    assert site.send(content) == {}
    assert stored(site.database, "SELECT domain FROM report") == [("other.example",)]


def test_kill_during_intake_loses_nothing_acknowledged_and_counts_nothing_twice(site: ReceivingSite) -> None:
    messages = {str(number): signed(mail(packed(report(**{"report-id": str(number)})))) for number in range(16)}
    left = list(messages)
    sent: list[str] = []
    while left:
        acknowledged, unread = left[:2], left[2:4]
        del left[:4]
        for name in acknowledged:
            assert deliver(site.lmtp, messages[name]) == {}
        sent += acknowledged
        with ExitStack() as connections:
            for name in unread:
                connections.enter_context(sent_without_reading_the_reply(site.lmtp, messages[name]))
            if len(left) % 8:  # at the moment of the commit; otherwise before or while it is taken
                soon(lambda: len(stored(site.database)) > len(sent))  # noqa: B023
            site.daemon.kill()
        assert {(name,) for name in sent} <= set(stored(site.database)) <= {(name,) for name in [*sent, *unread]}
        site.daemon.log.clear()
        site.daemon.start()
        site.daemon.logged("tlsrpt-receiver-listening")
        for name in unread:
            assert deliver(site.lmtp, messages[name]) == {}
        sent += unread
    assert sorted(stored(site.database)) == sorted((name,) for name in messages)
    sums = stored(site.database, "SELECT reports, successful, failed FROM day_total WHERE result_type = ''")
    assert sums == [(16, 1600, 48)]


def test_stop_finishes_pending_writes(site: ReceivingSite) -> None:
    import signal

    assert site.send(report()) == {}
    site.daemon.signal(signal.SIGTERM)
    assert site.daemon.ended() == 0
    assert not site.lmtp.exists()
    assert stored(site.database) == [("2026-11-27T00:00:00Z_example.com",)]


def test_published_domains_are_own_domains_from_every_source_and_after_reload(tmp_path: Path) -> None:
    lines = tmp_path / "domains"
    lines.write_text("line.example mode=testing mx=mx.line.example\n")
    publish = {"domains": {"listed.example": {"mode": "testing", "mx": ["mx.listed.example"]}}}
    settings = {"publish": publish | {"domains_file": str(lines)}}
    with receiving_site(tmp_path, receive={"own_domains": []}, **settings) as site:

        def send(domain: str, number: int) -> None:
            policies = [corpus.policy(policy={"policy-type": "sts", "policy-domain": domain})]
            assert site.send(report(policies=policies, **{"report-id": str(number)})) == {}

        site.daemon.logged("publish-policies-published count=2")
        for number, domain in enumerate(["listed.example", "mx.listed.example", "line.example", "later.example"]):
            send(domain, number)
        assert stored(site.database) == [("0",), ("1",), ("2",)]
        lines.write_text(
            "line.example mode=testing mx=mx.line.example\nlater.example mode=testing mx=mx.later.example\n"
        )
        site.daemon.reload()
        site.daemon.logged("publish-policies-published count=1")
        send("later.example", 4)
        assert stored(site.database)[3:] == [("4",)]


def test_report_is_deferred_while_the_published_domains_are_not_known(tmp_path: Path) -> None:
    lines = tmp_path / "domains"
    settings = {"publish": {"domains_file": str(lines)}}
    with receiving_site(tmp_path, receive={"own_domains": ["own.example"]}, **settings) as site:

        def send(domain: str) -> dict[str, tuple[int, bytes]]:
            policies = [corpus.policy(policy={"policy-type": "sts", "policy-domain": domain})]
            return site.send(report(policies=policies, **{"report-id": domain}))

        site.daemon.logged("part-failed part=publish")
        assert send("mx.own.example") == {}
        ((code, said),) = send("line.example").values()
        assert (code, b"publish.domains_file has not been read" in said) == (452, True)
        lines.write_text("line.example mode=testing mx=mx.line.example\n")
        site.daemon.reload()
        site.daemon.logged("publish-policies-published count=1")
        assert send("mx.line.example") == {}
        assert sorted(stored(site.database)) == [("mx.line.example",), ("mx.own.example",)]
