"""The parts that no lookup needs. The daemon imports them on a thread when its lookup listeners are open.

They import more than half of the program, and no lookup waits for that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..admin.history import History
from ..admin.listeners import AdminListeners
from ..admin.service import AdminService, DaemonParts
from ..diagnose.check.service import CheckService
from ..diagnose.watch.watch import DomainWatch
from ..notify.part import NotifyPart
from ..ports import Clock, Resolver
from ..public.check_part import PublicCheckPart
from ..public.counters import PublicCounters
from ..public.server import PublicServer
from ..public.tls_reports import mount_tls_reports
from ..tlsrpt.receive.service import ReceiveService
from .parts import OptionalParts
from .publishing import Publishing
from .systemd import Activation

__all__ = ["AdminListeners", "AdminService", "DaemonParts", "History", "LateParts", "make_late_parts"]


@dataclass(frozen=True, slots=True)
class LateParts:
    """The parts that others refer to."""

    receive: ReceiveService
    checks: CheckService
    watch: DomainWatch
    public: PublicServer
    publishing: Publishing


def make_late_parts(
    optional: OptionalParts,
    environ: Mapping[str, str],
    activation: Activation,
    resolver: Callable[[], Resolver],
    clock: Clock,
) -> LateParts:
    """Make the parts and add them to ``optional``."""
    notify = NotifyPart(environ)
    receive = ReceiveService(
        environ,
        resolver,
        clock,
        notify,
        inherited=activation.lmtp,
        is_published=lambda domain: publishing.publishes(domain),
    )
    checks = CheckService()
    watch = DomainWatch(checks.evidence, notify, clock, environ)
    for part in (notify, checks, watch):
        optional.add(part)
    public = PublicServer(PublicCounters())
    for activated in activation.public:
        public.inherit(activated.address, activated.sock, tls=activated.tls)
    mount_tls_reports(public, receive)
    optional.add(PublicCheckPart(public, checks))
    publishing = Publishing(environ, resolver, public, receive, notify, clock)
    for publishing_part in publishing.parts:
        optional.add(publishing_part)
    # After them: reports about domains that are not known yet would be dropped.
    optional.add(receive)
    # After them, so that it never serves less than before a restart.
    optional.add(public)
    return LateParts(receive, checks, watch, public, publishing)
