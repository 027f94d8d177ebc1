"""``mtastsctl check`` for people and scripts, with a fake Internet on loopback."""

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.diagnose.check.checker import DomainChecker
from mtasts_daemon.diagnose.check.gather import EvidenceGatherer
from tests.fakes.ca import Flaw
from tests.fakes.dns import FakeDns
from tests.fakes.probed_smtp import MxBehaviour, MxManner, ProbedSmtp
from tests.fakes.process import Internet

POLICY = "version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 604800\n"


class MailInternet(Internet):
    """Also has mail exchangers, at 127.0.0.1 and above."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dns = FakeDns(authenticated=True)  # a resolver that validates
        good, bad = MxBehaviour("mx.example.com", requiretls=True), MxBehaviour("old.example.com", flaw=Flaw.EXPIRED)
        self.smtp = ProbedSmtp(
            self.ca,
            {"127.0.0.1": good, "127.0.0.2": bad, "127.0.0.3": MxBehaviour("no.example.com", MxManner.NO_STARTTLS)},
        )

    def serve_mail(self) -> None:
        self.run(self.smtp.__aenter__())
        from tests.fakes.https import Behaviour

        for domain, host, address in (
            ("good.example", "mx.example.com", "127.0.0.1"),
            ("bad.example", "old.example.com", "127.0.0.2"),
        ):
            self.publish(domain, behaviour=Behaviour(body=POLICY.encode()))
            self.records(domain, f"MX 10 {host}.")
            self.records(host, f"A {address}")
            self.records(f"_smtp._tls.{domain}", f'TXT "v=TLSRPTv1; rua=mailto:r@{domain}"')

    def stop_mail(self) -> None:
        self.run(self.smtp.__aexit__())


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailInternet]:
    with MailInternet(tmp_path_factory.mktemp("internet")) as found:
        found.serve_mail()
        yield found
        found.stop_mail()


@pytest.fixture(autouse=True)
def configured(internet: MailInternet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import yaml

    defaults: Any = DomainChecker.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "smtp_port", internet.smtp.port)
    monkeypatch.setitem(defaults, "https_port", internet.host.port)
    references: Any = EvidenceGatherer.__init__.__kwdefaults__
    monkeypatch.setitem(references, "reference_domains", ())
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(internet.settings))
    return path


def check(configured: Path, *arguments: str) -> int:
    return ctl_main(["check", "-c", str(configured), *arguments])


def test_good_domain_prints_conclusion_first(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "good.example") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "good.example: mail is delivered with authentication; no problems"
    assert lines[2].split()[:4] == ["MTA-STS", "only", "(Gmail)", "authenticated"]
    titles = next(number for number, line in enumerate(lines) if line.startswith("MX host"))
    assert (
        " ".join(lines[titles].split()) == "MX host address TCP STARTTLS TLS chain name expires pattern TLSA REQUIRETLS"
    )
    assert " ".join(lines[titles + 1].split()) == "mx.example.com 127.0.0.1 yes yes 1.3 ok ok 29 d yes none yes"


def test_bad_domain_says_what_to_fix_and_ends_with_2(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "bad.example") == 2
    out = capsys.readouterr().out
    assert out.startswith("bad.example: mail is deferred; 1 error\n")
    assert "deferred         old.example.com: the certificate has expired\n" in out
    assert "old.example.com: the certificate has expired" in out
    assert "[certificate-expired, RFC 8461 4.2]\n           Renew the certificate" in out


def test_details_show_policy_and_certificates(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "good.example", "-v") == 0
    out = capsys.readouterr().out
    assert "max_age: 604800" in out
    assert "names: mx.example.com" in out
    assert "220 mx.example.com ESMTP" in out


def test_mine_adds_advice(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "good.example", "--mine") == 1
    assert "certificate-expires-soon" in capsys.readouterr().out


def test_json_is_one_document_per_line(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "good.example", "bad.example", "--json") == 2
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["domain"], one["exit_code"]) for one in found] == [("good.example", 0), ("bad.example", 2)]


def test_file_gives_table_and_csv(configured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "domains.txt"
    listed.write_text(f"\ufeff# ours\ngood.example\nbad.example\n\n=cmd()|x\nu@GOOD.example\n192.0.2.1\n{'x' * 300}\n")
    assert check(configured, "--file", str(listed)) == 64
    out = capsys.readouterr().out.splitlines()
    names = ["good.example", "bad.example", "=cmd()|x", "192.0.2.1", "x" * 77 + "..."]
    assert [line.split()[0] for line in out[1:]] == names
    assert out[4].endswith("not checked: an IP address has no policy (RFC 8461 section 3.4)")
    assert check(configured, "--file", str(listed), "--csv") == 64
    rows = {row["domain"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["good.example"]["mta_sts"] == "authenticated"
    assert rows["bad.example"]["worst"] == "certificate-expired"
    assert rows["'=cmd()|x"]["exit_code"] == "64"


def test_check_that_does_not_finish_is_named_in_every_output(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def late(*_arguments: object, **_more: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(DomainChecker, "check", late)
    listed = tmp_path / "domains.txt"
    listed.write_text("good.example\n")
    sentence = "the check did not finish in time"
    assert check(configured, "good.example") == 75
    assert capsys.readouterr().err == f"good.example: {sentence}\n"
    assert check(configured, "--file", str(listed)) == 75
    assert capsys.readouterr().out.rstrip().endswith(f"not checked: {sentence}")
    assert check(configured, "--file", str(listed), "--csv") == 75
    assert capsys.readouterr().out.endswith(f",not-checked,{sentence}\n")
    assert check(configured, "--file", str(listed), "--json") == 75
    assert capsys.readouterr() == ("", f"good.example: {sentence}\n")


def test_file_without_domains_and_missing_file_are_named(
    configured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("# none\n")
    assert check(configured, "--file", str(empty)) == 64
    assert capsys.readouterr().err == f"{empty}: no domains in the file\n"
    assert check(configured, "--file", str(tmp_path / "no.txt")) == 66
    assert capsys.readouterr().err == f"{tmp_path / 'no.txt'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("records", "code", "first", "reason"),
    [
        (("MX 0 .",), 0, "the domain accepts no mail (null MX); no problems", "the domain accepts no mail (null MX)"),
        (("MX 0 .", "MX 10 mx.example.com."), 2, "it depends on the sender; 1 error, 1 warning",
         "one of the MX records is a null MX"),
        (('TXT "x"',), 2, "mail is not deliverable; 1 error", "mail.example: it has no address"),
    ],
)  # fmt: skip
def test_domain_that_accepts_no_mail_says_why(
    configured: Path,
    internet: MailInternet,
    records: tuple[str, ...],
    code: int,
    first: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    internet.records("mail.example", *records)
    assert check(configured, "mail.example", "-v") == code
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == f"mail.example: {first}"
    assert lines[3] == f"  DANE first (Postfix with mtasts-daemon)  rejected         {reason}"
    # Senders without hosts have no heading among the details.
    assert "DANE first (Postfix with mtasts-daemon):" not in out or "it has no address" in out


def test_without_smtp_no_host_is_probed(
    configured: Path, internet: MailInternet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(internet.smtp.connections)
    assert check(configured, "good.example", "--no-smtp") == 0
    assert "not probed" in capsys.readouterr().out
    assert len(internet.smtp.connections) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("192.0.2.1", "an IP address"),
        ("[2001:db8::1]", "an IP address"),
        ("localhost", "one label"),
        ("a..b", "not a host name"),
        ("\x1b[31m.example", "not a host name"),
        ("bücher..de", "not a valid internationalised"),
        ("x" * 300 + ".example", "host name"),
        ("x" * 60 + 4 * ("." + "y" * 60), "longer than 244"),
        ("", "the name is empty"),
        ("  ", "the name is empty"),
        ("postmaster@", "the name is empty"),
        ("good_name.example", "not a host name"),
        ("good.example/path", "a name with a slash"),
        (".good.example", "does not apply to subdomains"),
        ("https://[2001:db8::1]/", "an IP address"),
        ("good.example:25", "without brackets and port"),
    ],
)
def test_bad_name_is_a_sentence_and_exit_64(
    configured: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(configured, text) == 64
    error = capsys.readouterr().err
    assert said in error
    assert "\x1b" not in error
    name = error.partition(": not a domain that can be checked: ")[0]
    assert 0 < len(name) <= 80
    assert text.strip() or name == f"'{text}'"


def test_internationalised_name_is_checked_as_a_labels(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(configured, "bücher.example") == 2
    assert capsys.readouterr().out.startswith("xn--bcher-kva.example (bücher.example): mail is not deliverable")


@pytest.mark.parametrize(
    "text",
    [
        "postmaster@good.example",
        "mailto:postmaster@good.example?subject=check",
        "https://good.example/.well-known/x",
        "GOOD.example.",
    ],
)
def test_address_and_url_stand_for_their_domain(
    configured: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(configured, text) == 0
    assert capsys.readouterr().out.startswith("good.example:")


def test_missing_configuration_is_no_obstacle(
    configured: Path, internet: MailInternet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mtasts_daemon.config.loading as loading

    monkeypatch.setattr(loading, "DEFAULT_PATH", configured.parent / "no-such.yml")
    monkeypatch.setenv("MTASTS_DNS__RESOLVERS", str(internet.settings["dns"]["resolvers"]))
    assert ctl_main(["check", "good.example", "--no-smtp"]) in (2, 75)  # the fake CA is not the system's
    assert "good.example" in capsys.readouterr().out


def test_configuration_that_is_named_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "none.yml", "good.example") == 78
    assert "no such file" in capsys.readouterr().err


def test_no_domain_is_a_usage_error(configured: Path) -> None:
    assert check(configured) == 64


def test_watch_repeats_until_interrupted(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    naps: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float, result: object = None) -> object:
        if seconds == 10.0:
            naps.append(seconds)
            if len(naps) == 2:
                raise KeyboardInterrupt
            return None
        return await real(seconds, result)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert check(configured, "good.example", "--watch", "10s") == 130
    assert capsys.readouterr().out.count("good.example: mail is delivered") == 2


def test_watch_refuses_a_hurry(configured: Path) -> None:
    with pytest.raises(SystemExit):
        check(configured, "good.example", "--watch", "1s")
