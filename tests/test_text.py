"""One sanitizer for all text that is not ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.text import quoted, sanitize


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("text/plain", "text/plain"),
        ("münchen.example", "münchen.example"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp", "\\u202egnp"),
        ("\udcff", "\\udcff"),
        ("", ""),
        (42, "42"),
    ],
)
def test_sanitize_escapes_unprintable_characters(text: object, safe: str) -> None:
    assert sanitize(text) == safe


def test_sanitize_cuts_to_the_limit_and_shows_that_it_did() -> None:
    assert sanitize("x" * 80) == "x" * 80
    assert sanitize("x" * 81) == "x" * 77 + "..."
    assert sanitize("x" * 500, 10) == "x" * 7 + "..."
    assert sanitize("x" * 500, None) == "x" * 500


@given(st.text())
def test_sanitized_text_is_printable(text: str) -> None:
    assert sanitize(text).isprintable()
    assert len(sanitize(text)) <= 80 * len("\\U0010ffff")


@given(st.text())
def test_quoted_text_is_printable_ascii(text: str) -> None:
    assert quoted(text).isascii() and quoted(text).isprintable()
