"""Check many domains at once, and print a table or CSV with one row per domain."""

import argparse
import asyncio
import csv
import io
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..notify.alert import Severity
from ..policy.user_input import parse_user_domain
from .output import Progress, escape, print_error, print_out, printable_name, table

if TYPE_CHECKING:
    from ..diagnose.check.checker import DomainChecker
    from ..diagnose.check.result import CheckResult

__all__ = ["COLUMNS", "check_batch"]

COLUMNS = (
    "domain", "exit_code", "mta_sts", "dane_first", "both", "mode", "id", "max_age", "mx_hosts", "errors",
    "warnings", "worst", "sentence",
)  # fmt: skip
_NOT_CHECKED = "not-checked"
"""The worst finding, in CSV, of a name that was not checked."""
_AT_ONCE = 64


async def check_batch(args: argparse.Namespace, texts: Sequence[str], checker: "DomainChecker") -> list[int]:
    """Check all and print each as it is done (JSON, CSV) or a table at the end; return the exit codes."""
    batch = _Batch(args, texts, checker)
    return await batch.run()


class _Batch:
    def __init__(self, args: argparse.Namespace, texts: Sequence[str], checker: "DomainChecker") -> None:
        self._args = args
        self._texts = list(dict.fromkeys(map(_domain_or_text, texts)))
        self._checker = checker
        self._rows: dict[int, list[object]] = {}
        self._codes: list[int] = []
        self._progress = Progress("checked", len(self._texts))
        self._next = iter(enumerate(self._texts))

    async def run(self) -> list[int]:
        if self._args.csv:
            print_out(_csv(COLUMNS))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(self._texts))):
                group.create_task(self._work())
        self._progress.end()
        if not self._args.csv and not self._args.json:
            self._print_table()
        return self._codes

    async def _work(self) -> None:
        for number, text in self._next:
            await self._one(number, text)
            self._progress.at(len(self._codes))

    async def _one(self, number: int, text: str) -> None:
        try:
            domain = parse_user_domain(text)
        except ValueError as error:
            self._refuse(number, os.EX_USAGE, text, str(error))
            return
        try:
            result = await self._checker.check(domain, mine=self._args.mine)
        except TimeoutError:
            self._refuse(number, os.EX_TEMPFAIL, domain, "the check did not finish in time")
            return
        if self._args.json:
            self._progress.end()
            print_out(json.dumps(result.as_json()))
        self._done(number, result.exit_code, _row(result))

    def _refuse(self, number: int, code: int, text: str, sentence: str) -> None:
        if self._args.json:
            self._progress.end()
            print_error(code, f"{printable_name(text)}: {sentence}")
        self._done(number, code, _refused_row(text, code, sentence))

    def _done(self, number: int, code: int, row: list[object]) -> None:
        self._codes.append(code)
        if self._args.csv:
            self._progress.end()
            print_out(_csv(row))
        elif not self._args.json:
            self._rows[number] = row

    def _print_table(self) -> None:
        titles = ("domain", "MTA-STS only", "DANE first", "both", "mode", "errors", "warnings", "worst")
        print_out(table(titles, [_table_row(self._rows[at]) for at in sorted(self._rows)]))


def _domain_or_text(text: str) -> str:
    try:
        return parse_user_domain(text)
    except ValueError:
        return text


def _table_row(row: Sequence[object]) -> list[object]:
    cells = dict(zip(COLUMNS, row, strict=True))
    worst = f"not checked: {cells['sentence']}" if cells["worst"] == _NOT_CHECKED else cells["worst"]
    name = printable_name(str(cells["domain"]))
    return [name, *(cells[column] for column in ("mta_sts", "dane_first", "both", "mode", "errors", "warnings")), worst]


def _row(result: "CheckResult") -> list[object]:
    evidence = result.evidence
    policy, record = evidence.policy, evidence.sts.record
    worst = result.problems[0] if result.problems else None
    return [
        result.domain,
        result.exit_code,
        *(conclusion.delivery.value for conclusion in result.conclusions),
        policy.mode.value if policy is not None else "-",
        record.id if record is not None else "-",
        policy.max_age if policy is not None else 0,
        len(evidence.mx.hosts),
        result.count(Severity.ERROR),
        result.count(Severity.WARNING),
        worst.slug if worst is not None else "-",
        escape(worst.text) if worst is not None else "",
    ]


def _refused_row(text: str, code: int, sentence: str) -> list[object]:
    return [escape(text)[:255], code, "-", "-", "-", "-", "-", 0, 0, 0, 0, _NOT_CHECKED, sentence]


def _csv(row: Sequence[object]) -> str:
    text = io.StringIO()
    # A cell that a spreadsheet would run as a formula is quoted as text.
    csv.writer(text, lineterminator="").writerow(
        f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+@") else cell for cell in row
    )
    return text.getvalue()
