"""``mtastsctl setup``: the settings for main.cf, and a check of the present ones."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mtasts_daemon.cli import setup
from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.postfix_host import PostfixHost
from mtasts_daemon.cli.setup import SetupFinding, daemon_settings, findings, required_settings
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

    def required_settings(
        self,
        version: tuple[int, int] | None = (3, 10),
        given: Mapping[str, str] = MappingProxyType({}),
        chrooted: bool | None = None,
        **settings: str,
    ) -> dict[str, str]:
        return required_settings(
            load(self.config, environ={}), PostfixHost("here", version, {**given, **settings}, chrooted)
        )

    def systemd(self, path: str, kind: socket.SocketKind) -> None:
        """Make a socket in the queue directory, which is ``folder``, as the systemd units do."""
        (self.folder / path).parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(str(self.folder / path))

    def bad(
        self, settings: Mapping[str, str] = GOOD, version: tuple[int, int] = (3, 10), chrooted: bool | None = None
    ) -> dict[str, str]:
        """Return what is wrong with a good Postfix with these changes."""
        found = self.found(settings, version, chrooted).values()
        return {finding.what: finding.found for finding in found if finding.good is False}

    def found(
        self, settings: Mapping[str, str] = GOOD, version: tuple[int, int] = (3, 10), chrooted: bool | None = None
    ) -> dict[str, SetupFinding]:
        """Return the findings for a good Postfix with these changes."""
        postfix = PostfixHost("here", version, {**GOOD, **settings}, chrooted)
        return {finding.what: finding for finding in findings(load(self.config, environ={}), postfix)}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# -- the lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"), [((3, 4), "postfix"), ((3, 9), "postfix"), ((3, 10), "postfix-tlsrpt"), (None, "postfix")]
)
def test_older_postfix_gets_the_older_map_name(site: Site, version: tuple[int, int] | None, name: str) -> None:
    assert site.required_settings(version)["smtp_tls_policy_maps"] == f"socketmap:inet:127.0.0.1:8461:{name}"


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
def test_map_names_the_listener(site: Site, listen: str, line: str) -> None:
    site.configure(listen=[listen])
    assert site.required_settings((3, 7))["smtp_tls_policy_maps"] == line


def test_unix_socket_is_preferred_and_the_units_one_is_the_default(site: Site) -> None:
    site.configure(listen=["socketmap:inet:127.0.0.1:1", "socketmap:unix:/run/x"])
    assert site.required_settings((3, 7))["smtp_tls_policy_maps"] == "socketmap:unix:/run/x:postfix"
    site.configure(listen=[])
    assert site.required_settings((3, 7))["smtp_tls_policy_maps"] == "socketmap:unix:run/mtasts/lookup.sock:postfix"


def test_systemd_socket_in_the_queue_directory_comes_first(site: Site) -> None:
    site.systemd("run/mtasts/lookup.sock", socket.SOCK_STREAM)
    queue = {"queue_directory": str(site.folder)}
    systemd = "socketmap:unix:run/mtasts/lookup.sock:postfix-tlsrpt"
    assert site.required_settings(given=queue)["smtp_tls_policy_maps"] == systemd
    assert site.found({**queue, "smtp_tls_policy_maps": systemd})["smtp_tls_policy_maps"].good is True
    # TCP works too, and a working map is kept.
    assert site.found(queue)["smtp_tls_policy_maps"].good is True
    assert site.required_settings(given={**GOOD, **queue})["smtp_tls_policy_maps"] == GOOD["smtp_tls_policy_maps"]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("hash:/etc/postfix/tls", "hash:/etc/postfix/tls, OURS"),
        ("inline:{ a=none, b=none }, hash:/x", "inline:{ a=none, b=none }, hash:/x, OURS"),
        ("inline:{ {a = none}, {b = may} } hash:/x", "inline:{ {a = none}, {b = may} }, hash:/x, OURS"),
        ("hash:/x socketmap:inet:127.0.0.1:8642:QUERY", "hash:/x, OURS"),
        ("socketmap:inet:127.0.0.1:8461:postfix, tcp:127.0.0.1:8642, hash:/x", "OURS, hash:/x"),
    ],
)
def test_operators_tables_are_kept_and_other_daemons_replaced(site: Site, now: str, expected: str) -> None:
    ours = "socketmap:inet:127.0.0.1:8461:postfix-tlsrpt"
    assert site.required_settings(smtp_tls_policy_maps=now)["smtp_tls_policy_maps"] == expected.replace("OURS", ours)


def test_valid_level_and_ca_file_are_kept(site: Site) -> None:
    lines = site.required_settings(smtp_tls_security_level="encrypt", smtp_tls_CAfile="/dev/null")
    assert (lines["smtp_tls_security_level"], lines["smtp_tls_CAfile"]) == ("encrypt", "/dev/null")
    assert "smtp_tls_CAfile" not in site.required_settings(smtp_tls_CApath="/etc")
    bad = site.required_settings(smtp_tls_security_level="encrpyt", smtp_tls_CAfile="/nowhere/ca.pem")
    assert bad["smtp_tls_security_level"] == "may"
    assert "nowhere" not in bad["smtp_tls_CAfile"]


def test_ca_directory_outside_the_chroot_is_replaced_by_a_file(site: Site) -> None:
    settings = {"smtp_tls_CAfile": "", "smtp_tls_CApath": "/certs", "queue_directory": str(site.folder)}
    assert "chrooted" in site.bad(settings, chrooted=True)["smtp_tls_CApath"]
    assert "smtp_tls_CAfile" in site.required_settings(given=settings, chrooted=True)
    (site.folder / "certs").mkdir()
    assert site.bad(settings, chrooted=True) == {}
    assert "smtp_tls_CAfile" not in site.required_settings(given=settings, chrooted=True)


def test_default_level_is_may_or_dane_with_dnssec(site: Site) -> None:
    assert site.required_settings()["smtp_tls_security_level"] == "may"
    assert site.required_settings(smtp_dns_support_level="dnssec")["smtp_tls_security_level"] == "dane"


def test_tlsrpt_settings_follow_the_daemons_socket(site: Site) -> None:
    assert "smtp_tlsrpt_enable" not in site.required_settings()
    site.configure(tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    assert site.required_settings()["smtp_tlsrpt_socket_name"] == "run/tlsrpt/tlsrpt.sock"
    assert "smtp_tlsrpt_enable" not in site.required_settings((3, 7))


def test_systemd_socket_for_tls_results_counts_as_the_daemons(site: Site) -> None:
    queue = {"queue_directory": str(site.folder), "smtp_tlsrpt_enable": "yes"}
    assert "collects no TLS results" in site.found(queue)["smtp_tlsrpt_enable"].found
    site.systemd("run/tlsrpt/tlsrpt.sock", socket.SOCK_DGRAM)
    assert site.required_settings(given=queue)["smtp_tlsrpt_socket_name"] == "run/tlsrpt/tlsrpt.sock"
    assert "is not set" in site.bad(queue)["smtp_tlsrpt_socket_name"]
    assert site.bad({**queue, "smtp_tlsrpt_socket_name": "run/tlsrpt/tlsrpt.sock"}) == {}


# -- findings -----------------------------------------------------------------------------------------


def test_good_settings_have_no_bad_finding(site: Site) -> None:
    assert site.bad() == {}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"smtp_tls_policy_maps": ""}, "does not ask"),
        ({"smtp_tls_policy_maps": "hash:/etc/postfix/tls"}, "does not ask"),
        ({"smtp_tls_security_level": ""}, "is not set"),
        ({"smtp_tls_security_level": "none"}, "is none"),
        ({"smtp_tls_security_level": "encrpyt"}, "encrpyt is not a level: Postfix defers all mail"),
        ({"smtp_tls_CAfile": ""}, "every enforced policy defers"),
        ({"smtp_tls_CAfile": "/nowhere/ca.pem"}, "does not exist"),
        ({"smtp_tls_CAfile": "/dev"}, "is not a file"),
    ],
)
def test_bad_setting_is_reported_with_its_effect(site: Site, settings: dict[str, str], found: str) -> None:
    ((what, text),) = site.bad(settings).items()
    assert [what] == list(settings)
    assert found in text


def test_newer_map_name_in_an_older_postfix_is_bad(site: Site) -> None:
    assert "defers all mail" in site.bad(version=(3, 7))["smtp_tls_policy_maps"]


def test_dane_without_dnssec_is_bad_if_it_is_on(site: Site) -> None:
    assert site.bad({"smtp_dns_support_level": ""}) == {}
    site.configure(zones={"postfix": {"dane": "on"}})
    assert "dane-only defers" in site.bad({"smtp_dns_support_level": ""})["smtp_dns_support_level"]


def test_socket_outside_the_chroot_is_bad(site: Site) -> None:
    outside = {"smtp_tls_policy_maps": "socketmap:unix:/run/x.sock:postfix"}
    assert "chroot" in site.bad(outside, chrooted=True)
    assert "chroot" not in site.bad(outside, chrooted=False)
    site.configure(tlsrpt={"socket": "/run/tlsrpt.sock"})
    assert "chroot" in site.bad(chrooted=True)


def test_disabled_tlsrpt_is_bad_if_results_are_collected(site: Site) -> None:
    site.configure(tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    assert "sends no TLS results" in site.bad()["smtp_tlsrpt_enable"]
    elsewhere = {"smtp_tlsrpt_enable": "yes", "smtp_tlsrpt_socket_name": "run/else"}
    assert "run/else" in site.bad(elsewhere)["smtp_tlsrpt_socket_name"]
    assert site.bad(elsewhere | {"smtp_tlsrpt_socket_name": "run/tlsrpt/tlsrpt.sock"}) == {}


# -- the command -------------------------------------------------------------------------------------------


def test_exit_code_is_1_until_main_cf_has_the_settings(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    main_cf = site.folder / "main.cf"
    main_cf.write_text("myhostname = x\n")
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(main_cf), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["main_cf"]["smtp_tls_policy_maps"] == "socketmap:inet:127.0.0.1:8461:postfix"
    lines = "".join(f"{name} = {value}\n" for name, value in found["main_cf"].items())
    main_cf.write_text(lines.replace(found["main_cf"]["smtp_tls_CAfile"], "/dev/null"))
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(main_cf)]) == 0
    assert "ok   smtp_tls_policy_maps" in capsys.readouterr().out


POSTCONF = """#!/bin/sh
case "$1" in
-M) echo "smtp unix - - y - - smtp";;
*) echo "mail_version = 3.10.5"; echo "smtp_tls_policy_maps = socketmap:unix:/run/x:postfix-tlsrpt"
   echo "postconf: warning: smtp_use_tls: unknown parameter" >&2; exit 1;;
