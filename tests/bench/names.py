"""The domains of the benchmarks, and a DNS server that is fast enough.

``dN.bench.test`` has no policy, for any N; ``pN.bench.test`` has one, up to a limit. All names below
``r.bench.test`` and ``h.bench.test`` want TLS reports, at an address for each of the two. The server is Knot DNS,
installed (``apt-get install knot``) or in the tree that the interop tests make (``python -m tests.interop.prepare``);
otherwise a few lines of Python, which are too slow, so that rates of cold lookups are then too low.
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.processes import LOAD_CORES, Measured, free_port, on_cores
from tests.interop.prepare import NAME_SERVERS

__all__ = ["ORIGIN", "POLICY_HOSTS", "REPORTED", "REPORTED_HOSTS", "NameServer", "name_server", "negative", "positive"]

ORIGIN: Final = "bench.test"
REPORTED: Final = f"r.{ORIGIN}"
REPORTED_HOSTS: Final = f"h.{ORIGIN}"
POLICY_HOSTS: Final = ("127.77.0.1", "127.77.1.1", "127.77.2.1", "127.77.3.1")
"""In different networks, because the daemon limits fetches per network."""

_TREE: Final = NAME_SERVERS.path
_KNOT: Final = """
server:
  rundir: "{folder}"
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: info
database:
  storage: "{folder}"
zone:
  - domain: {origin}
    storage: "{folder}"
    file: "zone"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"""


@dataclass(frozen=True, slots=True)
class NameServer:
    """A running server, and its name for the report."""

    port: int
    kind: str


def negative(number: int) -> str:
    """Return a domain without a policy."""
    return f"d{number}.{ORIGIN}"


def positive(number: int) -> str:
    """Return a domain with a policy; its MX host is ``mail.`` below it."""
    return f"p{number}.{ORIGIN}"


@contextlib.contextmanager
def name_server(folder: Path, policies: int, port: int | None = None) -> Iterator[NameServer]:
    """Serve the names, ``policies`` of them with policies, on the load's core."""
    port = port or free_port()
    installed = shutil.which("knotd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if installed:
        with _knot(folder, [installed], "", port, policies):
            yield NameServer(port, "Knot DNS")
    elif os.geteuid() == 0 and (_TREE / "usr/sbin/knotd").exists():
        with tempfile.TemporaryDirectory(prefix="bench-", dir=_TREE / "srv") as inside:
            root = f"/srv/{Path(inside).name}"
            with _knot(Path(inside), ["chroot", str(_TREE), "/usr/sbin/knotd"], root, port, policies):
                yield NameServer(port, "Knot DNS of the interop tree")
    else:
        log = folder / "responder.log"
        with Measured(["tests.bench.responder", str(port), str(policies)], log, LOAD_CORES) as responder:
            responder.line()
            yield NameServer(port, "a few lines of Python, too slow (apt-get install knot)")


@contextlib.contextmanager
def _knot(folder: Path, command: list[str], seen_as: str, port: int, policies: int) -> Iterator[None]:
    inside = seen_as or str(folder)
    (folder / "knot.conf").write_text(_KNOT.format(folder=inside, port=port, origin=ORIGIN))
    (folder / "zone").write_text("\n".join(_zone(policies)) + "\n")
    with (folder / "knot.log").open("wb") as log, on_cores(LOAD_CORES):
        server = subprocess.Popen([*command, "-c", f"{inside}/knot.conf"], stdout=log, stderr=log)
    try:
        _await_answer(port, server, folder / "knot.log")
        yield
    finally:
        server.terminate()
        server.wait()


def _zone(policies: int) -> Iterator[str]:
    yield f"$ORIGIN {ORIGIN}."
    yield "$TTL 3600"
    yield f"@ SOA ns.{ORIGIN}. hostmaster.{ORIGIN}. 1 3600 600 86400 3600"
    yield f"@ NS ns.{ORIGIN}."
    yield "ns A 127.0.0.1"
    yield f"* MX 10 mail.{ORIGIN}."
    for name in ("r", "h"):
        yield f'*.{name} TXT "v=TLSRPTv1; rua=mailto:tls@{name}.{ORIGIN}"'
    hosts = itertools.cycle(POLICY_HOSTS)
    for number in range(policies):
        name = f"p{number}"
        yield f"{name} MX 10 mail.{name}"
        yield f'_mta-sts.{name} TXT "v=STSv1; id=1;"'
        yield f"mta-sts.{name} A {next(hosts)}"


def _await_answer(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    query = b"\0\1\0\0\0\1\0\0\0\0\0\0\5bench\4test\0\0\6\0\1"
    for _ in range(600):
        with socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.connect(("127.0.0.1", port))
            asking.settimeout(0.1)
            with contextlib.suppress(OSError):
                asking.send(query)
                if asking.recv(512)[7]:
                    return
        if server.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"the name server does not answer:\n{log.read_text(errors='replace')[-2000:]}")
