"""``mtastsctl setup``: the lines for main.cf, and what is wrong with those there are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.cli import ctl_main
from mtasts_daemon.commands.setup import Postfix, findings, wanted
from mtasts_daemon.config import load

GOOD = {
    "mail_version": "3.10.5",
    "queue_directory": "/var/spool/postfix",
    "smtp_tls_policy_maps": "socketmap:inet:127.0.0.1:8461:postfix-tlsrpt",
    "smtp_tls_security_level": "dane",
    "smtp_tls_CAfile": "/dev/null",
    "smtp_dns_support_level": "dnssec",
}


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yml"
        self.configure()

    def configure(self, **settings: Any) -> None:
        self.config.write_text(json.dumps(settings))

    def wanted(self, version: tuple[int, int] | None = (3, 10), **settings: str) -> dict[str, str]:
        return wanted(load(self.config, environ={}), Postfix("here", version, settings, None))

    def bad(
        self, settings: Mapping[str, str] = GOOD, version: tuple[int, int] = (3, 10), chrooted: bool | None = None
    ) -> dict[str, str]:
        """What is wrong with a good Postfix with these changes."""
        postfix = Postfix("here", version, {**GOOD, **settings}, chrooted)
        found = findings(load(self.config, environ={}), postfix)
        return {finding.what: finding.found for finding in found if finding.good is False}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# -- the lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"), [((3, 4), "postfix"), ((3, 9), "postfix"), ((3, 10), "postfix-tlsrpt"), (None, "postfix")]
)
def test_an_older_postfix_is_never_given_the_newer_line(site: Site, version: tuple[int, int] | None, name: str) -> None:
    assert site.wanted(version)["smtp_tls_policy_maps"] == f"socketmap:inet:127.0.0.1:8461:{name}"


@pytest.mark.parametrize(
    ("listen", "line"),
    [
        ("socketmap:inet:0.0.0.0:8461", "socketmap:inet:127.0.0.1:8461:postfix"),
        ("socketmap:inet:[::]:8461", "socketmap:inet:[::1]:8461:postfix"),
        ("socketmap:unix:/var/spool/postfix/run/x.sock", "socketmap:unix:run/x.sock:postfix"),
        ("socketmap:unix:/run/x.sock", "socketmap:unix:/run/x.sock:postfix"),
        ("tcp_table:127.0.0.1:8462", "tcp:127.0.0.1:8462"),
    ],
)
def test_the_map_is_that_of_the_listener(site: Site, listen: str, line: str) -> None:
    site.configure(listen=[listen])
    assert site.wanted((3, 7))["smtp_tls_policy_maps"] == line


def test_a_unix_socket_is_preferred_and_systemds_is_assumed_where_nothing_listens(site: Site) -> None:
    site.configure(listen=["socketmap:inet:127.0.0.1:1", "socketmap:unix:/run/x"])
    assert site.wanted((3, 7))["smtp_tls_policy_maps"] == "socketmap:unix:/run/x:postfix"
    site.configure(listen=[])
    assert site.wanted((3, 7))["smtp_tls_policy_maps"] == "socketmap:unix:run/mtasts/lookup.sock:postfix"


def test_the_operators_own_level_and_authorities_stay(site: Site) -> None:
    lines = site.wanted(smtp_tls_security_level="encrypt", smtp_tls_CAfile="/etc/mine.pem")
    assert (lines["smtp_tls_security_level"], lines["smtp_tls_CAfile"]) == ("encrypt", "/etc/mine.pem")
    assert "smtp_tls_CAfile" not in site.wanted(smtp_tls_CApath="/etc/ssl/certs")


def test_without_a_level_it_is_may_and_dane_where_dnssec_is_on(site: Site) -> None:
    assert site.wanted()["smtp_tls_security_level"] == "may"
    assert site.wanted(smtp_dns_support_level="dnssec")["smtp_tls_security_level"] == "dane"


def test_tls_results_are_sent_where_they_are_collected(site: Site) -> None:
    assert "smtp_tlsrpt_enable" not in site.wanted()
    site.configure(tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    assert site.wanted()["smtp_tlsrpt_socket_name"] == "run/tlsrpt/tlsrpt.sock"
    assert "smtp_tlsrpt_enable" not in site.wanted((3, 7))


# -- what is wrong -----------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_what_is_good(site: Site) -> None:
    assert site.bad() == {}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"smtp_tls_policy_maps": ""}, "does not ask"),
        ({"smtp_tls_policy_maps": "hash:/etc/postfix/tls"}, "does not ask"),
        ({"smtp_tls_security_level": ""}, "is not set"),
        ({"smtp_tls_security_level": "none"}, "is none"),
        ({"smtp_tls_CAfile": ""}, "every enforced policy defers"),
        ({"smtp_tls_CAfile": "/nowhere/ca.pem"}, "does not exist"),
    ],
)
def test_what_is_missing_is_told_with_what_comes_of_it(site: Site, settings: dict[str, str], told: str) -> None:
    ((what, found),) = site.bad(settings).items()
    assert [what] == list(settings)
    assert told in found


def test_an_older_postfix_with_the_newer_map_name_is_told_that_it_defers_all(site: Site) -> None:
    assert "defers all mail" in site.bad(version=(3, 7))["smtp_tls_policy_maps"]


def test_dane_without_dnssec_is_told_of_where_it_is_on(site: Site) -> None:
    assert site.bad({"smtp_dns_support_level": ""}) == {}
    site.configure(zones={"postfix": {"dane": "on"}})
    assert "dane-only defers" in site.bad({"smtp_dns_support_level": ""})["smtp_dns_support_level"]


def test_a_socket_outside_the_chroot_is_told_of(site: Site) -> None:
    outside = {"smtp_tls_policy_maps": "socketmap:unix:/run/x.sock:postfix"}
    assert "chroot" in site.bad(outside, chrooted=True)
    assert "chroot" not in site.bad(outside, chrooted=False)


def test_tls_results_that_nobody_sends_are_told_of(site: Site) -> None:
    site.configure(tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    assert "no TLS results come" in site.bad()["smtp_tlsrpt_enable"]
    elsewhere = {"smtp_tlsrpt_enable": "yes", "smtp_tlsrpt_socket_name": "run/else"}
    assert "run/else" in site.bad(elsewhere)["smtp_tlsrpt_socket_name"]
    assert site.bad(elsewhere | {"smtp_tlsrpt_socket_name": "run/tlsrpt/tlsrpt.sock"}) == {}


# -- the command -------------------------------------------------------------------------------------------


def test_a_main_cf_is_read_and_the_exit_code_says_whether_it_lacks_something(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    main_cf = site.folder / "main.cf"
    main_cf.write_text("myhostname = x\n")
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(main_cf), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["main_cf"]["smtp_tls_policy_maps"] == "socketmap:inet:127.0.0.1:8461:postfix"
    lines = "".join(f"{name} = {value}\n" for name, value in told["main_cf"].items())
    main_cf.write_text(lines.replace(told["main_cf"]["smtp_tls_CAfile"], "/dev/null"))
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(main_cf)]) == 0
    assert "ok   smtp_tls_policy_maps" in capsys.readouterr().out


POSTCONF = """#!/bin/sh
case "$1" in
-M) echo "smtp unix - - y - - smtp";;
*) echo "mail_version = 3.10.5"; echo "smtp_tls_policy_maps = socketmap:unix:/run/x:postfix-tlsrpt"
   echo "postconf: warning: smtp_use_tls: unknown parameter" >&2; exit 1;;
esac
"""


def test_postconf_is_asked_where_it_is_there(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / "postconf").write_text(POSTCONF)
    (site.folder / "postconf").chmod(0o755)
    monkeypatch.setenv("PATH", f"{site.folder}:/usr/bin:/bin")
    assert ctl_main(["setup", "-c", str(site.config), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["postfix"] == "3.10"
    assert next(f for f in told["findings"] if f["what"] == "chroot")["good"] is False


def test_a_host_without_postfix_is_told_of(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(site.folder / "none")]) == 66
    assert "--main-cf" in capsys.readouterr().err
