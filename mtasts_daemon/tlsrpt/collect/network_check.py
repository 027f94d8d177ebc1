"""Check if a failure is caused by a domain, or by this host's resolver or Internet connection.

A validating resolver answers SERVFAIL for a domain with broken DNSSEC (RFC 4035 section 5.5), and for every name that
is not in its cache if it cannot reach the Internet. A policy host does not answer if it is down, or if this host is
offline. Only a failure of the domain is reported to it.
"""

import secrets
from collections.abc import Callable
from functools import partial

from ...errors import DnsError
from ...policy.dns_answer import DnsAnswer
from ...ports import Pending, Resolver, result_or_error

__all__ = ["NetworkCheck"]

_PARENT = "com"
"""A zone whose negative answers no resolver can make from its cache: NSEC3 with opt-out (RFC 5155, RFC 8198)."""

_MAX_WAITING = 1000
"""Maximum number of calls that wait for a result; further ones are dropped."""


class NetworkCheck:
    """Caller of functions that depend on a working network. Not thread-safe.

    Each check asks for a new random name, so that its answer shows that the network works now.
    """

    def __init__(self, resolver: Callable[[], Resolver]) -> None:
        self._resolver = resolver
        self._checked: list[Callable[[], object]] = []
        """Wait for the question under way."""
        self._waiting: list[Callable[[], object]] = []
        """Came later, and wait for the next one."""

    def call_if_working(self, call: Callable[[], object]) -> None:
        """Call ``call`` after a check that begins now or later. It is not called if the network does not work."""
        if len(self._checked) + len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting.append(call)
        if not self._checked:
            self._ask()

    def _ask(self) -> None:
        self._checked, self._waiting = self._waiting, []
        asked = self._resolver().a(f"{secrets.token_hex(8)}.{_PARENT}")
        asked.add_done_callback(partial(self._answered, asked))

    def _answered(self, asked: Pending[DnsAnswer[str]], _done: object) -> None:
        works = not isinstance(result_or_error(asked), DnsError)
        checked, self._checked = self._checked, []
        if self._waiting:
            self._ask()
        for call in checked if works else ():
            call()
