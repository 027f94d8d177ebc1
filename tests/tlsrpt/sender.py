"""A process that sends the reports of one day, to be killed: ``python -m tests.tlsrpt.sender FOLDER MAIL HTTPS``.

FOLDER has the database of a ``World`` and, in ``ca``, a certificate authority; MAIL and HTTPS are ports here. Domains
``mN.example`` want mail, ``wN.example`` HTTPS.
"""

import asyncio
import sys
from pathlib import Path

from mtasts_daemon.policy.dns_answer import DnsAnswer
from mtasts_daemon.tlsrpt.send.smtp_delivery import SmtpServer
from tests.fakes.ca import Ca
from tests.fakes.resolver import FakeResolver
from tests.tlsrpt.delivery_world import World

__all__ = ["WEB", "uri"]

WEB = "reports.example.com"


def uri(domain: str, https: int) -> str:
    """Return the rua of the domain."""
    return f"mailto:tls@{domain}" if domain.startswith("m") else f"https://{WEB}:{https}/{domain}"


class _Resolver(FakeResolver):
    def __init__(self, https: int) -> None:
        super().__init__()
        self._https = https

    def txt(self, name: str) -> asyncio.Future[DnsAnswer[bytes]]:
        record = f"v=TLSRPTv1; rua={uri(name.removeprefix('_smtp._tls.'), self._https)}"
        answer: asyncio.Future[DnsAnswer[bytes]] = asyncio.get_running_loop().create_future()
        answer.set_result(DnsAnswer(name, (record.encode(),), 300))
        return answer


async def _send(folder: Path, mail: int, https: int) -> None:
    world = World(folder, ca=Ca(folder / "ca"), spread=0.0, smtp=SmtpServer("127.0.0.1", mail, timeout=120.0))
    world.resolver = _Resolver(https)
    world.host(WEB)
    async with world:
        await world.deliverer.run()


if __name__ == "__main__":
    asyncio.run(_send(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
