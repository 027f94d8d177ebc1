"""Domains in user input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.user_input import domain_part, parse_user_domain, parse_user_key


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("example.com", "example.com"),
        (" example.com\n", "example.com"),
        ("user@example.com", "example.com"),
        ("<user@example.com>", "example.com"),
        ("mailto:user@example.com", "example.com"),
        ("mailto:user@example.com?subject=x", "example.com"),
        ("https://user:pw@Example.com:8443/path?q#f", "Example.com"),
        ("https://[2001:db8::1]:443/", "[2001:db8::1]"),
        ("[mx.example.com]:587", "[mx.example.com]:587"),
        ("http://[broken", "[broken"),
        ("user@", ""),
    ],
)
def test_address_and_url_are_reduced_to_the_domain(text: str, domain: str) -> None:
    assert domain_part(text) == domain


@pytest.mark.parametrize("text", ["[192.0.2.1]", ".example.com", "com", "[host.example]:587", "bücher.example"])
def test_every_key_that_postfix_asks_for_is_accepted(text: str) -> None:
    assert parse_user_key(text) == text


@pytest.mark.parametrize("text", ["", "@", "no spaces", "a..example", "x@y@", "\udcff.example", "a_b.example", "{x}"])
def test_text_without_a_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_user_key(text)
    with pytest.raises(ValueError, match=r"\w"):
        parse_user_domain(text)


@given(st.text())
def test_any_text_gives_a_domain_or_value_error(text: str) -> None:
    for parse in (parse_user_key, parse_user_domain):
        try:
            assert parse(text)
        except ValueError as error:
            assert str(error)
