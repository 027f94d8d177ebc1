"""Reports posted to the public listener of a real daemon: 201, 400, 401, 413, 415, 429."""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.tlsrpt.receive.https_intake import PostedReports

from . import corpus
from .corpus import dumps, packed, report
from .site import ReceivingSite, receiving_site

TOKEN = "a-token-of-our-own-daemons"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ReceivingSite]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    receive = {"accept_https": True, "fleet_token_file": str(token), "max_unauthenticated": 3}
    with receiving_site(tmp_path, receive=receive, public={"listen": ["http:127.0.0.1:0"]}) as made:
        yield made


def post(
    site: ReceivingSite, body: bytes, media_type: str = "application/tlsrpt+gzip", **headers: str
) -> tuple[int, str]:
    port = int(site.daemon.logged("public-listening")[0].rpartition("port=")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/tls-reports", body, {"Content-Type": media_type, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def methods(site: ReceivingSite) -> list[tuple[str, bool]]:
    found = site.wait_for_api().get("/api/v1/received/example.com/reports").json["reports"]
    return [(one["method"], one["counted"]) for one in found]


def test_posted_report_is_stored_and_not_counted(site: ReceivingSite) -> None:
    assert post(site, packed(report()))[0] == 201
    assert post(site, dumps(report()), "application/tlsrpt+json")[0] == 201
    assert methods(site) == [("https", False)]


def test_report_with_the_fleet_token_is_counted(site: ReceivingSite) -> None:
    assert post(site, packed(report()), Authorization=f"Bearer {TOKEN}")[0] == 201
    assert methods(site) == [("fleet", True)]


def test_wrong_token_is_refused(site: ReceivingSite) -> None:
    assert post(site, packed(report()), Authorization="Bearer wrong")[0] == 401
    assert methods(site) == []


@pytest.mark.parametrize("body", [b"", b"{}", b"\x1f\x8b\x08", b"[" * 1000])
def test_body_that_is_no_report_is_a_bad_request(site: ReceivingSite, body: bytes) -> None:
    assert post(site, body)[0] in (400, 413)


def test_other_media_types_and_encodings_are_refused(site: ReceivingSite) -> None:
    assert post(site, packed(report()), "text/html")[0] == 415
    assert post(site, packed(report()), **{"Content-Encoding": "gzip"})[0] == 415


async def test_token_of_any_bytes_is_refused() -> None:
    async def take(*_: Any) -> Any:
        raise AssertionError

    headers = {"Content-Type": "application/tlsrpt+json", "Authorization": "Bearer \udcff"}
    assert (await PostedReports(take, lambda: "token").answer(headers, b"")).status == 401


def test_body_beyond_5_mib_is_refused(site: ReceivingSite) -> None:
    # The answer may come before the body was sent.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert post(site, bytes(6 << 20))[0] == 413
    assert post(site, packed(report()))[0] == 201


def test_bomb_is_refused(site: ReceivingSite) -> None:
    import gzip

    assert post(site, gzip.compress(bytes(100 << 20)))[0] == 413


def test_client_beyond_its_quota_is_asked_to_wait(site: ReceivingSite) -> None:
    codes = [post(site, packed(report(**{"report-id": str(number)})))[0] for number in range(5)]
    assert codes == [201, 201, 201, 429, 429]


def test_path_is_unknown_if_https_is_off(tmp_path: Path) -> None:
    with receiving_site(tmp_path, public={"listen": ["http:127.0.0.1:0"]}) as site:
        assert post(site, corpus.packed(report()))[0] == 404
