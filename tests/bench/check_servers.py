"""Fake domains for checks, on loopback: ``python -m tests.bench.check_servers FOLDER DOMAINS``.

Each of d0.bench.test, d1.bench.test ... has a policy, TLS reports wanted, and one of 50 MX hosts. Prints the ports.
``records.json`` in the folder holds further DNS records.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.fakes.ca import Ca
from tests.fakes.dns import FakeDns
from tests.fakes.https import Behaviour, PolicyHost
from tests.fakes.probed_smtp import MxBehaviour, ProbedSmtp

__all__ = ["MX_HOSTS", "domain"]

MX_HOSTS = 50
_POLICY = b"version: STSv1\nmode: enforce\nmx: *.bench.test\nmax_age: 604800\n"


def domain(number: int) -> str:
    """Return one of the domains."""
    return f"d{number}.bench.test"


def _zone(folder: Path, domains: int) -> dict[str, list[str]]:
    more = folder / "records.json"
    zone: dict[str, list[str]] = json.loads(more.read_text()) if more.exists() else {}
    zone |= {f"mx{at}.bench.test": [f"A 127.78.{at}.1"] for at in range(MX_HOSTS)}
    zone |= {"": ["NS ns.bench.test."], "reports.bench.test": ["MX 10 mx0.bench.test."]}
    for number in range(domains):
        name = domain(number)
        zone[name] = [f"MX 10 mx{number % MX_HOSTS}.bench.test."]
        zone[f"mta-sts.{name}"] = [f"A 127.77.{number % 200}.1"]
        zone[f"_mta-sts.{name}"] = ['TXT "v=STSv1; id=1;"']
        zone[f"_smtp._tls.{name}"] = ['TXT "v=TLSRPTv1; rua=mailto:tls@reports.bench.test"']
    return zone


async def _serve(folder: Path, domains: int) -> None:
    ca = Ca(folder)
    behaviours = {f"127.78.{at}.1": MxBehaviour(f"mx{at}.bench.test") for at in range(MX_HOSTS)}
    hosts = PolicyHost(ca, {"*": Behaviour(body=_POLICY)})
    for number in range(domains):
        hosts.context(f"mta-sts.{domain(number)}", hosts.behaviours["*"])
    await hosts.start("0.0.0.0")
    async with FakeDns(_zone(folder, domains)) as dns, ProbedSmtp(ca, behaviours) as smtp:
        print(dns.address[1], hosts.port, smtp.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
