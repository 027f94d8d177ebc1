"""The file with one published domain a line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.config.domain_lines import DomainLines, read_domain_lines
from mtasts_daemon.config.problems import MAX_PROBLEMS


def read(folder: Path, text: str | bytes) -> DomainLines:
    file = folder / "domains"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_domain_lines(file)


def test_domain_lines_have_the_settings_of_the_configuration(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "# ours\n\nExample.COM. mode=enforce mx=mx1.example.com,*.example.net max_age=1w rua=mailto:a@b.example\n"
        "plain.example\r\n  auto.example   mx=auto rollout=automatic\ncustomer.example delegate_to=example.com",
    )
    assert found.problems == ()
    first = found.domains["example.com"]
    assert (first.mode, first.mx, str(first.max_age)) == ("enforce", ("mx1.example.com", "*.example.net"), "7d")
    assert first.rua == ("mailto:a@b.example",)
    assert found.domains["plain.example"].mode == "testing"
    assert (found.domains["auto.example"].mx, found.domains["auto.example"].rollout) == ("auto", "automatic")
    assert found.domains["customer.example"].delegate_to == "example.com"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("localhost", '"localhost" is not a domain'),
        ("a.example mode=strict", "mode: "),
        ("a.example mode", '"mode" is not a setting'),
        ("a.example color=red", '"color=red" is not a setting'),
        ("a.example mode=none mode=none", "mode is given twice"),
        ("a.example mx=*", 'mx: "*" is not a host name'),
        ("a.example max_age=86400", "has no unit"),
        ("a.example delegate_to=b.example mode=none", "delegate_to excludes mode"),
        ("good.example", "good.example is listed before"),
        ("a.example " + "x" * 5000, "longer than 4096 bytes"),
        (b"a\xff.example", "not UTF-8"),
    ],
)
def test_bad_line_costs_its_own_domain_only(tmp_path: Path, line: str | bytes, problem: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    found = read(tmp_path, b"good.example\n" + raw + b"\nlast.example\n")
    assert set(found.domains) == {"good.example", "last.example"}
    (one,) = found.problems
    assert problem in one.message
    assert one.line == 2
    assert one.hint


def test_bad_lines_are_listed_up_to_a_limit_and_then_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "good.example\n" + "localhost\n" * 1000)
    assert len(found.problems) == MAX_PROBLEMS
    assert found.problems[98].line == 100
    assert str(found.problems[99]).startswith(f"{tmp_path / 'domains'}:101:1: publish.domains_file: 901 more lines")


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_domain_lines(tmp_path / "none")


@given(data=st.binary(max_size=300))
def test_domain_lines_survive_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    read(tmp_path_factory.mktemp("lines"), data)


def test_domain_lines_of_100000_domains_share_their_settings(tmp_path: Path) -> None:
    text = "".join(f"d{number}.example mode=enforce mx=mx.example.net\n" for number in range(100_000))
    found = read(tmp_path, text)
    assert len(found.domains) == 100_000
    assert len({id(settings) for settings in found.domains.values()}) == 1
