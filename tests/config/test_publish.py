"""The sections publish and public."""

from pathlib import Path

import pytest

from mtasts_daemon import config
from mtasts_daemon.config import ConfigProblems
from mtasts_daemon.config.sections.public import PublicListen


def load(folder: Path, text: str) -> config.Config:
    file = folder / "config.yml"
    file.write_text(text, "utf-8")
    return config.load(file, environ={})


def test_domains_are_a_labels_merged_over_files(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.yml").write_text("publish: {domains: {Example.COM.: {mode: enforce}}}", "utf-8")
    (tmp_path / "conf.d" / "b.yml").write_text("publish: {domains: {bücher.example: {}}}", "utf-8")
    domains = load(tmp_path, "publish: {domains: {example.com: {max_age: 1d}}}").publish.domains
    assert set(domains) == {"example.com", "xn--bcher-kva.example"}
    assert domains["example.com"].mode == "enforce"
    assert float(domains["example.com"].max_age) == 86400


def test_patterns_are_lower_case(tmp_path: Path) -> None:
    text = "publish: {domains: {a.example: {mx: [MX.a.example., '*.B.example']}}}"
    assert load(tmp_path, text).publish.domains["a.example"].mx == ("mx.a.example", "*.b.example")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("publish: {domains: {a.example: {mx: ['a b']}}}", '"a b" is not a host name or a pattern'),
        ('publish: {domains: {a.example: {mx: ["a.example\\r\\nmode: none"]}}}', "is not a host name or a pattern"),
        ("publish: {domains: {a.example: {mx: [1]}}}", "1 is not a host name or a pattern"),
        ("publish: {domains: {a.example: {mx: mx.a.example}}}", "must be auto or a list"),
        ("publish: {domains: {a.example: {mode: strict}}}", "enforce"),
        ("publish: {domains: {localhost: {}}}", '"localhost" is not a domain'),
        ("publish: {domains: {a.example: {rua: ['tls@a.example']}}}", "is not a report address"),
        ("publish: {domains: {a.example: {rua: ['mailto:a@b.example,mailto:c@d.example']}}}", "encode commas"),
        ("publish: {domains: {a.example: {delegate_to: b.example, mode: enforce}}}", "delegate_to excludes mode"),
        (
            "publish: {domains: {a.example: {delegate_to: b.example}, b.example: {delegate_to: c.example}}}",
            "a.example delegates to b.example, which delegates itself",
        ),
        ("publish: {addresses: [example.com]}", "write IP addresses"),
        ("publish: {dns_update: {server: ns.example, key_name: k, key_file: /k}}", "is not an IP address"),
        ("public: {listen: ['https:127.0.0.1:443']}", "an https listener needs a certificate"),
        ("public: {listen: ['http:127.0.0.1:80', 'http:127.0.0.1:80']}", "an address that is listed before"),
        ("public: {listen: ['http://127.0.0.1:80']}", "is not a public listener"),
        ("public: {listen: [8464]}", "is not a public listener"),
        ("public: {listen: ['http:127.0.0.1']}", "has no port"),
    ],
)
def test_bad_settings_are_rejected_with_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        load(tmp_path, text)
    assert any(problem in str(one) for one in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("text", ["http:127.0.0.1:8464", "https:[::]:443", "http:unix:/run/x.sock", "http:localhost:0"])
def test_public_listener_is_written_as_it_is_read(text: str) -> None:
    assert str(PublicListen.parse(text)) == text
