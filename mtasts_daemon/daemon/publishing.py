"""Build publishing: the service, its watch, its operations, and the policies of the public listener."""

from collections.abc import Callable, Mapping

from ..errors import DnsError, StoreError
from ..https.local_addresses import LocalAddresses
from ..notify.alert import AlertSink
from ..ports import Clock, Resolver
from ..public.server import PublicServer
from ..publish.dns_lookup import host_addresses
from ..publish.operations import PublishOperations
from ..publish.own_check import OwnDomainCheck
from ..publish.rollout import DayReports
from ..publish.service import PublishService
from ..publish.watch import PublishWatch
from ..text import utc_day
from ..tlsrpt.receive.queries import day_totals
from ..tlsrpt.receive.service import ReceiveService

__all__ = ["Publishing"]


class Publishing:
    """Everything of publishing. ``parts`` are optional parts of the daemon, in the order to configure them."""

    def __init__(
        self,
        environ: Mapping[str, str],
        resolver: Callable[[], Resolver],
        public: PublicServer,
        receive: ReceiveService,
        alert: AlertSink,
        clock: Clock,
    ) -> None:
        self._resolver = resolver
        self._public = public
        self._receive = receive
        self._clock = clock
        self._own = LocalAddresses()
        self.check = OwnDomainCheck()
        self.service = PublishService(environ, resolver, self.check, public.change_policies, clock)
        self.watch = PublishWatch(self.service, alert, self._reported_days, clock)
        self.operations = PublishOperations(self.service, self.watch)
        self.parts = (self.check, self.service)
        public.add_ask(self._may_have_certificate)

    def publishes(self, domain: str) -> bool:
        """Return True if the domain is published here. From any thread.

        Raises ``StoreError`` if that is not known: a report about it is then neither kept nor dropped.
        """
        service = self.service
        if service.registry is not None and domain in service.registry.domains:
            return True
        if not service.knows_all:
            raise StoreError("the published domains are not known: publish.domains_file has not been read")
        return False

    async def _reported_days(self, domain: str, since: str) -> Mapping[str, DayReports] | None:
        """Return the trusted reports about a domain; None if reports are not received."""
        today = utc_day(self._clock.wall())
        try:
            days = await self._receive.read(day_totals(domain, since, today))
        except StoreError:
            return None
        return {day.day: DayReports(day.successful, day.failed) for day in days}

    async def _may_have_certificate(self, name: str) -> bool:
        """Return True if the name is a published policy host that resolves to this host. Runs on the main loop."""
        registry = self.service.registry
        if registry is None or not registry.is_policy_host(name):
            return False
        settings = self.service.settings
        resolver = self._resolver()
        try:
            found = await host_addresses(resolver, name)
            here = set(settings.addresses)
            if not here and settings.host is not None:
                here = set(await host_addresses(resolver, settings.host))
        except DnsError:
            return False
        if not here:
            here = {str(address) for address in self._own()}
        return bool(found) and found <= here
