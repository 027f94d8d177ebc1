"""``mtastsctl tlsrpt receive``: take report mails from Postfix's pipe(8), or import reports from files."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import Progress, print_error, print_json, print_out, table

if TYPE_CHECKING:
    from ..config import Config
    from ..tlsrpt.receive.database import ReportsDatabase
    from ..tlsrpt.receive.dkim_check import LookupTxt
    from ..tlsrpt.receive.intake import Intake

__all__ = ["register"]


def register(verbs: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    description = "take a report mail from standard input, for pipe(8), or import files"
    parser = verbs.add_parser("receive", parents=[configured], help=description, description=description)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="*",
        type=Path,
        help="an mbox, a Maildir, a .json, .json.gz or .eml file, or a directory of them (default: standard input)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--trusted", action="store_true", help="count the reports in the files without verifying signatures"
    )
    parser.set_defaults(command=_receive)


def _receive(args: argparse.Namespace) -> int:
    if args.file:
        return _take(args)
    try:
        return _take(args)
    except Exception as error:
        # pipe(8) returns a mail to its sender after an exit code that it does not know.
        return print_error(os.EX_TEMPFAIL, f"4.3.0 internal error: {type(error).__name__}: {error}")


def _take(args: argparse.Namespace) -> int:
    import asyncio

    from ..config import ConfigProblems, load
    from ..errors import ConfigError, StoreError
    from ..tlsrpt.receive.service import has_own_domains, open_reports

    # Nothing may be acknowledged to Postfix because of a mistake here: what fails is tried again.
    failed = os.EX_TEMPFAIL if not args.file else os.EX_UNAVAILABLE
    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return failed if not args.file else os.EX_CONFIG
    if not has_own_domains(config):
        code = failed if not args.file else os.EX_CONFIG
        return print_error(code, "no domain is yours: list your domains in receive.own_domains")
    if args.trusted and not args.file:
        return print_error(os.EX_USAGE, "--trusted is for files")
    try:
        database = open_reports(config, os.environ)
    except StoreError as error:
        return print_error(failed, f"the reports database cannot be used: {error.sentence}")
    try:
        if args.file:
            return asyncio.run(_import(args, config, database))
        return asyncio.run(_pipe(config, database))
    except StoreError as error:
        return print_error(failed, f"the reports database cannot be used: {error.sentence}")
    except ConfigError as error:
        return print_error(failed, error.sentence)
    except OSError as error:
        return print_error(os.EX_NOINPUT if args.file else failed, f"{error.filename}: {error.strerror}")
    finally:
        database.close()


async def _pipe(config: "Config", database: "ReportsDatabase") -> int:
    from ..errors import MtaStsError
    from ..tlsrpt.receive.model import DEFAULT_LIMITS, ReportSource
    from ..tlsrpt.receive.replies import reply_to_accepted, reply_to_error

    message = sys.stdin.buffer.read(DEFAULT_LIMITS.mail + 1)
    # pipe(8) without the flag R may put an mbox line before the header.
    if message.startswith(b"From "):
        message = message.partition(b"\n")[2]
    intake, close = await _intake(config, database)
    try:
        reply = reply_to_accepted(await intake.take_mail(message, ReportSource.PIPE))
    except MtaStsError as error:
        reply = reply_to_error(error)
    except Exception as error:  # a bug; Postfix would bounce the mail
        return print_error(os.EX_TEMPFAIL, f"4.3.0 internal error: {type(error).__name__}; please report it")
    finally:
        await close()
    # Postfix logs it, and quotes it in a bounce.
    return print_error(reply.exit_code, f"{reply.lmtp.split(' ')[1]} {reply.text}")


async def _import(args: argparse.Namespace, config: "Config", database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.file_import import FileImport, ImportCounts

    intake, close = await _intake(config, database)
    bar = Progress("importing", 0)

    def shown(counts: ImportCounts) -> None:
        nonlocal bar
        if not bar.total and counts.total_bytes:
            bar = Progress("importing", counts.total_bytes)
        bar.at(counts.bytes)

    importing = FileImport(intake, database, time.time, trusted=args.trusted, progress=shown)
    try:
        counts = await importing.run(args.file)
    except KeyboardInterrupt:
        return print_error(130, "interrupted; the next run resumes")
    finally:
        bar.end()
        await close()
    if args.json:
        return print_json(
            {name: getattr(counts, name) for name in counts.__slots__ if name not in ("bytes", "total_bytes")}
        )
    print_out(
        table(
            ("FILES", "READ BEFORE", "NEW", "REVISED", "DUPLICATE", "NOT OURS", "REJECTED", "TRY AGAIN"),
            [
                (
                    counts.files,
                    counts.skipped_files,
                    counts.new,
                    counts.revisions,
                    counts.duplicates,
                    counts.foreign,
                    sum(counts.rejected.values()),
                    counts.deferred,
                )
            ],
        )
    )
    for slug, count in sorted(counts.rejected.items()):
        print_error(0, f"rejected: {slug}: {count}")
    return os.EX_TEMPFAIL if counts.deferred else os.EX_OK


async def _intake(config: "Config", database: "ReportsDatabase") -> "tuple[Intake, Any]":
    from ..daemon.wiring import resolver_for
    from ..tlsrpt.receive.dkim_check import dkim_available
    from ..tlsrpt.receive.intake import Intake
    from ..tlsrpt.receive.service import intake_settings, published_in_file

    if not dkim_available():
        print_error(0, "warning: dkimpy is not installed; signatures cannot be verified")
    resolver = resolver_for(config)

    async def lookup(name: str) -> Sequence[bytes]:
        return (await resolver.txt(name)).records

    txt: LookupTxt = lookup
    return Intake(database, intake_settings(config, published_in_file(config)), txt, time.time), resolver.close
