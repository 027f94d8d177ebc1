"""Foreign exceptions as leaves of the error tree: those that a fake policy host cannot cause."""

import errno
import ssl

import aiohttp
import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.errors import fetch_error_for

VERIFY_CODES = {
    2: errors.WebPkiUntrusted,
    9: errors.WebPkiNotYetValid,
    10: errors.WebPkiExpired,
    18: errors.WebPkiSelfSigned,
    19: errors.WebPkiSelfSigned,
    20: errors.WebPkiUntrusted,
    21: errors.WebPkiUntrusted,
    27: errors.WebPkiUntrusted,
    62: errors.WebPkiNameMismatch,
    23: errors.WebPkiInvalid,
}


@pytest.mark.parametrize(("code", "leaf"), VERIFY_CODES.items())
def test_openssls_verdict_chooses_the_leaf(code: int, leaf: type[errors.WebPkiError]) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL\nputs it"
    found = fetch_error_for(error)
    assert type(found) is leaf
    assert found.tlsrpt_result == "sts-webpki-invalid"
    assert found.detail == "as OpenSSL\\nputs it"


def test_certificate_error_without_a_verdict_is_still_one() -> None:
    assert type(fetch_error_for(ssl.SSLCertVerificationError(1, "odd"))) is errors.WebPkiInvalid


@pytest.mark.parametrize(
    ("error", "leaf"),
    [
        (errors.PolicyTooLarge("as it is"), errors.PolicyTooLarge),
        (TimeoutError(), errors.PolicyTimeout),
        (aiohttp.ServerTimeoutError(), errors.PolicyTimeout),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), errors.PolicyTlsFailed),
        (OSError(errno.ETIMEDOUT, "timed out"), errors.PolicyHttpBroken),
        (ConnectionResetError(), errors.PolicyHttpBroken),
        (aiohttp.ClientOSError(errno.EPIPE, "broken pipe"), errors.PolicyHttpBroken),
        (aiohttp.ClientPayloadError("x"), errors.PolicyHttpBroken),
        (aiohttp.InvalidURL("x"), errors.PolicyHttpBroken),
        (ValueError("a\x1bb"), errors.PolicyHttpBroken),
        (UnicodeError("x"), errors.PolicyHttpBroken),
        (RuntimeError("Session is closed"), errors.PolicyHttpBroken),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_every_exception_has_a_leaf(error: Exception, leaf: type[errors.PolicyFetchError]) -> None:
    found = fetch_error_for(error)
    assert type(found) is leaf
    assert found.sentence.isprintable()
