import re
from pathlib import Path

import pytest

from mtasts_daemon import config
from mtasts_daemon.config.sections.tlsrpt import TlsrptSettings

SENDING = "organization: Example Ltd, contact: tls@example.com, sender: reports@example.com"


def read(tmp_path: Path, text: str) -> TlsrptSettings:
    file = tmp_path / "config.yml"
    file.write_text(f"tlsrpt: {{{text}}}\n", "utf-8")
    return config.load(file, environ={}).tlsrpt


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(config.ConfigProblems) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    return f"{problem.where}: {problem.message}"


def test_nothing_is_collected_or_sent_by_default() -> None:
    settings = config.Config().tlsrpt
    assert (settings.socket, settings.may_send) == (None, False)


def test_reports_are_sent_if_the_reporter_is_configured(tmp_path: Path) -> None:
    assert read(tmp_path, SENDING).may_send
    assert not read(tmp_path, "organization: Example Ltd, contact: tls@example.com").may_send


def test_database_is_next_to_the_policies_by_default(tmp_path: Path) -> None:
    store = Path("/srv/policies.sqlite")
    assert read(tmp_path, "").file(store) == Path("/srv/tlsrpt.sqlite")
    assert read(tmp_path, "database: /x/y").file(store) == Path("/x/y")


def test_addresses_have_their_domain_in_a_labels(tmp_path: Path) -> None:
    assert read(tmp_path, "sender: TLS+rpt@Bücher.example").sender == "TLS+rpt@xn--bcher-kva.example"


@pytest.mark.parametrize("text", ["tls", "@example.com", "tls@", "a b@example.com", "tls@a@example.com", "<a@b.c>"])
def test_bad_address_is_rejected(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, f"contact: '{text}'").startswith("tlsrpt.contact: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("organization: ''", "tlsrpt.organization: must be one line"),
        (f"socket: /{'s' * 107}", "tlsrpt.socket: the path is longer than 107 bytes"),
        ("socket_group: 'a b'", "tlsrpt.socket_group: "),
        ("socket_mode: 432", "tlsrpt.socket_mode: 432 is a number"),
        ("smtp: mail.example:0", "tlsrpt.smtp: port 0 cannot be connected to"),
        ("retention: 1d", "tlsrpt.retention: 1d is not within 2d to 366d"),
        ("max_rua: 0", "tlsrpt.max_rua: 0 is too small"),
        ("exclude: [localhost]", "tlsrpt.exclude[0]: "),
        ("dkim: {domain: example.com, selector: x}", "tlsrpt.dkim.key_file: is missing"),
        ("dkim: {domain: example.com, selector: 'a b', key_file: k}", "tlsrpt.dkim.selector: "),
        ("smtp_password: secret", "tlsrpt.smtp_password: is not a known key"),
    ],
)
def test_unusable_value_is_rejected_with_its_position(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text).startswith(expected)


def test_a_login_has_a_user_and_a_password(tmp_path: Path) -> None:
    assert "needs both" in refused(tmp_path, "smtp_user: me")
    assert "needs both" in refused(tmp_path, "smtp_password_file: f")
    assert read(tmp_path, "smtp_user: me, smtp_password_file: f").smtp_user == "me"


def test_password_is_not_sent_in_clear(tmp_path: Path) -> None:
    login = "smtp: 'mail.example:587', smtp_user: me, smtp_password_file: f"
    assert "in clear" in refused(tmp_path, login)
    assert read(tmp_path, f"{login}, smtp_starttls: true").smtp_starttls


def test_commented_dkim_of_the_example_is_valid(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.example.yml").read_text("utf-8")
    block = example.partition("  # dkim:\n")[2].partition("  # Time after midnight")[0]
    file = tmp_path / "config.yml"
    file.write_text("tlsrpt:\n  dkim:\n" + re.sub(r"^  # ", "  ", block, flags=re.MULTILINE), "utf-8")
    dkim = config.load(file, environ={}).tlsrpt.dkim
    assert dkim is not None and (dkim.domain, dkim.selector) == ("example.com", "tlsrpt")
