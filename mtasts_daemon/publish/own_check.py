"""Checks of the operator's own domains, as a sender sees them, on a separate thread.

Unlike other checks they may connect to the public addresses of this host: it may be the MX host and the policy host.
"""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from ..config import Config
from ..diagnose.check.evidence import CheckEvidence
from ..errors import MtaStsError, PublishError
from ..https.local_addresses import LocalAddresses
from ..https.untrusted_loop import UntrustedLoop, UntrustedLoopClosed

if TYPE_CHECKING:  # its imports take a good part of a second
    from ..diagnose.check.checker import DomainChecker

__all__ = ["OwnDomainCheck", "with_own_addresses"]

_SECONDS = 300.0
_FRESH_SECONDS = 5.0
"""Age at which an SMTP session is too old for an operator who has just corrected something. Not 0: an operator may
apply thousands of domains with the same MX hosts, one after the other."""


def with_own_addresses(config: Config) -> Config:
    """Return the configuration that permits connections to this host's public addresses."""
    own = {str(address) for address in LocalAddresses()() if address.is_global}
    networks = [ip_network(ip_address(text)) for text in sorted(own | set(config.publish.addresses))]
    https = config.https.model_copy(update={"allow_addresses": (*config.https.allow_addresses, *networks)})
    return config.model_copy(update={"https": https})


class OwnDomainCheck:
    """An optional part of the daemon: called with a domain, it checks it. For the main loop."""

    name = "publish-check"

    def __init__(self, make: "Callable[[Config], DomainChecker] | None" = None) -> None:
        self._make = make or _make_checker
        self._loop = UntrustedLoop("publish-check")
        self._config = Config()
        self._stale = True
        self._checker: DomainChecker | None = None

    async def configure(self, config: Config) -> None:
        """Use this configuration for checks that begin from now on."""
        self._config, self._stale = config, True

    async def stop(self) -> None:
        """Cancel checks and end the thread."""
        await self._loop.close()

    async def __call__(self, domain: str, *, fresh: bool = False) -> CheckEvidence:
        """Return the evidence; ``fresh`` uses no SMTP session of a check before. Raises ``PublishError``."""
        try:
            return await self._loop.run(lambda: self._check(domain, fresh=fresh))
        except UntrustedLoopClosed:
            raise PublishError("the daemon ends") from None
        except TimeoutError:
            raise PublishError(f"the check of {domain} did not end in time") from None
        except (MtaStsError, OSError) as error:
            raise PublishError(str(error)) from None

    async def _check(self, domain: str, *, fresh: bool) -> CheckEvidence:
        if self._stale or self._checker is None:
            self._stale = False
            old, self._checker = self._checker, self._make(with_own_addresses(self._config))
            if old is not None:
                # Running checks keep their checker.
                asyncio.get_running_loop().call_later(2 * _SECONDS, _close, old)
        if fresh:
            self._checker.smtp.forget(_FRESH_SECONDS)
        return (await self._checker.check(domain, mine=True)).evidence


def _make_checker(config: Config) -> "DomainChecker":
    from ..diagnose.check.checker import DomainChecker

    return DomainChecker(config)


_closing: set["asyncio.Task[None]"] = set()


def _close(checker: "DomainChecker") -> None:
    task = asyncio.get_running_loop().create_task(checker.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
