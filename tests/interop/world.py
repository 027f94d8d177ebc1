"""The fake Internet: DNS, policy hosts and mail exchangers on the loopback of the test network."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from tests.fakes.ca import Ca, Flaw
from tests.fakes.dns import FakeDns
from tests.fakes.https import Behaviour, PolicyHost
from tests.fakes.smtp import MailSink
from tests.interop.network import Network

__all__ = ["NAMESERVER", "World"]

T = TypeVar("T")
NAMESERVER: Final = "127.0.0.1"
POLICY_HOST: Final = "127.0.1.1"
# Nothing listens here, so connections are refused at once.
NOBODY: Final = "127.0.1.2"


class World:
    """Runs the fakes in a thread inside the network; a context manager. Its methods may be called from any thread.

    ``dns`` answers at ``NAMESERVER``; None if another server does, which then has its own ``records``.
    """

    def __init__(self, network: Network, folder: Path, dns: FakeDns | None) -> None:
        self.ca = Ca(folder)
        self._dns = dns
        self.policy_host = PolicyHost(self.ca)
        self.network = network
        self.zone: dict[str, list[str]] = {}
        self._sinks: list[MailSink] = []
        self._addresses = (f"127.0.{third}.{fourth}" for third in itertools.count(2) for fourth in range(1, 255))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="world")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            if self._dns is not None:
                self.wait(self._dns.start())
            self.wait(self.policy_host.start(POLICY_HOST, 443))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all servers."""
        for sink in self._sinks:
            self.wait(sink.close())
        self.wait(self.policy_host.stop())
        if self._dns is not None:
            self.wait(self._dns.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine on the fakes' event loop. Return its result or raise its exception."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def do(self, act: Callable[[], T]) -> T:
        """Call a function on the fakes' event loop. Return its result or raise its exception."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(act())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(20)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Let the resolver set the AD bit in every answer meanwhile."""
        assert self._dns is not None
        dns = self._dns
        self.records("", "NS a.root.")  # what the daemon asks to see if the resolver validates
        self.do(lambda: setattr(dns, "authenticated", True))
        try:
            yield
        finally:
            self.do(lambda: setattr(dns, "authenticated", False))

    # -- what there is ---------------------------------------------------------------------------------------

    def records(self, name: str, *entries: str) -> None:
        """Replace the records of the name; the TTL is 1 s by default."""
        records = [entry if entry[0] in "!0123456789" else f"1 {entry}" for entry in entries]
        served, zone = self._dns, self.zone | {name: records}
        assert served is not None
        self.do(lambda: served.load(zone))
        self.zone = zone

    def exchanger(self, name: str, flaw: Flaw | None = Flaw.GOOD) -> MailSink:
        """Start a mail exchanger of that name at its own address; None: without STARTTLS."""
        certificate = None if flaw is None else self.ca.issue(name, flaw=flaw)
        sink = MailSink(name, certificate=certificate, address=next(self._addresses), port=25)
        self.wait(sink.start())
        self._sinks.append(sink)
        self.records(name, f"A {sink.address[0]}")
        return sink

    def send_mail_for(self, domain: str, *exchangers: MailSink) -> None:
        """Publish the domain's MX records, in order of preference."""
        self.records(domain, *(f"MX {10 * at} {sink.name}." for at, sink in enumerate(exchangers, start=1)))

    def publish(self, domain: str, mode: str, patterns: Iterable[str], policy_id: str = "1") -> None:
        """Publish the domain's MTA-STS policy: TXT record and policy host."""
        lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {pattern}" for pattern in patterns), "max_age: 86400", ""]
        body = "\r\n".join(lines).encode()
        self.do(lambda: self.policy_host.behaviours.update({domain: Behaviour(body=body)}))
        self.records(f"mta-sts.{domain}", f"A {POLICY_HOST}")
        self.records(f"_mta-sts.{domain}", f'TXT "v=STSv1; id={policy_id};"')

    def policy_host_down(self, domain: str) -> None:
        """Refuse connections to the domain's policy host."""
        self.records(f"mta-sts.{domain}", f"A {NOBODY}")

    def fetches(self, domain: str) -> int:
        """Return the number of requests for the domain's policy."""
        return sum(request.sni == f"mta-sts.{domain}" for request in self.do(lambda: list(self.policy_host.requests)))

    def _run(self) -> None:
        self.network.enter()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
