"""The measured daemon with DNS and policy hosts, all on loopback."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mtasts_daemon.policy.cache_entry import CacheEntry, HeldPolicy, TxtCheck
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.store.policy_store import open_store
from tests.bench import load
from tests.bench.names import POLICY_HOSTS, NameServer, positive
from tests.bench.processes import LOAD_CORES, SERVER_CORES, Measured, free_port

__all__ = ["MAP", "Daemon", "filled_store", "no_policy", "policy_hosts", "policy_reply", "started"]

MAP = "postfix"
_BODY = "version: STSv1\r\nmode: enforce\r\nmx: mail.{}\r\nmx: *.{}\r\nmax_age: 2419200\r\n"
_BEGINNING = 30.0


class Daemon(Measured):
    """``mtasts-daemon serve`` and its address."""

    def __init__(
        self,
        folder: Path,
        names: NameServer,
        *,
        dane: str = "off",
        ca_file: Path | None = None,
        admin: int = 0,
        public: int = 0,
        domains_file: Path | None = None,
        max_policies: int = 200_000,
        cores: frozenset[int] = SERVER_CORES,
    ) -> None:
        self.address = ("127.0.0.1", free_port())
        self.begun = time.monotonic()
        trust = [f'https: {{ca_file: "{ca_file}", allow_addresses: [127.77.0.0/16]}}'] if ca_file else []
        config = folder / "config.yml"
        config.write_text(
            "\n".join(
                (
                    f'listen: ["socketmap:inet:127.0.0.1:{self.address[1]}"]',
                    f'dns: {{resolvers: ["127.0.0.1:{names.port}"]}}',
                    f'store: {{path: "{folder / "policies.sqlite"}", max_policies: {max_policies}}}',
                    f'zones: {{{MAP}: {{dane: "{dane}"}}}}',
                    *trust,
                    *([f'admin: {{listen: "127.0.0.1:{admin}"}}'] if admin else []),
                    *([f'public: {{listen: ["http:127.0.0.1:{public}"]}}'] if public else []),
                    *([f'publish: {{domains_file: "{domains_file}"}}'] if domains_file else []),
                )
            )
            + "\n"
        )
        super().__init__(["mtasts_daemon", "serve", "-c", str(config)], folder / "daemon.log", cores)

    def first_answer(self) -> float:
        """Return the seconds from process start to the first answer."""
        while time.monotonic() - self.begun < _BEGINNING:
            with contextlib.suppress(ConnectionRefusedError):
                load.ask(self.address, load.netstring(MAP, positive(0)))
                return time.monotonic() - self.begun
            self.check()
            time.sleep(0.002)
        raise RuntimeError(f"it does not listen:\n{self.log.read_text()[-2000:]}")


@contextlib.contextmanager
def started(
    folder: Path,
    names: NameServer,
    *,
    dane: str = "off",
    ca_file: Path | None = None,
    admin: int = 0,
    public: int = 0,
    domains_file: Path | None = None,
    cores: frozenset[int] = SERVER_CORES,
) -> Iterator[Daemon]:
    """Start a daemon with the store in ``folder``."""
    with Daemon(
        folder, names, dane=dane, ca_file=ca_file, admin=admin, public=public, domains_file=domains_file, cores=cores
    ) as daemon:
        daemon.first_answer()
        yield daemon


def filled_store(folder: Path, policies: int) -> None:
    """Create a store with the policies of the first domains."""
    path = folder / "policies.sqlite"
    asyncio.run(_put_first(path))
    # SQLite copies that row for the others: storing a million entries one by one would take minutes.
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        _copy_first(file, policies)


async def _put_first(path: Path) -> None:
    now = time.time()
    store = await open_store(path, now=now)
    await store.put(_entry(positive(0), now), now + 43200)
    await store.close()


def _copy_first(file: sqlite3.Connection, policies: int) -> None:
    columns = [str(name) for _, name, *_ in file.execute("PRAGMA table_info(entry)")]
    values = {name: f"entry.{name}" for name in columns}
    values["domain"] = "replace(entry.domain, 'p0.', 'p' || number || '.')"
    values["body"] = "CAST(replace(CAST(entry.body AS TEXT), 'p0.', 'p' || number || '.') AS BLOB)"
    file.execute(
        "WITH RECURSIVE numbers(number) AS (VALUES (1) UNION ALL SELECT number + 1 FROM numbers WHERE number < ? - 1)"
        f" INSERT OR REPLACE INTO entry ({', '.join(columns)}) SELECT {', '.join(values[name] for name in columns)}"
        " FROM numbers, (SELECT * FROM entry WHERE domain = ?) AS entry WHERE number < ?",
        (policies, positive(0), policies),
    )


def _entry(domain: str, now: float) -> CacheEntry:
    body = _BODY.format(domain, domain).encode()
    policy = parse_policy(body)
    held = HeldPolicy("1", body, policy, now, now + policy.max_age)
    bare = CacheEntry(domain, held, first_used=now, last_used=now)
    return replace(bare, txt=TxtCheck(now, now + 3600, "1"))


def policy_reply(number: int) -> bytes:
    """Return the reply for a domain with a policy in the store."""
    domain = positive(number)
    text = f"OK secure match=mail.{domain}:.{domain} servername=hostname".encode()
    return b"%d:%b," % (len(text), text)


def no_policy() -> bytes:
    """Return the reply for a domain without a policy."""
    return b"9:NOTFOUND ,"


@contextlib.contextmanager
def policy_hosts(folder: Path, policies: int, manners: Sequence[str] = ("answer",)) -> Iterator[Path]:
    """Run HTTPS servers for the first domains with policies, on port 443. Yield the file with their CA.

    The domains behave as ``manners`` says, by turns.

    Raises ``PermissionError`` if that port cannot be bound.
    """
    authority = folder / "ca"
    with contextlib.ExitStack() as stack:
        for place, address in enumerate(POLICY_HOSTS):
            listed = folder / f"policies-{place}.yml"
            own = range(place, policies, len(POLICY_HOSTS))
            listed.write_text(
                "".join(
                    f"{positive(n)}: {{body: {_quoted(positive(n))}, manner: {manners[n % len(manners)]}}}\n"
                    for n in own
                )
            )
            arguments = ["tests.fakes.https", "--address", address, "--port", "443", "--ca-dir", str(authority)]
            host = stack.enter_context(Measured([*arguments, str(listed)], folder / "https.log", LOAD_CORES))
            host.line()
        yield authority / "ca.pem"


def _quoted(domain: str) -> str:
    return '"' + _BODY.format(domain, domain).replace("\r\n", "\\r\\n") + '"'
