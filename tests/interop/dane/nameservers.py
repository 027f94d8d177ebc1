"""Real name servers: Knot DNS with the zones, and a validating Unbound in front of it, as at a mail site."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, Self

import dns.flags
import dns.message
import dns.query
from dns.rdatatype import RdataType

from tests.interop.dane.signing import ROOT_SERVER, SignedTree
from tests.interop.machine import Machine
from tests.interop.network import Network
from tests.interop.postfix import eventually
from tests.interop.prepare import NAME_SERVERS

__all__ = ["AUTHORITY", "RESOLVER", "NameServers"]

AUTHORITY: Final = "127.0.1.53"
RESOLVER: Final = "127.0.0.1"
_FOLDER: Final = "/srv/dns"


# The zones change between queries, so nothing may be cached.
_UNBOUND: Final = f"""
server:
  interface: {RESOLVER}
  do-ip6: no
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  directory: "{_FOLDER}"
  root-hints: "root.hints"
  trust-anchor-file: "root.key"
  do-not-query-localhost: no
  cache-max-ttl: 0
  cache-max-negative-ttl: 0
  val-bogus-ttl: 0
  aggressive-nsec: no
  val-log-level: 2
"""

_KNOT: Final = f"""
server:
  rundir: "{_FOLDER}"
  listen: {AUTHORITY}@53
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: info
database:
  storage: "{_FOLDER}"
template:
  - id: default
    storage: "{_FOLDER}"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"""


class NameServers:
    """Both servers, running on a separate machine of the network; a context manager.

    Raises ``Unavailable`` if the machine cannot be started.
    """

    def __init__(self, network: Network, unsigned: Sequence[str] = ()) -> None:
        self.tree = SignedTree(AUTHORITY, unsigned)
        self._machine = Machine(NAME_SERVERS, network)
        self._folder = self._machine.root / _FOLDER.lstrip("/")
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._configure()
            self._start("knotd", "-c", f"{_FOLDER}/knot.conf")
            self._answers(AUTHORITY)
            self._start("unbound", "-d", "-c", f"{_FOLDER}/unbound.conf")
            self._answers(RESOLVER)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both and remove the zones."""
        self._machine.close()
        for server in self._servers:
            server.wait()

    @property
    def log(self) -> str:
        """Return the logs of both."""
        return "".join(file.read_text(errors="replace") for file in sorted(self._folder.glob("*.log")))

    def serve(self, records: Mapping[str, Sequence[str]]) -> None:
        """Serve these records by name ("MX 10 mx.example.com."), and no others; in force on return."""
        self._write(records)
        self._machine.run("knotc", "-b", "-s", f"{_FOLDER}/knot.sock", "zone-reload")

    def ask(self, name: str, rrtype: RdataType, server: str = RESOLVER) -> dns.message.Message:
        """Return the server's answer to a query with AD."""
        query = dns.message.make_query(name, rrtype, use_edns=0)
        query.flags |= dns.flags.AD
        return self._machine.network.call(lambda: dns.query.tcp(query, server, timeout=5))

    def _configure(self) -> None:
        self._folder.mkdir(parents=True)
        zones = "".join(f'  - domain: {origin}\n    file: "{_file(origin)}"\n' for origin in self.tree.origins)
        (self._folder / "knot.conf").write_text(f'{_KNOT}control:\n  listen: "{_FOLDER}/knot.sock"\nzone:\n{zones}')
        (self._folder / "unbound.conf").write_text(_UNBOUND)
        (self._folder / "root.key").write_text(self.tree.trust_anchor)
        (self._folder / "root.hints").write_text(f". 3600 IN NS {ROOT_SERVER}\n{ROOT_SERVER} 3600 IN A {AUTHORITY}\n")
        self._write({})

    def _write(self, records: Mapping[str, Sequence[str]]) -> None:
        for origin, text in self.tree.master_files(records).items():
            (self._folder / _file(origin)).write_text(text)

    def _start(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.log").open("wb") as log:
            self._servers.append(subprocess.Popen(self._machine.command(command), stdout=log, stderr=log))

    def _answers(self, server: str) -> None:
        def answered() -> bool:
            try:
                return bool(self.ask(".", RdataType.SOA, server).answer)
            except OSError:
                return False

        try:
            eventually(answered, f"an answer from {server}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the servers said:\n{self.log}") from None


def _file(origin: str) -> str:
    return f"{origin.rstrip('.') or 'root'}.zone"
