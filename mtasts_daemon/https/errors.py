"""What aiohttp, ssl and the socket layer raise, as leaves of the error tree."""

import os
import ssl

import aiohttp

from .. import errors
from ..text import sanitize

__all__ = ["translated"]


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


def translated(error: Exception, connect: float | None = None) -> errors.PolicyFetchError:
    """The leaf that says what ``error`` means for a fetch; any exception has one.

    ``connect`` is the time in seconds that connecting was given, None for all there was.
    """
    if isinstance(error, errors.PolicyFetchError):
        return error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return errors.PolicyConnectFailed(f"no connection within {connect:g} seconds")
    if isinstance(error, TimeoutError) and error.errno is None:
        return errors.PolicyTimeout()
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate(error.certificate_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connecting(error.os_error)
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return errors.PolicyHttpBroken("the body ended early or is not well-formed")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return errors.PolicyHttpBroken("the connection was closed before the answer ended")
    if isinstance(error, aiohttp.ClientResponseError):
        return errors.PolicyHttpBroken(sanitize(" ".join(error.message.split())))
    if isinstance(error, OSError):
        return errors.PolicyHttpBroken(f"the connection was lost: {_reason(error)}")
    return errors.PolicyHttpBroken(sanitize(f"{type(error).__name__}: {error}"))


def _certificate(error: Exception) -> errors.WebPkiError:
    code = getattr(error, "verify_code", 0)
    leaf = _WEBPKI.get(code, errors.WebPkiInvalid)
    return leaf(sanitize(str(getattr(error, "verify_message", error))))


def _connecting(error: OSError) -> errors.PolicyFetchError:
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, ConnectionResetError):
        # TCP refuses; only what has been accepted can be reset
        return errors.PolicyTlsFailed("the connection was closed during the handshake")
    return errors.PolicyConnectFailed(_reason(error))


def _tls(error: ssl.SSLError) -> errors.PolicyTlsFailed:
    return errors.PolicyTlsFailed(sanitize(str(getattr(error, "reason", None) or error)))


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__
