"""The command line of the benchmarks."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import lookups, resident
from tests.bench.admin_load import admin_load
from tests.bench.checks import checks, lookups_during_checks
from tests.bench.fetches import fetches, hostile
from tests.bench.figures import Figure, as_json, as_text
from tests.bench.large_reports import large_reports
from tests.bench.lookups import Pace, Server
from tests.bench.names import NameServer, name_server
from tests.bench.processes import LOAD_CORES, SERVER_CORES, on_cores
from tests.bench.public import public
from tests.bench.reports import lookups_during_reports, reports

_ALL = (
    *("warm", "pipelined", "cold", "cold-policy", "dane", "admin", "public", "memory", "startup"),
    *("fetches", "hostile", "check", "check-lookups", "reports", "report-lookups", "large-reports"),
)
_LOOKUPS = {
    "warm": lookups.warm,
    "pipelined": lookups.pipelined,
    "cold": lookups.cold,
    "cold-policy": lookups.cold_policy,
    "dane": lookups.dane,
}
_NAMED = 20_000
"""Number of domains with policies in DNS."""

_FULL = Pace(seconds=1.0, turns=9, policies=200)
_QUICK = Pace(seconds=0.2, turns=1, policies=20)


def run(what: str, names: NameServer, quick: bool, servers: list[Server]) -> Iterator[Figure]:
    """Return the figures of one benchmark."""
    with tempfile.TemporaryDirectory(prefix="mtasts-bench-") as folder:
        if what == "admin":
            yield from admin_load(Path(folder), names, *((100, 0.2, 1) if quick else (100_000, 4.0, 5)))
        elif what == "public":
            yield from public(Path(folder), names, *((500, 0.3, 1) if quick else (100_000, 3.0, 5)))
        elif what == "fetches":
            yield from fetches(Path(folder), names, *((0.5, 1) if quick else (4.0, 3)))
        elif what == "hostile":
            yield from hostile(Path(folder), names, 1.0 if quick else 60.0)
        elif what == "memory":
            yield from resident.memory(Path(folder), names, *((500, 100) if quick else (100_000, 20_000)))
        elif what == "check":
            yield from checks(Path(folder), 40 if quick else 1500)
        elif what == "check-lookups":
            yield from lookups_during_checks(Path(folder), *((100, 0.2, 1) if quick else (1500, 3.0, 5)))
        elif what == "reports":
            yield from reports(*((50, 200) if quick else (2000, 20_000)))
        elif what == "report-lookups":
            yield from lookups_during_reports(Path(folder), *((50, 0.2, 1) if quick else (6000, 3.0, 5)))
        elif what == "large-reports":
            yield from large_reports(Path(folder), *((5000, 0.5, 1) if quick else (1_000_000, 3.0, 3)))
        elif what == "startup":
            yield from resident.startup(Path(folder), names, *((100, 1) if quick else (1_000_000, 7)))
        else:
            yield from _LOOKUPS[what](Path(folder), names, _QUICK if quick else _FULL, servers)


def _server(text: str) -> Server:
    socketmap, inet, host, port, name = text.split(":")
    if (socketmap, inet) != ("socketmap", "inet"):
        raise ValueError(text)
    return Server((host, int(port)), name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the daemon.")
    parser.add_argument("what", nargs="*", default="all", choices=(*_ALL, "all"), help="default: all")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        type=_server,
        metavar="socketmap:inet:HOST:PORT:NAME",
        help="measure this server too, in turns with the daemon (warm, pipelined, cold); may be repeated",
    )
    parser.add_argument("--dns-port", type=int, help="serve DNS here, so that another server can be configured first")
    parser.add_argument("--quick", action="store_true", help="a moment of each: whether it works, not how fast it is")
    parser.add_argument("--json", action="store_true", help="print JSON, a list of figures")
    return parser.parse_args()


def main() -> int:
    """Measure and print. Always return 0."""
    arguments = _arguments()
    wanted = _ALL if "all" in arguments.what else tuple(dict.fromkeys(arguments.what))
    found: list[Figure] = []
    talk = sys.stderr if arguments.json else sys.stdout
    with (
        tempfile.TemporaryDirectory(prefix="mtasts-names-") as folder,
        on_cores(LOAD_CORES),
        name_server(Path(folder), _NAMED, arguments.dns_port) as names,
    ):
        print(_conditions(names), file=talk, flush=True)
        for what in wanted:
            begun = time.monotonic()
            for figure in run(what, names, arguments.quick, arguments.server):
                found.append(figure)
                print(as_text(figure), file=talk, flush=True)
            print(f"  ({what} took {time.monotonic() - begun:.0f} s)", file=talk, flush=True)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    return 0


def _conditions(names: NameServer) -> str:
    server, other = sorted(SERVER_CORES), sorted(LOAD_CORES)
    shared = " (the same: figures are too low)" if server == other else ""
    return (
        f"server on core {server}, load on {other}{shared}; DNS: {names.kind}, port {names.port}; "
        f"machine load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
