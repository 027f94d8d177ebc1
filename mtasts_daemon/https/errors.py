"""Translate what aiohttp, ssl and the socket layer raise into leaves of the error tree."""

import errno
import os
import ssl

import aiohttp

from .. import errors
from ..text import sanitize
from .tls_stream import StreamTooLarge

__all__ = ["NO_ROUTE", "fetch_error_for", "reason_of"]

NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
)
"""Errors of connect(2) and socket(2) that come from this host: no route, no address, a firewall, no descriptors."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_WEBPKI: dict[int, type[errors.WebPkiError]] = {
    2: errors.WebPkiUntrusted,  # unable to get issuer certificate
    9: errors.WebPkiNotYetValid,
    10: errors.WebPkiExpired,
    18: errors.WebPkiSelfSigned,
    19: errors.WebPkiSelfSigned,  # the chain's own root, which is not trusted
    20: errors.WebPkiUntrusted,  # unable to get local issuer certificate
    21: errors.WebPkiUntrusted,  # unable to verify the first certificate
    27: errors.WebPkiUntrusted,
    62: errors.WebPkiNameMismatch,
}


def fetch_error_for(error: Exception) -> errors.PolicyFetchError:
    """Return the leaf that ``error`` means for a fetch over an established TCP connection; any exception has one."""
    if isinstance(error, errors.PolicyFetchError):
        return error
    if isinstance(error, TimeoutError) and error.errno is None:
        return errors.PolicyTimeout()
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error)
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, StreamTooLarge):
        return errors.PolicyTooLarge(str(error))
    if isinstance(error, aiohttp.ClientPayloadError):
        return errors.PolicyHttpBroken("the body ended early or is not well-formed")
    if isinstance(error, aiohttp.ClientResponseError):
        return errors.PolicyHttpBroken(sanitize(" ".join(error.message.split())))
    if isinstance(error, OSError):
        return errors.PolicyHttpBroken(f"the connection was lost: {reason_of(error)}")
    return errors.PolicyHttpBroken(sanitize(f"{type(error).__name__}: {error}"))


def _certificate(error: Exception) -> errors.WebPkiError:
    code = getattr(error, "verify_code", 0)
    leaf = _WEBPKI.get(code, errors.WebPkiInvalid)
    return leaf(sanitize(str(getattr(error, "verify_message", error))))


def _tls(error: ssl.SSLError) -> errors.PolicyTlsFailed:
    return errors.PolicyTlsFailed(sanitize(str(getattr(error, "reason", None) or error)))


def reason_of(error: OSError) -> str:
    """Return the text of ``error`` without the peer's address."""
    return os.strerror(error.errno) if error.errno else type(error).__name__
