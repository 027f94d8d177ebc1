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
    return PostfixHost("here", (3, 10), {"parent_domain_matches_subdomains": "relay_domains"} | settings, None)


def finding(config: Config, **settings: str) -> tuple[bool | None, str]:
    found = {finding.what: finding for finding in findings(config, postfix(**settings))}
    return found["transport_maps"].good, found["transport_maps"].found


def recipient(config: Config, **settings: str) -> tuple[bool | None, str]:
    """Return the finding for a Postfix that routes reports to the daemon."""
    found = {finding.what: finding for finding in findings(config, postfix(**{"transport_maps": LINE} | settings))}
    return found["recipient"].good, found["recipient"].found


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


# -- the recipient -----------------------------------------------------------------------------------------


ACCEPTED = "inline:{tlsrpt@example.com=tlsrpt@example.com}"


@pytest.mark.parametrize(
    ("domains", "tables"),
    [
        ("mydestination", "local_recipient_maps"),
        ("virtual_mailbox_domains", "virtual_mailbox_maps"),
        ("relay_domains", "relay_recipient_maps"),
    ],
)
def test_missing_recipient_is_added_by_a_line(config: Config, domains: str, tables: str) -> None:
    there = {domains: "other.example, Example.com", tables: "inline:{someone@example.com=x}"}
    good, text = recipient(config, **there)
    assert (good, text.split(":")[0]) == (False, f"tlsrpt@example.com is not in {tables}")
    there["virtual_alias_maps"] = "inline:{a@example.com=b@example.com}"
    lines = required_settings(config, postfix(transport_maps=LINE, **there))
    assert lines["virtual_alias_maps"] == f"{ACCEPTED}, {there['virtual_alias_maps']}"
    assert recipient(config, **there | lines)[0] is True


@pytest.mark.parametrize(
    "settings",
    [
        {"mydestination": "example.com", "local_recipient_maps": "unix:passwd.byname inline:{tlsrpt=root}"},
        {"mydestination": "example.com", "local_recipient_maps": ""},
        {"virtual_mailbox_domains": "inline:{example.com=x}", "virtual_mailbox_maps": "inline:{@example.com=x}"},
        {"relay_domains": "com"},
        {"relay_domains": "inline:{com=x}", "relay_recipient_maps": "inline:{tlsrpt@example.com=x}"},
        {"relay_domains": ".com", "parent_domain_matches_subdomains": "mynetworks"},
        {
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_maps": "inline:{x=y}",
            "virtual_alias_maps": ACCEPTED,
        },
    ],
)
def test_recipient_that_postfix_accepts_needs_no_line(config: Config, settings: dict[str, str]) -> None:
    assert recipient(config, **settings)[0] is True
    assert "virtual_alias_maps" not in required_settings(config, postfix(transport_maps=LINE, **settings))


def test_local_part_is_a_key_in_local_domains_only(config: Config) -> None:
    there = {"virtual_mailbox_domains": "example.com", "virtual_mailbox_maps": "inline:{tlsrpt=x}"}
    assert recipient(config, **there)[0] is False


def test_domain_of_a_file_is_found(config: Config, tmp_path: Path) -> None:
    (tmp_path / "domains").write_text("# ours\nother.example\nexample.com\n")
    assert recipient(config, virtual_mailbox_domains=str(tmp_path / "domains"))[0] is True
    assert recipient(config, virtual_mailbox_domains=str(tmp_path / "missing"))[0] is False
    (tmp_path / "domains").write_text("# example.com moved\nother.example # example.com\n")
    assert recipient(config, virtual_mailbox_domains=str(tmp_path / "domains"))[0] is False


@pytest.mark.parametrize(
    ("relay_domains", "parents"),
    [(".com", "mynetworks, relay_domains"), ("com", "mynetworks"), ("inline:{.com=x}", None)],
)
def test_pattern_of_the_other_parent_style_does_not_match(
    config: Config, relay_domains: str, parents: str | None
) -> None:
    there = {"relay_domains": relay_domains} | ({"parent_domain_matches_subdomains": parents} if parents else {})
    good, text = recipient(config, **there)
    assert (good, text.split(" is in none of")[0]) == (False, "example.com")


