"""The two commands: options, configuration, query and explain, with a running daemon."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from mtasts_daemon import __version__
from mtasts_daemon.cli.main import ctl_main, daemon_main
from mtasts_daemon.https import policy_fetcher
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

SECURE = "secure match=mail.example.com servername=hostname"


class Finished:
    """The exit code and output of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.out)
        return value


class Terminal:
    """Run the commands within this process."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def ctl(self, *arguments: str) -> Finished:
        return self._ended(ctl_main(arguments))

    def daemon(self, *arguments: str) -> Finished:
        return self._ended(daemon_main(arguments))

    def ctl_exits(self, *arguments: str) -> Finished:
        """Run a command that argparse itself ends."""
        with pytest.raises(SystemExit) as end:
            ctl_main(arguments)
        assert isinstance(end.value.code, int)
        return self._ended(end.value.code)

    def _ended(self, code: int) -> Finished:
        out, err = self._captured.readouterr()
        return Finished(code, out, err)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def configured(folder: Path, settings: Mapping[str, object]) -> str:
    """Write a configuration file and return its path."""
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(dict(settings)))
    return str(file)


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        testing = b"version: STSv1\nmode: testing\nmx: mail.example.com\nmax_age: 86400\n"
        internet.publish("enforce.example")
        internet.publish("testing.example", behaviour=Behaviour(body=testing))
        internet.publish("loosened.example")
        internet.publish("expired.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
        internet.publish("hostile.example", behaviour=Behaviour(body=b"version: STSv1\nmode: \x1b[2Jx\n"))
        internet.records("_mta-sts.two.example", 'TXT "v=STSv1; id=1;"', 'TXT "v=STSv1; id=2;"')
        internet.records("_mta-sts.servfail.example", "! TXT servfail")
        yield internet


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, internet: Internet) -> Iterator[Process]:
    """A daemon after lookups of three domains."""
    overrides = {
        "loosened.example": {"treat_as": "testing", "reason": "their MX is being moved"},
        "fixed.example": {"reply": "encrypt", "reason": "a partner"},
    }
    with Process(tmp_path_factory.mktemp("daemon"), internet, {"overrides": overrides}) as daemon:
        for domain in ("enforce.example", "testing.example", "loosened.example"):
            daemon.lookup(domain)
        yield daemon


@pytest.fixture
def at_our_port(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = policy_fetcher.HttpsPolicyFetcher.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "port", internet.host.port)


# -- without a daemon --------------------------------------------------------------------------------------


def test_version_is_short_or_verbose(terminal: Terminal) -> None:
    assert terminal.daemon("--version").out == f"mtasts-daemon {__version__}\n"
    assert terminal.ctl("--version").out == f"mtastsctl {__version__}\n"
    lines = terminal.ctl("--version", "--verbose").out.splitlines()
    assert lines[0] == f"mtasts-daemon {__version__}"
    assert {"Python", "OpenSSL", "aiohttp", "pydantic"} <= {line.split()[0] for line in lines}


@pytest.mark.parametrize("argument", ["--version", "--help"])
@pytest.mark.parametrize("main", ["daemon_main", "ctl_main"])
def test_help_does_not_import_slow_libraries(main: str, argument: str) -> None:
    program = (
        f"import sys\nfrom mtasts_daemon.cli.main import {main} as main\n"
        f"try: main(['{argument}'])\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'aiohttp', 'pydantic', 'dns', 'yaml', 'asyncio', 'sqlite3', 'idna', 'ssl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["query"],
        ["query", "example.com", "--timeout", "soon"],
        ["query", "example.com", "--timeout", "-1"],
        ["query", "example.com", "--timeout", "nan"],
        ["query", "example.com", "--map", "two words"],
        ["query", "no spaces in names"],
        ["staus"],
        ["--json", "top"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_ends_with_64_and_usage(terminal: Terminal, arguments: list[str]) -> None:
    ran = terminal.ctl_exits(*arguments)
    assert (ran.code, ran.out) == (os.EX_USAGE, "")
    assert ran.err.startswith("usage: mtastsctl ")
    assert ran.err.splitlines()[-1].startswith("mtastsctl")


def test_valid_configuration_is_dumped_with_origins(terminal: Terminal, tmp_path: Path) -> None:
    file = configured(tmp_path, {"lookup": {"deadline": "7s"}})
    ran = terminal.daemon("check-config", "-c", file)
    assert (ran.code, ran.out, ran.err) == (0, "", "the configuration is valid\n")
    ran = terminal.daemon("check-config", "-c", file, "--dump")
    assert (ran.code, ran.err) == (0, "")
    assert yaml.safe_load(ran.out)["lookup"]["deadline"] == "7s"
    (line,) = (line for line in ran.out.splitlines() if "deadline" in line)
    assert f"{file}:2" in line


def test_missing_ca_certificates_are_a_warning_of_check_config(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    ran = terminal.daemon("check-config", "-c", configured(tmp_path, {}))
    assert ran.code == 0
    warning, last = ran.err.splitlines()
    assert warning.startswith("warning: no CA certificates in ")
    assert "install the package ca-certificates, or set https.ca_file" in warning
    assert last == "the configuration is valid"


def test_all_problems_of_a_configuration_are_reported_with_78(terminal: Terminal, tmp_path: Path) -> None:
    file = configured(tmp_path, {"lookup": {"deadline": 5}, "dns": {"resolver": []}})
    for arguments in (["check-config"], ["check-config", "--dump"], ["serve"]):
        ran = terminal.daemon(*arguments, "-c", file)
        assert (ran.code, ran.out) == (os.EX_CONFIG, "")
        assert [line.split(": ")[1] for line in ran.err.splitlines()] == ["dns.resolver", "lookup.deadline"]
    for command in ("query", "explain"):
        assert terminal.ctl(command, "-c", file, "example.com").code == os.EX_CONFIG


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no valid certificates"),
        (b"not PEM\n", "holds no valid certificates"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds no valid certificates"),
    ],
    ids=["missing", "empty", "text", "damaged"],
)
def test_unusable_ca_file_is_a_problem_with_its_place(
    terminal: Terminal, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    file = configured(tmp_path, {"https": {"ca_file": str(ca_file)}})
    ran = terminal.daemon("check-config", "-c", file)
    assert ran.code == os.EX_CONFIG
    assert ran.err.startswith(f"{file}:2:12: https.ca_file: {ca_file} ")
    assert problem in ran.err
    ran = terminal.ctl("explain", "--live", "-c", file, "example.com")
    assert ran.code == os.EX_CONFIG
    assert str(ca_file) in ran.err and "Traceback" not in ran.err


def test_ca_file_from_the_environment_is_reported_by_variable(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTASTS_HTTPS__CA_FILE", str(tmp_path))
    ran = terminal.daemon("check-config", "-c", configured(tmp_path, {}))
    assert ran.code == os.EX_CONFIG
    assert ran.err.startswith("environment MTASTS_HTTPS__CA_FILE: https.ca_file: ")


def test_check_config_reports_each_bad_line_of_the_domains_file(terminal: Terminal, tmp_path: Path) -> None:
    lines = tmp_path / "domains"
    file = configured(tmp_path, {"publish": {"domains_file": str(lines)}})
    ran = terminal.daemon("check-config", "-c", file)
    assert ran.code == os.EX_CONFIG
    assert ran.err.startswith(f"{lines}: publish.domains_file: cannot be read: No such file or directory (name a file")
    lines.write_text("a.example mode=enforce\nb.example mode=strict\nlocalhost\n")
    ran = terminal.daemon("check-config", "-c", file)
    assert ran.code == os.EX_CONFIG
    first, second = ran.err.splitlines()
    assert first.startswith(f"{lines}:2:1: publish.domains_file: mode: ") and first.endswith("(correct mode=)")
    assert second.startswith(f'{lines}:3:1: publish.domains_file: "localhost" is not a domain')
    lines.write_text("a.example mode=enforce\n")
    assert terminal.daemon("check-config", "-c", file).code == 0


def test_schema_is_json(terminal: Terminal) -> None:
    assert "listen" in json.loads(terminal.daemon("schema").out)["properties"]


# -- query -------------------------------------------------------------------------------------------------


def test_query_prints_the_reply_to_postfix(terminal: Terminal, daemon: Process) -> None:
    common = ("query", "-c", str(daemon.config))
    ran = terminal.ctl(*common, "enforce.example")
    assert (ran.code, ran.out, ran.err) == (0, f"OK {SECURE}\n", "")
    assert terminal.ctl(*common, "[Enforce.Example.]:587").out == f"OK {SECURE}\n"
    assert "policy_type=sts" in terminal.ctl(*common, "enforce.example", "--map", "QUERYwithTLSRPT").out
    assert terminal.ctl(*common, "fixed.example").out == "OK encrypt\n"

    ran = terminal.ctl(*common, ".example")
    assert (ran.code, ran.out) == (1, "NOTFOUND\n")

    server = f"socketmap:unix:{daemon.socket}"
    ran = terminal.ctl("query", "-c", str(daemon.config), "--server", server, "--json", "enforce.example")
    assert ran.json == {
        "key": "enforce.example",
        "map": "postfix",
        "server": server,
        "code": "OK",
        "text": SECURE,
    }


def test_temporary_error_ends_with_75(terminal: Terminal, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"15:TEMP no store \n,")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"socketmap:inet:127.0.0.1:{server.getsockname()[1]}"
        ran = terminal.ctl("query", "-c", configured(tmp_path, {}), "--server", address, "example.com")
        thread.join()
    assert (ran.code, ran.out) == (os.EX_TEMPFAIL, "TEMP no store\n")


def test_query_without_a_daemon_names_every_address_tried(terminal: Terminal, tmp_path: Path) -> None:
    listen = [f"socketmap:inet:127.0.0.1:{free_port()}", f"socketmap:unix:{tmp_path}/none.sock"]
    ran = terminal.ctl("query", "-c", configured(tmp_path, {"listen": listen}), "example.com")
    assert (ran.code, ran.out) == (os.EX_UNAVAILABLE, "")
    assert f"{listen[0]}: Connection refused; {listen[1]}: No such file or directory" in ran.err
    assert ran.err.endswith("Is it running, with this configuration?\n")


def test_query_asks_a_tcp_table_listener(terminal: Terminal, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1000) == b"get example.com\n"
                connection.sendall(b"200 may\n")

        thread = threading.Thread(target=answer)
        thread.start()
        listen = [f"tcp_table:127.0.0.1:{server.getsockname()[1]}"]
        ran = terminal.ctl("query", "-c", configured(tmp_path, {"listen": listen}), "example.com")
        thread.join()
    assert (ran.code, ran.out) == (0, "OK may\n")


def test_query_warns_of_an_unknown_map_name(terminal: Terminal, daemon: Process) -> None:
    ran = terminal.ctl("query", "-c", str(daemon.config), "--map", "nosuch", "enforce.example")
    assert (ran.code, ran.out) == (0, f"OK {SECURE}\n")
    assert ran.err.startswith("warning: there is no zone nosuch; the reply is that of postfix (zones: postfix, ")
    assert terminal.ctl("query", "-c", str(daemon.config), "--map", "QUERY", "enforce.example").err == ""


@pytest.mark.parametrize("text", ["user@enforce.example", "https://enforce.example/x", "<a@Enforce.Example>"])
def test_query_reduces_an_address_or_url_to_its_domain(terminal: Terminal, daemon: Process, text: str) -> None:
    assert terminal.ctl("query", "-c", str(daemon.config), text).out == f"OK {SECURE}\n"


def test_invalid_server_address_ends_with_64(terminal: Terminal, tmp_path: Path) -> None:
    ran = terminal.ctl("query", "-c", configured(tmp_path, {}), "--server", "localhost", "example.com")
    assert ran.code == os.EX_USAGE
    assert ran.err.startswith('--server: "localhost" is not a listener (write socketmap:inet:HOST:PORT, ')


# -- explain -----------------------------------------------------------------------------------------------


def test_explanation_comes_from_the_store_without_queries(
    terminal: Terminal, daemon: Process, internet: Internet
) -> None:
    asked = len(internet.host.requests), internet.dns.count()
    ran = terminal.ctl("explain", "-c", str(daemon.config), "enforce.example")
    assert (ran.code, ran.err) == (0, "")
    assert "+ cached policy    mode enforce, id 1, fetched " in ran.out
    assert f"= postfix          OK {SECURE}   (mode-enforce)" in ran.out

    found = terminal.ctl("explain", "-c", str(daemon.config), "--json", "testing.example").json
    assert found["replies"] == dict.fromkeys(("postfix", "query", "querywithtlsrpt", "postfix-tlsrpt"), "NOTFOUND")
    assert (len(internet.host.requests), internet.dns.count()) == asked

    ran = terminal.ctl("explain", "-c", str(daemon.config), "loosened.example")
    assert "its policy is treated as testing, because: their MX is being moved" in ran.out
    assert "by the override, the policy is in testing" in ran.out

    ran = terminal.ctl("explain", "-c", str(daemon.config), "unknown.example")
    assert "no policy is stored for this domain; --live queries DNS and the policy host now" in ran.out


@pytest.mark.usefixtures("at_our_port")
def test_live_explanation_names_the_failed_step_and_rule(terminal: Terminal, daemon: Process) -> None:
    for domain, step, sentence, slug, rule in (
        ("expired.example", "policy fetch", "The policy host's certificate has expired", "webpki-expired", "3.3"),
        ("hostile.example", "policy text", "A line of the policy does not follow", "policy-line-syntax", "3.2"),
        ("two.example", "TXT record", "There is more than one TXT record with v=STSv1", "sts-record-multiple", "3.1"),
        ("servfail.example", "TXT record", "The resolver returned SERVFAIL", "dns-servfail", "3.1"),
    ):
        ran = terminal.ctl("explain", "-c", str(daemon.config), "--live", domain)
        assert ran.code == 0
        (line,) = (line for line in ran.out.splitlines() if line.startswith("! ") and slug in line)
        assert line.startswith(f"! {step} ")
        assert sentence in line
        assert line.endswith(f"[RFC 8461 {rule}]")
        assert f"= postfix          NOTFOUND   ({slug})" in ran.out
        assert all(line.isprintable() for line in ran.out.split("\n"))


@pytest.mark.usefixtures("at_our_port")
def test_live_explanation_shows_each_step_and_changes_nothing(terminal: Terminal, daemon: Process) -> None:
    explanation = terminal.ctl("explain", "-c", str(daemon.config), "--live", "--json", "[enforce.example]").json
    steps = explanation["steps"]
    assert isinstance(steps, list)
    found = {step["title"]: step["found"] for step in steps}
    assert found["policy domain"] == "enforce.example"
    assert found["TXT record"].startswith("_mta-sts.enforce.example: id 1 ")
    assert "https://mta-sts.enforce.example/.well-known/mta-sts.txt" in found["policy fetch"]
    assert "mode: enforce" in found["policy text"]
    assert found["decision"].startswith("the policy is enforced")
    replies = explanation["replies"]
    assert isinstance(replies, dict)
    assert replies["postfix"] == f"OK {SECURE}"
    assert replies["postfix-tlsrpt"].startswith(f"OK {SECURE} policy_type=sts ")
    # A live explanation does not add the domain to the daemon.
    terminal.ctl("explain", "-c", str(daemon.config), "--live", "expired.example")
    assert not daemon.lines("domain=expired.example")


def test_explain_says_first_that_the_daemon_is_down(terminal: Terminal, tmp_path: Path) -> None:
    settings = {"store": {"path": f"{tmp_path}/none.sqlite"}, "admin": {"socket": f"{tmp_path}/admin.sock"}}
    file = configured(tmp_path, settings)
    ran = terminal.ctl("explain", "-c", file, "example.com")
    assert ran.code == os.EX_UNAVAILABLE
    assert ran.err.splitlines()[0].startswith("the daemon does not answer, so Postfix defers mail")
    assert "= postfix          NOTFOUND   (no-policy)" in ran.out
    assert terminal.ctl("explain", "--offline", "-c", file, "example.com").code == 0


def test_key_that_can_have_no_policy_is_explained(terminal: Terminal, tmp_path: Path) -> None:
    file = configured(tmp_path, {"store": {"path": f"{tmp_path}/none.sqlite"}})
    for key, slug in ((".example.com", "key-parent"), ("[192.0.2.1]", "key-address"), ("com", "key-one-label")):
        ran = terminal.ctl("explain", "-c", file, key)
        assert (ran.code, ran.err) == (0, "")
        assert "no lookup is made" in ran.out
        assert f"= postfix          NOTFOUND   ({slug})" in ran.out
    ran = terminal.ctl_exits("explain", "-c", file, "\udcff\x1b[2J.example")
    assert ran.code == os.EX_USAGE
    assert "'\\udcff\\x1b[2J.example' is not a domain" in ran.err


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("none.sqlite", "none.sqlite does not exist: nothing is stored, or the daemon keeps its policies in memory", 0),
        ("x" * 300, "cannot be read: File name too long", os.EX_NOINPUT),
        ("config.yml", "config.yml cannot be read: The store's file is damaged: ", os.EX_NOINPUT),
    ],
    ids=["missing", "unreadable", "damaged"],
)
def test_unreadable_store_is_reported_and_the_rest_explained(
    terminal: Terminal, tmp_path: Path, name: str, message: str, code: int
) -> None:
    file = configured(tmp_path, {"store": {"path": f"{tmp_path}/{name}"}})
    ran = terminal.ctl("explain", "-c", file, "example.com")
    assert ran.code == code
    assert message in ran.err
    assert "= postfix          NOTFOUND   (no-policy)" in ran.out


@pytest.mark.parametrize("argument", ["schema", "--version"])
def test_closed_standard_output_causes_no_traceback(argument: str) -> None:
    program = f"import sys; from mtasts_daemon.cli.main import daemon_main; sys.exit(daemon_main(['{argument}']))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
