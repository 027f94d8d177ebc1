"""The CA certificates that policy hosts are verified with, read again when their files change."""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from .. import errors
from ..log import log_event

__all__ = ["TrustAnchors", "client_tls"]

_CHECK_SECONDS = 3600.0
_CHECK_SECONDS_MISSING = 60.0

_Stamp = tuple[tuple[int, int, int] | None, ...]


class TrustAnchors:
    """The TLS settings of HTTPS clients. ``ca_file`` replaces the system's CA certificates.

    While ``ca_file`` cannot be read, nothing is trusted: the system's certificates never replace it. A file that
    becomes unreadable later is logged, and the certificates read before stay in use. Call every method from one thread.
    """

    def __init__(self, ca_file: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ca_file = ca_file
        self._monotonic = monotonic
        self._stamp = self._look()
        self._strict: ssl.SSLContext | None = None
        self._unreadable = ""
        """Why ``ca_file`` cannot be read."""
        self._read()
        self.missing = not self._any()
        """There are no CA certificates to verify with."""
        self._checked_at = monotonic()
        if self.missing:
            self._log_missing()

    def context(self) -> ssl.SSLContext:
        """Return the settings that verify certificates. Raises ``CaCertificatesMissing``."""
        now = self._monotonic()
        if now - self._checked_at >= (_CHECK_SECONDS_MISSING if self.missing else _CHECK_SECONDS):
            self._checked_at = now
            self._check()
        if self.missing or self._strict is None:
            self._log_missing()
            raise self.failure()
        return self._strict

    def failure(self) -> errors.CaCertificatesMissing:
        """Return the error to raise or show while certificates are ``missing``."""
        return errors.CaCertificatesMissing(self._unreadable)

    def _read(self) -> None:
        """Read the certificates; if that fails, keep those read before."""
        try:
            self._strict = client_tls(self._ca_file)
            self._unreadable = ""
        except errors.ConfigError as error:
            self._unreadable = error.detail
            log_event("ca-certificates-unreadable", level=logging.ERROR, once_a_minute="", error=error)

    def _log_missing(self) -> None:
        if self._unreadable:
            return  # logged when it was read
        log_event(
            "ca-certificates-missing",
            level=logging.ERROR,
            once_a_minute="",
            meaning="no policy can be fetched; install the package ca-certificates or set https.ca_file",
        )

    def _check(self) -> None:
        stamp = self._look()
        if stamp == self._stamp and not self.missing:
            return
        self._read()
        if self._unreadable:
            return
        was_missing, self._stamp, self.missing = self.missing, stamp, not self._any()
        if not self.missing:
            log_event("ca-certificates-read", reason="they were missing" if was_missing else "their file changed")

    def _places(self) -> list[Path]:
        if self._ca_file is not None:
            return [self._ca_file]
        paths = ssl.get_default_verify_paths()
        return [Path(path) for path in (paths.cafile, paths.capath) if path]

    def _look(self) -> _Stamp:
        """Return what changes with the files."""
        return tuple(_stamp(path) for path in self._places())

    def _any(self) -> bool:
        """Return True if there is a certificate; OpenSSL reads those in a folder when it needs them."""
        if self._strict is None:
            return False
        if self._strict.cert_store_stats()["x509_ca"]:
            return True
        folders = [place for place in self._places() if place.is_dir()]
        # OpenSSL finds a certificate by the hash of its subject: 8 digits, a dot and a number.
        return any(True for folder in folders for _ in folder.glob("????????.[0-9]*"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def client_tls(ca_file: Path | None, *, verify: bool = True) -> ssl.SSLContext:
    """Return the TLS settings of an HTTPS client; ``ca_file`` replaces the system's CA certificates.

    Raises ``ConfigError`` if the file cannot be read.
    """
    # Not create_default_context: its strictness depends on the Python version, and it may log keys.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # RFC 8461 section 7.2 and BCP 195
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 8461 section 3.3: the DNS-ID, never the common name
    context.hostname_checks_common_name = False
    # The peer could renegotiate without end, each time at the cost of a key exchange.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # RFC 9325 section 4.1 advises against DHE: the server chooses its parameters, and a key exchange with 10,000 bits
    # takes seconds.
    offered = [cipher["name"] for cipher in context.get_ciphers() if cipher["kea"] != "kx-dhe"]
    context.set_ciphers(":".join(offered))
    # OpenSSL 3.0 to 3.4 offers the groups up to ffdhe8192 in TLS 1.3; a host that insists on it takes the thread twice
    # 70 ms. The ssl module sets one group or none; one alone would exclude hosts that have another.
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        # ssl.SSLError, raised for a file without certificates, is an OSError too.
        raise errors.ConfigError(f"{ca_file}: {error.strerror or error}") from error
    return context
