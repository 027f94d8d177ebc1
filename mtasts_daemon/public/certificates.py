"""The certificates of the public listener: chosen by server name, reloaded when their files change."""

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..log import log_event

__all__ = ["Certificates", "LoadedCertificate"]

_MAX_FILE = 1 << 20
_Signature = tuple[tuple[int, int, int, int], ...]


CertificateFiles = tuple[Path, Path]
"""PEM files of a certificate chain and of its private key."""


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """A certificate in use. ``not_after`` is in seconds since the epoch; ``problem`` says why a newer one is not."""

    files: CertificateFiles
    names: tuple[str, ...]
    not_after: float
    problem: str = ""


@dataclass(slots=True)
class _Entry:
    signature: _Signature
    context: ssl.SSLContext
    loaded: LoadedCertificate


class Certificates:
    """Certificates by server name. Runs on the public thread; ``loaded`` may be read from any thread."""

    def __init__(self) -> None:
        self._entries: dict[CertificateFiles, _Entry] = {}
        self._order: tuple[CertificateFiles, ...] = ()
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._failed: dict[CertificateFiles, str] = {}
        self._default: ssl.SSLContext | None = None
        self.context = _new_context()
        """The context to listen with: it has no certificate of its own and switches to the one that fits."""
        self.context.sni_callback = self._choose

    @property
    def loaded(self) -> Sequence[LoadedCertificate]:
        """The certificates in use."""
        return [entry.loaded for entry in list(self._entries.values())]

    @property
    def problems(self) -> Sequence[str]:
        """Problems of files that are not in use."""
        return list(self._failed.values())

    def use(self, files: Sequence[CertificateFiles]) -> None:
        """Serve these from now on; files that cannot be loaded are logged and tried again by ``reload_changed``."""
        self._order = tuple(files)
        self._entries = {one: entry for one, entry in self._entries.items() if one in self._order}
        self._failed = {one: problem for one, problem in self._failed.items() if one in self._order}
        self.reload_changed()

    def reload_changed(self) -> None:
        """Load the files that changed. The previous certificate stays in use if a new one cannot be loaded."""
        for files in self._order:
            try:
                self._reload(files)
            except (OSError, ValueError) as error:
                self._note_failure(files, _sentence(error))
        self._index()

    def _reload(self, files: CertificateFiles) -> None:
        signature = _signature(files)
        entry = self._entries.get(files)
        if entry is not None and entry.signature == signature:
            self._failed.pop(files, None)
            return
        context = _new_context()
        context.load_cert_chain(*files)
        loaded = _described(files)
        self._entries[files] = _Entry(signature, context, loaded)
        self._failed.pop(files, None)
        log_event("public-certificate-loaded", file=files[0], names=",".join(loaded.names[:8]))

    def _note_failure(self, files: CertificateFiles, problem: str) -> None:
        sentence = f"{str(files[0])!a}: {problem}"
        if self._failed.get(files) != sentence:
            log_event("public-certificate-load-failed", level=logging.ERROR, file=files[0], problem=problem)
        self._failed[files] = sentence

    def _index(self) -> None:
        by_name: dict[str, ssl.SSLContext] = {}
        contexts = [self._entries[files] for files in self._order if files in self._entries]
        for entry in contexts:
            for name in entry.loaded.names:
                by_name.setdefault(name, entry.context)
        self._by_name = by_name
        self._default = contexts[0].context if contexts else None

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        """Switch to the certificate for the server name, or to the first one. Without any, return an alert."""
        wanted = (name or "").lower()
        _, _, parent = wanted.partition(".")
        found = self._by_name.get(wanted) or self._by_name.get(f"*.{parent}") or self._default
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = found
        return None


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _signature(files: CertificateFiles) -> _Signature:
    found = (path.stat() for path in files)
    return tuple((one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _described(files: CertificateFiles) -> LoadedCertificate:
    """Read names and expiry of the first certificate in the file. Raises ``ValueError`` or ``OSError``."""
    # Imported here: only https listeners need the library, and it takes a while to load.
    from cryptography import x509

    with files[0].open("rb") as file:
        certificate = x509.load_pem_x509_certificates(file.read(_MAX_FILE))[0]
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    return LoadedCertificate(files, names, certificate.not_valid_after_utc.timestamp())


def _sentence(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "the certificate or its key is damaged, or they do not belong together"
    return str(error.strerror or error) if isinstance(error, OSError) else "it holds no certificate"