esac
"""


@pytest.mark.process
def test_postconf_is_used_if_installed(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / "postconf").write_text(POSTCONF)
    (site.folder / "postconf").chmod(0o755)
    monkeypatch.setenv("PATH", f"{site.folder}:/usr/bin:/bin")
    assert ctl_main(["setup", "-c", str(site.config), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["postfix"] == "3.10"
    assert next(f for f in found["findings"] if f["what"] == "chroot")["good"] is False


def test_unreadable_main_cf_is_reported(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl_main(["setup", "-c", str(site.config), "--main-cf", str(site.folder / "none")]) == 66
    assert capsys.readouterr().err == f"{site.folder}/none cannot be read\n"


@pytest.mark.parametrize("dane", ["auto", "on", "always", "off"])
@pytest.mark.parametrize("version", [(3, 4), (3, 9), (3, 10), None])
@pytest.mark.parametrize("dnssec", ["", "dnssec"])
def test_wanted_settings_satisfy_every_check(
    site: Site, monkeypatch: pytest.MonkeyPatch, dane: str, version: tuple[int, int] | None, dnssec: str
) -> None:
    monkeypatch.setattr(setup, "_CA_FILES", (Path("/dev/null"),))
    site.configure(zones={"postfix": {"dane": dane}}, tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    lines = site.required_settings(version, smtp_dns_support_level=dnssec)
    config = load(site.config, environ={})
    after = PostfixHost("here", version, {"smtp_dns_support_level": dnssec} | lines, False)
    assert [found for found in findings(config, after) if found.good is False] == []
    assert required_settings(config, after) == lines


def test_default_level_is_suggested_from_main_cf(site: Site) -> None:
    site.configure(tlsrpt={"socket": "/var/spool/postfix/run/tlsrpt/tlsrpt.sock"})
    config = load(site.config, environ={})
    for level, lines in (("encrypt", ["zones:", "  postfix-tlsrpt:", "    default_level: encrypt"]), ("verify", [])):
        assert daemon_settings(config, PostfixHost("here", (3, 10), {"smtp_tls_security_level": level}, None)) == lines
    assert daemon_settings(config, PostfixHost("here", (3, 9), {"smtp_tls_security_level": "may"}, None)) == []


def test_settings_are_printed_as_postconf_commands(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.folder / "main.cf").write_text("smtp_tls_policy_maps = inline:{ a=none, b=none }\n")
    ctl_main(["setup", "-c", str(site.config), "--main-cf", str(site.folder / "main.cf")])
    line = capsys.readouterr().out.splitlines()[1]
    ours = "socketmap:inet:127.0.0.1:8461:postfix"
    assert line == f"postconf -e 'smtp_tls_policy_maps = inline:{{ a=none, b=none }}, {ours}'"
