"""The admin API of a running daemon: reading, commands, and rejected requests."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.fakes.admin import Admin
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

DOMAINS = ("a.example", "b.example", "c.example", "d.example", "testing.example")
TESTING = b"version: STSv1\nmode: testing\nmx: mail.example.com\nmax_age: 86400\n"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        for domain in DOMAINS:
            internet.publish(domain, behaviour=Behaviour(body=TESTING) if domain == "testing.example" else None)
        internet.publish("new.example")
        internet.publish("expired.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
        yield internet


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, internet: Internet) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("daemon")
    settings = {
        "admin": {"socket": str(folder / "admin.sock"), "listen": "127.0.0.1:0"},
        "overrides": {"fixed.example": {"reply": "encrypt", "reason": "a partner"}},
    }
    with Process(folder, internet, settings) as daemon:
        for domain in (*DOMAINS, "a.example", "a.example", "fixed.example"):
            daemon.lookup(domain)
        yield daemon


@pytest.fixture
def admin(daemon: Process) -> Admin:
    """The Unix socket, which may change things."""
    daemon.logged("admin-listening.*sock")
    return Admin(daemon.config.parent / "admin.sock")


@pytest.fixture
def reader(daemon: Process) -> Admin:
    """The TCP listener, which only reads."""
    return Admin.on(daemon.logged("admin-listening address=127")[0])


# -- reading -----------------------------------------------------------------------------------------------


def test_working_daemon_is_alive_and_ready(admin: Admin, reader: Admin) -> None:
    for listener in (admin, reader):
        assert listener.get("/healthz").json == {"ok": True}
        ready = listener.get("/readyz")
        assert (ready.status, ready.json["ok"]) == (200, True)
        assert [check["name"] for check in ready.json["checks"]] == ["listeners", "store", "resolver", "refresher"]


def test_status_counts_lookups(admin: Admin) -> None:
    lookups = admin.get("/api/v1/status").json["lookups"]
    assert lookups["total"] == 8
    assert lookups["hits"] == 2
    assert lookups["answers"] == {"secure": 6, "none": 1, "fixed": 1}


def test_status_shows_that_tls_results_are_not_collected(admin: Admin) -> None:
    assert admin.get("/api/v1/status").json["tlsrpt"] == {
        "collecting": False,
        "events": {"received": 0, "rejected": {}, "last_at": None},
        "sending": False,
        "reports": None,
    }


def test_entries_are_listed_page_by_page_in_order(admin: Admin) -> None:
    found: list[str] = []
    path: str | None = "/api/v1/entries?limit=2&sort=-domain"
    while path is not None:
        page = admin.get(path).json
        found += [entry["domain"] for entry in page["entries"]]
        path = f"/api/v1/entries?limit=2&sort=-domain&cursor={page['next']}" if page["next"] else None
    assert found == sorted(DOMAINS, reverse=True)


def test_list_is_filtered(admin: Admin) -> None:
    def listed(query: str) -> list[str]:
        return [entry["domain"] for entry in admin.get(f"/api/v1/entries?{query}").json["entries"]]

    assert listed("mode=testing") == ["testing.example"]
    assert listed("q=EST") == ["testing.example"]
    assert listed("failing=1") == []
    assert listed("expiring=1h") == []
    assert listed("expiring=26h&live=1") == ["testing.example"]
    assert admin.get("/api/v1/entries?mode=enforce").json["total"] == 4


def test_entry_is_returned_whole(admin: Admin) -> None:
    entry = admin.get("/api/v1/entries/A.example.").json
    assert entry["domain"] == "a.example"
    assert entry["held"]["mode"] == "enforce"
    assert entry["held"]["mx"] == ["mail.example.com"]
    assert entry["held"]["live"] and entry["stored"] and entry["in_memory"]
    assert entry["txt"]["record_id"] == "1"
    assert entry["failure"] is None


@pytest.mark.parametrize("query", ["", "?live=1"])
def test_reply_is_explained(admin: Admin, query: str) -> None:
    found = admin.get(f"/api/v1/explain/a.example{query}").json
    assert found["policy_domain"] == "a.example"
    assert found["decisions"]["postfix"] == "mode-enforce"
    assert found["replies"]["postfix"].startswith("OK secure match=mail.example.com")
    assert {"title", "rule", "found", "good"} == set(found["steps"][0])


def test_key_without_policy_is_explained_and_other_text_rejected(admin: Admin) -> None:
    for key in (".example.com", "[192.0.2.1]", "com"):
        assert admin.get(f"/api/v1/explain/{quote(key)}").json["verdict"] is None
    for key in ("\x00", "%ff", "a" * 900, "no spaces"):
        assert admin.get(f"/api/v1/explain/{quote(key)}").status == 400


def test_address_or_url_is_explained_by_its_domain(admin: Admin) -> None:
    for text in ("user@a.example", "https://a.example/path", "<user@A.example>"):
        found = admin.get(f"/api/v1/explain/{quote(text, safe='')}").json
        assert found["policy_domain"] == "a.example"
        assert found["verdict"]["sentence"].startswith("Mail to a.example requires authenticated TLS")


def test_live_explanation_is_streamed_step_by_step(admin: Admin) -> None:
    lines = [json.loads(line) for line in admin.get("/api/v1/explain/a.example?live=1&stream=1").body.splitlines()]
    titles = [line["step"]["title"] for line in lines[:-1]]
    assert titles == [step["title"] for step in lines[-1]["result"]["steps"]]
    assert "TXT record" in titles


def test_history_has_columns_of_one_length(admin: Admin) -> None:
    history = admin.get("/api/v1/history?minutes=10").json
    assert {len(history[name]) for name in ("at", "seconds", "lookups", "hits")} == {len(history["at"])}


def test_configuration_names_the_origin_of_each_value(admin: Admin, daemon: Process) -> None:
    found = admin.get("/api/v1/config").json
    assert found["config"]["admin"]["listen"] == "127.0.0.1:0"
    assert found["origins"]["admin.listen"].startswith(f"{daemon.config}:")
    assert found["origins"]["dns.trust_ad"] == "default"


def test_overrides_have_reason_and_origin(admin: Admin, daemon: Process) -> None:
    (override,) = admin.get("/api/v1/overrides").json["overrides"].values()
    assert (override["reply"], override["reason"]) == ("encrypt", "a partner")
    assert override["origin"].startswith(str(daemon.config))


def test_last_log_lines_are_listed_newest_first(admin: Admin) -> None:
    lines = admin.get("/api/v1/log").json["lines"]
    assert lines == sorted(lines, key=lambda line: -line["at"])
    assert {"ready", "policy-learned"} <= {line["event"] for line in lines}


def test_refresh_is_streamed_step_by_step(admin: Admin) -> None:
    lines = [json.loads(line) for line in admin.post("/api/v1/refresh/a.example?stream=1").body.splitlines()]
    assert [line["step"]["title"] for line in lines[:-1]] == ["TXT record", "policy fetch"]
    assert lines[-1]["result"]["domain"] == "a.example"
    lines = [json.loads(line) for line in admin.post("/api/v1/refresh/expired.example?stream=1").body.splitlines()]
    assert [line["step"]["good"] for line in lines[:-1]] == [True, False]
    assert "(webpki-expired)" in lines[1]["step"]["found"]
    admin.post("/api/v1/purge/expired.example")


# -- what it does ------------------------------------------------------------------------------------------


def test_refresh_queries_the_policy_host_despite_back_off(admin: Admin, internet: Internet) -> None:
    internet.publish("mended.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
    assert admin.post("/api/v1/refresh/mended.example").json["failure"]["problem"] == "webpki-expired"
    internet.publish("mended.example")
    assert admin.post("/api/v1/refresh/mended.example").json["held"]["mode"] == "enforce"
    assert admin.post("/api/v1/purge/mended.example").status == 200


def test_failed_refresh_keeps_a_live_policy(admin: Admin, internet: Internet) -> None:
    internet.publish("b.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
    entry = admin.post("/api/v1/refresh/b.example").json
    assert entry["held"]["live"]
    assert entry["failure"]["problem"] == "webpki-expired"
    assert [e["domain"] for e in admin.get("/api/v1/entries?failing=1").json["entries"]] == ["b.example"]
    internet.publish("b.example")
    assert admin.post("/api/v1/refresh/b.example").json["failure"] is None


def test_purged_domain_is_removed_and_discovered_again(admin: Admin, daemon: Process) -> None:
    daemon.lookup("new.example")
    assert admin.ask("DELETE", "/api/v1/entries/new.example", X_MTASTS_Request="test").json == {"purged": True}
    assert admin.get("/api/v1/entries/new.example").status == 404
    assert admin.post("/api/v1/purge/new.example").json["title"] == "domain-unknown"
    assert daemon.lookup("new.example").startswith("OK secure ")
    assert admin.post("/api/v1/purge/new.example").status == 200


def test_export_can_be_imported(admin: Admin) -> None:
    exported = admin.get("/api/v1/export").json["entries"]
    mine = [entry | {"domain": f"moved-{entry['domain']}"} for entry in exported if entry["domain"] == "a.example"]
    assert admin.post("/api/v1/import", {"entries": mine}).json == {"kept": 1, "older": 0, "refused": []}
    assert admin.post("/api/v1/import", {"entries": mine}).json == {"kept": 0, "older": 1, "refused": []}
    held = admin.get("/api/v1/entries/moved-a.example").json["held"]
    assert (held["mode"], held["fetched_at"]) == ("enforce", mine[0]["fetched_at"])
    assert admin.post("/api/v1/purge/moved-a.example").status == 200


BODY = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 86400\n"
GOOD = {"domain": "x.example", "record_id": "1", "body": BODY, "fetched_at": 2e9}


@pytest.mark.parametrize(
    "entry",
    [
        GOOD | {"domain": "not a domain"},
        GOOD | {"record_id": "not an id"},
        GOOD | {"record_id": 1},
        GOOD | {"body": "version: STSv1\nmode: x\n"},
        GOOD | {"body": None},
        GOOD | {"fetched_at": 1.0},
        GOOD | {"fetched_at": "yesterday"},
        GOOD | {"fetched_at": float("nan")},
        GOOD | {"fetched_at": 10**400},
        {},
        None,
        7,
    ],
)
def test_invalid_entry_is_rejected_and_others_imported(admin: Admin, entry: object) -> None:
    found = admin.post("/api/v1/import", {"entries": [entry, GOOD]}).json
    assert len(found["refused"]) == 1
    assert found["kept"] + found["older"] == 1
    assert admin.post("/api/v1/purge/x.example").status == 200


def test_future_time_does_not_prolong_an_imported_policy(admin: Admin) -> None:
    admin.post("/api/v1/import", {"entries": [GOOD | {"fetched_at": 9e9, "valid_until": 9e12}]})
    status, held = admin.get("/api/v1/status").json, admin.get("/api/v1/entries/x.example").json["held"]
    assert held["valid_until"] <= status["now"] + 86400
    admin.post("/api/v1/purge/x.example")


def test_reload_returns_whether_the_configuration_is_in_force(admin: Admin, daemon: Process) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text(good + "\nnonsense: 1\n")
    refused = admin.post("/api/v1/reload")
    assert (refused.status, refused.json["ok"]) == (409, False)
    assert "nonsense" in refused.json["problems"][0]
    assert admin.get("/api/v1/status").json["reload"]["problems"] == refused.json["problems"]
    daemon.config.write_text(good)
    assert admin.post("/api/v1/reload").json["ok"]
    assert admin.get("/api/v1/status").json["reload"]["problems"] == []


def test_log_level_is_changed_until_the_next_reload(admin: Admin) -> None:
    assert admin.post("/api/v1/log-level", {"level": "debug"}).json == {"level": "debug"}
    assert admin.get("/api/v1/status").json["log_level"] == "debug"
    admin.post("/api/v1/reload")
    assert admin.get("/api/v1/status").json["log_level"] == "info"


# -- whom it refuses ---------------------------------------------------------------------------------------

WRITES = [
    ("POST", "/api/v1/refresh/a.example"),
    ("POST", "/api/v1/purge/a.example"),
    ("DELETE", "/api/v1/entries/a.example"),
    ("POST", "/api/v1/import"),
    ("POST", "/api/v1/reload"),
    ("POST", "/api/v1/log-level"),
    ("PUT", "/api/v1/entries/a.example"),
    ("PATCH", "/"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_read_only_listener_rejects_writes(reader: Admin, admin: Admin, method: str, path: str) -> None:
    answer = reader.ask(method, path, {"level": "debug", "entries": []}, X_MTASTS_Request="test")
    assert (answer.status, answer.json["title"]) == (405, "read-only")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert admin.get("/api/v1/entries/a.example").json["held"]["live"]
    assert admin.get("/api/v1/status").json["log_level"] == "info"


@pytest.mark.parametrize(("method", "path"), WRITES[:6])
def test_write_needs_a_header_that_foreign_pages_cannot_send(admin: Admin, method: str, path: str) -> None:
    answer = admin.ask(method, path, {})
    assert (answer.status, answer.json["title"]) == (403, "header-needed")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8462", "", "localhost.evil.example", "[::1", "1.2.3"])
def test_foreign_host_name_is_rejected(reader: Admin, admin: Admin, host: str) -> None:
    for listener in (reader, admin):
        answer = listener.get("/api/v1/status", Host=host)
        assert (answer.status, answer.json["title"]) == (421, "host-refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8462", "[::1]:8462", "[::1]"])
def test_addresses_and_localhost_are_accepted(reader: Admin, host: str) -> None:
    assert reader.get("/healthz", Host=host).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_request_from_a_foreign_page_is_rejected(reader: Admin, site: str) -> None:
    answer = reader.get("/api/v1/explain/a.example?live=1", Sec_Fetch_Site=site)
    assert (answer.status, answer.json["title"]) == (403, "cross-site")


def test_every_response_has_the_security_headers(admin: Admin) -> None:
    for path in ("/healthz", "/api/v1/status", "/api/v1/entries", "/metrics", "/nothing", "/api/v1/entries/no.example"):
        answer = admin.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (path, name)
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert answer.headers["Server"] == "mtasts-daemon"


def test_unchanged_list_is_not_sent_again(reader: Admin) -> None:
    first = reader.get("/api/v1/overrides")
    again = reader.get("/api/v1/overrides", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status", "title"),
    [
        ("/nothing", 404, "not-found"),
        ("/api/v1/", 404, "not-found"),
        ("/static/../admin.py", 404, "not-found"),
        ("/static/%2e%2e/admin.py", 404, "not-found"),
        ("/api/v1/entries/unknown.example", 404, "domain-unknown"),
        ("/api/v1/entries/not%20a%20domain", 400, "domain-invalid"),
        ("/api/v1/entries?mode=no", 400, "bad-parameter"),
        ("/api/v1/entries?sort=no", 400, "bad-parameter"),
        ("/api/v1/entries?sort=domain;DROP", 400, "bad-parameter"),
        ("/api/v1/entries?limit=0", 400, "bad-parameter"),
        ("/api/v1/entries?limit=501", 400, "bad-parameter"),
        ("/api/v1/entries?limit=%D9%A1", 400, "bad-parameter"),
        ("/api/v1/entries?failing=yes", 400, "bad-parameter"),
        ("/api/v1/entries?expiring=24", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=!", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=W1tdLFtdXQ==", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=WzEsMl0=", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=WzFlNDAwLCJhIl0=", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAsImEiXQ==", 400, "bad-parameter"),
        ("/api/v1/entries?cursor=WyJcdWQ4MDAiLCJhIl0=", 400, "bad-parameter"),
        ("/api/v1/history?minutes=9999", 400, "bad-parameter"),
        ("/api/v1/explain/" + "a" * 1001, 400, "domain-invalid"),
        ("/api/v1/explain/a.example?live=2", 400, "bad-parameter"),
    ],
)
def test_invalid_request_is_rejected(reader: Admin, path: str, status: int, title: str) -> None:
    answer = reader.get(path)
    assert (answer.status, answer.json["title"]) == (status, title)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["type"] == f"urn:mtasts-daemon:{title}"


@pytest.mark.parametrize(
    ("path", "body", "status", "title"),
    [
        ("/api/v1/log-level", b"{", 400, "body-invalid"),
        ("/api/v1/log-level", b"[]", 400, "body-invalid"),
        ("/api/v1/log-level", b"\xff", 400, "body-invalid"),
        ("/api/v1/log-level", b"[" * 100_000, 400, "body-invalid"),
        ("/api/v1/log-level", b"{}", 400, "bad-parameter"),
        ("/api/v1/log-level", b'{"level": ["x"]}', 400, "bad-parameter"),
        ("/api/v1/import", b'{"entries": 1}', 400, "body-invalid"),
        ("/api/v1/import", json.dumps({"entries": [1] * 1001}).encode(), 400, "body-invalid"),
        ("/api/v1/import", b" " * (3 << 20), 413, "body-too-large"),
        ("/api/v1/status", b"", 405, "method-not-allowed"),
    ],
)
def test_invalid_body_is_rejected(admin: Admin, path: str, body: bytes, status: int, title: str) -> None:
    answer = admin.post(path, body)
    assert (answer.status, answer.json["title"]) == (status, title)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        # Each field and their number are within the limits of aiohttp.
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + (b"X: " + b"y" * 400 + b"\r\n") * 60 + b"\r\n",
        b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"12:postfix a.ex,",
        b"BREW /coffee HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_malformed_http_is_rejected_without_a_traceback(reader: Admin, octets: bytes) -> None:
    received = reader.raw(octets)
    assert received == b"" or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"Traceback" not in received
    assert reader.get("/healthz").status == 200


def test_idle_connections_cannot_block_new_ones(reader: Admin) -> None:
    crowd = [reader.connect() for _ in range(70)]
    try:
        assert reader.get("/healthz").status == 200
        assert crowd[0].recv(1) == b""
    finally:
        for sock in crowd:
            sock.close()


def test_no_internal_error_was_logged(daemon: Process) -> None:
    """The last of those that share the daemon."""
    assert daemon.lines("Traceback|trace=|admin-request-failed|task-failed|Unhandled") == []
