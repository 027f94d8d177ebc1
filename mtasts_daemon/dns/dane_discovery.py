"""DANE discovery with a resolver: query the questions of ``policy.dane`` until it has a verdict."""

import asyncio
from contextlib import suppress

from ..errors import DnsError
from ..policy.dane import DaneVerdict, DnsQuestion, DnsResult, discover
from ..policy.dns_answer import DnsAnswer, RRType
from ..policy.next_hop import NextHop
from ..ports import Pending, Resolver, result_or_error

__all__ = ["discover_dane", "query"]


async def discover_dane(resolver: Resolver, hop: NextHop, answers: dict[DnsQuestion, DnsResult]) -> DaneVerdict:
    """Query until no question is open, and return the verdict.

    Each query is sent as soon as it is known, so that no host waits for another. Answers are added to
    ``answers`` as they come, so that a verdict can be made at any moment.
    """
    asked: set[DnsQuestion] = set()

    async def ask(question: DnsQuestion, group: asyncio.TaskGroup) -> None:
        answered = query(resolver, question)
        with suppress(DnsError):
            await answered
        answers[question] = result_or_error(answered)
        ask_open(group)

    def ask_open(group: asyncio.TaskGroup) -> None:
        for question in discover(hop, answers).questions:
            if question not in asked:
                asked.add(question)
                group.create_task(ask(question, group))

    async with asyncio.TaskGroup() as group:
        ask_open(group)
    return discover(hop, answers).verdict


def query(resolver: Resolver, question: DnsQuestion) -> Pending[DnsAnswer[object]]:
    """Send the query for a question of the discovery."""
    name = question.name
    match question.rrtype:
        case RRType.MX:
            return resolver.mx(name)
        case RRType.A:
            return resolver.a(name)
        case RRType.AAAA:
            return resolver.aaaa(name)
        case RRType.TLSA:
            return resolver.tlsa(name)
        case RRType.CNAME:
            return resolver.cname(name)
        case _:
            raise AssertionError(question)
