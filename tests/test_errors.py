"""The error tree: what every leaf must carry, since logs, metrics and reports are keyed by it."""

import re
from collections.abc import Iterator

import pytest

from mtasts_daemon import errors

# RFC 8460 section 4.3.
RESULT_TYPES = {
    *("starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"),
    *("validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required"),
    *("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"),
}


def tree(root: type[errors.MtaStsError]) -> Iterator[type[errors.MtaStsError]]:
    yield root
    for child in root.__subclasses__():
        # Elsewhere a leaf may carry more with it, as the configuration's does; its slug is that of the leaf.
        if child.__module__ == errors.__name__:
            yield from tree(child)


ALL = list(tree(errors.MtaStsError))
LEAVES = [error for error in ALL if error.slug]


def test_no_slug_is_used_twice() -> None:
    slugs = [error.slug for error in LEAVES]
    assert sorted(set(slugs)) == sorted(slugs)


def test_every_leaf_has_a_slug() -> None:
    assert [error for error in ALL if len(list(tree(error))) == 1 and not error.slug] == []


@pytest.mark.parametrize("error", LEAVES)
def test_a_slug_is_lower_case_words_with_hyphens(error: type[errors.MtaStsError]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", error.slug)


@pytest.mark.parametrize("error", LEAVES)
def test_a_leaf_states_its_own_slug(error: type[errors.MtaStsError]) -> None:
    assert "slug" in vars(error)


@pytest.mark.parametrize("error", ALL)
def test_the_docstring_is_one_sentence_for_an_operator(error: type[errors.MtaStsError]) -> None:
    sentence = (error.__doc__ or "").strip()
    assert re.fullmatch(r"[A-Z][^\n]*[^.\n]\.", sentence)


@pytest.mark.parametrize("error", ALL)
def test_a_result_type_is_one_of_rfc_8460(error: type[errors.MtaStsError]) -> None:
    assert error.tlsrpt_result is None or error.tlsrpt_result in RESULT_TYPES


def test_policy_error_has_its_result_type() -> None:
    for root, result in (
        (errors.StsRecordError, "sts-policy-invalid"),
        (errors.PolicySyntaxError, "sts-policy-invalid"),
        (errors.WebPkiError, "sts-webpki-invalid"),
    ):
        assert {error.tlsrpt_result for error in tree(root)} == {result}
    assert errors.PolicyTimeout.tlsrpt_result == "sts-policy-fetch-error"


def test_sentence_includes_the_detail() -> None:
    assert errors.DnsTimeout().sentence == "No resolver answered in time"
    assert str(errors.DnsTimeout("after 5 s")) == "No resolver answered in time: after 5 s"
    assert errors.DnsTimeout("after 5 s").detail == "after 5 s"
