"""``mtasts-daemon check-config`` and ``schema``: validate the configuration, and describe it."""

import argparse
import json
import os

from .command_line import Verbs
from .output import print_error, print_out, print_problems

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    check = verbs.add_parser(
        "check-config", parents=[configured], help="check the configuration; exit code 78 if it has problems"
    )
    check.add_argument("--dump", action="store_true", help="print every value in force and where it is set")
    check.set_defaults(command=_check_config)
    schema = verbs.add_parser("schema", help="print the JSON Schema of the configuration")
    schema.set_defaults(command=_schema)


def _check_config(args: argparse.Namespace) -> int:
    from ..admin.checks import authorities_check
    from ..config import ConfigProblems, load_with_origins
    from ..config.dump import to_dump
    from ..config.files import check_domain_lines, check_files

    try:
        loaded = load_with_origins(args.config, environ=os.environ)
        check_domain_lines(check_files(loaded))
    except ConfigProblems as error:
        return print_problems(error)
    for name in loaded.ignored:
        print_error(os.EX_OK, f"environment {name} is ignored: no such key; write MTASTS_SECTION__KEY")
    if (missing := authorities_check(loaded.config.https.ca_file)) is not None:
        print_error(os.EX_OK, f"warning: {missing.detail}")
    if args.dump:
        return print_out(to_dump(loaded, defaults=True).rstrip("\n"))
    return print_error(os.EX_OK, "the configuration is valid")


def _schema(_args: argparse.Namespace) -> int:
    from ..config.json_schema import json_schema

    return print_out(json.dumps(json_schema(), indent=2))
