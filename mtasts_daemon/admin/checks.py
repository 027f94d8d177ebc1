"""Checks of the running daemon: what must work for lookups and for the policies behind them."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from .. import errors
from ..ports import Clock
from ..store.policy_store import SqliteStore

__all__ = ["Check", "StoreCheck", "authorities_check", "count_authorities", "resolver_check"]

_STORE_FRESH = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result; ``detail`` says what was found."""

    name: str
    ok: bool
    detail: str


def resolver_check(failure: errors.DnsError | None, validates: bool | None) -> Check:
    """Return the check of the resolvers: why they fail, and whether they validate DNSSEC (None: not known yet)."""
    if failure is not None:
        return Check("resolver", False, str(failure))
    details = {True: "DNSSEC is validated", False: "DNSSEC is not validated: DANE is off", None: "answers"}
    return Check("resolver", True, details[validates])


class StoreCheck:
    """Reads the store once per second at most."""

    def __init__(self, store: SqliteStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._read_at = float("-inf")

    async def result(self) -> Check:
        """Return the check; it fails if the store cannot be read or written."""
        store = self._store
        if (reason := store.memory_reason) is not None:
            return Check("store", False, f"{store.file} cannot be written: {reason}; policies are in memory only")
        now = self._clock.monotonic()
        if now - self._read_at > _STORE_FRESH:
            try:
                await store.browse(lambda connection: connection.execute("SELECT 1 FROM entry LIMIT 1").fetchone())
            except errors.StoreError as error:
                return Check("store", False, error.sentence)
            self._read_at = now
        if store.write_failure is not None:
            return Check("store", False, f"{store.path} cannot be written: {store.write_failure.sentence}")
        return Check("store", True, store.path)


def count_authorities(ca_file: Path | None) -> tuple[int, str]:
    """Return the number of CA certificates and where they are. Raise OSError. Reads files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()
    folder = paths.capath  # None if it does not exist
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    count = context.cert_store_stats()["x509_ca"]
    if not count and ca_file is None and folder is not None:
        # OpenSSL reads a directory of hashed names only when it needs one of them.
        count = sum(entry.name.endswith(".0") for entry in Path(folder).iterdir())
    return count, str(ca_file or folder or paths.openssl_capath)


def authorities_check(ca_file: Path | None) -> Check | None:
    """Return a failed check if policy hosts cannot be verified, otherwise None. Reads files."""
    hint = "no policy can be fetched; install the package ca-certificates, or set https.ca_file"
    try:
        count, where = count_authorities(ca_file)
    except OSError as error:
        return Check("certificates", False, f"{ca_file}: {error.strerror or error}: {hint}")
    return None if count else Check("certificates", False, f"no CA certificates in {where}: {hint}")