@pytest.mark.parametrize("name", ["mydestination", "virtual_mailbox_domains", "relay_domains"])
def test_excluded_domain_is_unknown_and_nothing_is_changed(config: Config, tmp_path: Path, name: str) -> None:
    (tmp_path / "domains").write_text("!example.com\n")
    for patterns in ("!example.com, example.com", "!/missing example.com", f"{tmp_path}/domains example.com"):
        there = {name: patterns, "virtual_mailbox_maps": "inline:{x=y}", "relay_recipient_maps": "inline:{x=y}"}
        good, text = recipient(config, **there)
        assert (good, text.split(" has")[0]) == (None, f"unknown: {name}")
        assert "virtual_alias_maps" not in required_settings(config, postfix(transport_maps=LINE, **there))
    assert recipient(config, **{name: "example.com, !example.com"})[0] is True


@pytest.mark.parametrize("name", ["mydestination", "virtual_mailbox_domains", "relay_domains"])
@pytest.mark.parametrize(
    ("alias", "good"),
    [
        ("{ tlsrpt@example.com = tlsrpt@example.com, admin@example.net }", True),
        ("{ tlsrpt@example.com = admin@example.net TLSRPT@Example.com }", True),
        ("{ tlsrpt@example.com = admin@example.net, reports@other.example }", True),
        ("@example.com=@example.com", True),
        ("{ tlsrpt@example.com = admin, tlsrpt@example.com }", True),
        ("tlsrpt@example.com=tlsrpt", None),
        ("{ tlsrpt@example.com = admin@example.net, admin }", None),
        ("{ tlsrpt@example.com = admin@example.net, root@example.net }", False),
        ("@example.com=@example.net", False),
    ],
)
def test_alias_is_replaced_only_if_no_target_can_come_here(
    config: Config, name: str, alias: str, good: bool | None
) -> None:
    there = {name: "example.com", "virtual_alias_maps": f"inline:{{{alias}}}"}
    there["transport_maps"] = f"{LINE}, inline:{{reports@other.example={SOCKET}}}"
    assert recipient(config, **there)[0] is good
    lines = required_settings(config, postfix(**there))
    assert ("virtual_alias_maps" in lines) is (good is False)
    assert lines["transport_maps"] == there["transport_maps"]


def test_domain_that_postfix_does_not_know_is_reported(config: Config) -> None:
    good, text = recipient(config, mydestination="sub.example.com, com", relay_domains="ample.com")
    assert (good, text.split(" is in none of")[0]) == (False, "example.com")
    assert "virtual_alias_maps" not in required_settings(config, postfix(mydestination="com"))


def test_alias_elsewhere_is_preceded_by_a_line(config: Config) -> None:
    there = {"mydestination": "example.com", "virtual_alias_maps": "inline:{@example.com=all@other.example}"}
    good, text = recipient(config, **there)
    assert (good, "rewrites tlsrpt@example.com to all@other.example" in text) == (False, True)
    lines = required_settings(config, postfix(**there))
    assert lines["virtual_alias_maps"] == f"{ACCEPTED}, {there['virtual_alias_maps']}"
    assert lines["transport_maps"] == LINE


def test_address_in_an_alias_domain_needs_an_alias_that_is_routed(config: Config) -> None:
    there = {"virtual_alias_domains": "example.com", "virtual_alias_maps": ACCEPTED}
    good, text = recipient(config, **there)
    assert (good, text.split(":")[0]) == (False, "example.com is in virtual_alias_domains")
    assert "virtual_alias_maps" not in required_settings(config, postfix(**there))
    there["virtual_alias_maps"] = "inline:{tlsrpt@example.com=tlsrpt@other.example}"
    assert recipient(config, **there)[0] is False
    there["transport_maps"] = f"inline:{{tlsrpt@other.example={SOCKET}}}"
    found = {finding.what: finding.good for finding in findings(config, postfix(**there))}
    assert (found["recipient"], found["transport_maps"]) == (True, True)
    assert required_settings(config, postfix(**there))["transport_maps"] == there["transport_maps"]


def test_recipient_is_not_checked_in_a_main_cf_without_defaults(config: Config) -> None:
    host = PostfixHost("here", None, {"transport_maps": LINE}, None)
    assert "recipient" not in {finding.what for finding in findings(config, host)}
    assert "virtual_alias_maps" not in required_settings(config, host)
