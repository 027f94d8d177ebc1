"""``mtastsctl setup``: the transport_maps line for received reports, and whether it is there."""

import json
import socket
from pathlib import Path

import pytest

from mtasts_daemon.cli.postfix_host import PostfixHost
from mtasts_daemon.cli.setup import findings, required_settings
from mtasts_daemon.cli.setup_receive import routed_transport, transport_maps
from mtasts_daemon.config import Config, load

SOCKET = "lmtp:unix:run/tlsrpt-receive/lmtp.sock"
LINE = f"inline:{{tlsrpt@example.com={SOCKET}}}"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    receive = {"own_domains": ["example.com"], "lmtp_socket": "/var/spool/postfix/run/tlsrpt-receive/lmtp.sock"}
    file = tmp_path / "config.yml"
    file.write_text(json.dumps({"receive": receive}))
    return load(file, environ={})


def postfix(**settings: str) -> PostfixHost:
    return PostfixHost("here", (3, 10), settings, None)


def finding(config: Config, **settings: str) -> tuple[bool | None, str]:
    found = {finding.what: finding for finding in findings(config, postfix(**settings))}
    return found["transport_maps"].good, found["transport_maps"].found


def nothing(_table: str, _key: str) -> str:
    return ""


def test_line_is_wanted_if_reports_are_received_by_lmtp(config: Config) -> None:
    assert required_settings(config, postfix())["transport_maps"] == LINE
    assert finding(config)[0] is False
    assert finding(config, transport_maps=LINE) == (True, f"tlsrpt@example.com goes to {SOCKET}")


def test_no_line_is_wanted_without_lmtp() -> None:
    assert "transport_maps" not in required_settings(Config(), postfix())


def test_line_is_wanted_if_systemd_holds_the_socket(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(json.dumps({"receive": {"own_domains": ["example.com"]}}))
    config = load(file, environ={})
    there = postfix(queue_directory=str(tmp_path))
    assert transport_maps(config, there, nothing) is None
    path = tmp_path / "run/tlsrpt-receive/lmtp.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        assert transport_maps(config, there, nothing) == LINE


def test_tables_that_are_there_are_kept_after_it(config: Config) -> None:
    assert required_settings(config, postfix(transport_maps="hash:/nowhere/transport"))["transport_maps"] == (
        f"{LINE}, hash:/nowhere/transport"
    )


def test_line_that_is_there_is_kept_as_it_is(config: Config) -> None:
    there = f"hash:/nowhere/transport, {LINE}"
    assert required_settings(config, postfix(transport_maps=there))["transport_maps"] == there


def test_table_that_routes_it_is_kept_and_another_route_is_found(config: Config) -> None:
    def lookup(table: str, key: str) -> str:
        return {("hash:/t", "tlsrpt@example.com"): SOCKET, ("hash:/u", "example.com"): "smtp:[x]"}.get((table, key), "")

    assert transport_maps(config, postfix(transport_maps="hash:/t"), lookup) == "hash:/t"
    assert routed_transport("tlsrpt@example.com", ["hash:/u", "hash:/t"], lookup) == "smtp:[x]"
    assert transport_maps(config, postfix(transport_maps="hash:/u"), lookup) == f"{LINE}, hash:/u"


@pytest.mark.parametrize(
    "table",
    [
        "inline:{tlsrpt@example.com=x:y}",
        "inline:{ {tlsrpt@example.com = x:y} }",
        "inline:{a@b=c, tlsrpt@example.com=x:y}",
    ],
)
def test_inline_tables_are_read(table: str) -> None:
    assert routed_transport("tlsrpt@example.com", [table], nothing) == "x:y"


def test_socket_outside_the_queue_directory_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(json.dumps({"receive": {"own_domains": ["example.com"], "lmtp_socket": "/run/x"}}))
    assert finding(load(file, environ={})) == (False, "receive.lmtp_socket is not below /var/spool/postfix")
