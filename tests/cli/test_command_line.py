"""Options before the verb, help, and suggestions for typing errors."""

import argparse
from collections.abc import Callable

import pytest

from mtasts_daemon.cli import command_line
from mtasts_daemon.cli.command_line import CommandParser, add_global_options, add_help_verb, apply_global_options


def parser() -> CommandParser:
    made = CommandParser(prog="ctl")
    add_global_options(made, socket=True)
    verbs = made.add_subparsers(metavar="COMMAND")
    listed = verbs.add_parser("list", parents=[command_line.configuration_option()], help="list things")
    listed.add_argument("--json", action="store_true")
    listed.add_argument("--sort", choices=("name", "size"))
    verbs.add_parser("top")
    add_help_verb(made, verbs)
    return made


def parsed(*arguments: str) -> argparse.Namespace:
    made = parser()
    args = made.parse_args(arguments)
    apply_global_options(made, args)
    return args


def test_global_options_may_precede_or_follow_the_verb() -> None:
    for arguments in (("-c", "x.yml", "--json", "list"), ("list", "-c", "x.yml", "--json")):
        args = parsed(*arguments)
        assert (str(args.config), args.json) == ("x.yml", True)
    assert str(parsed("-c", "before", "list", "-c", "after").config) == "after"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lst",), "did you mean list?"),
        (("list", "--jsn"), "unknown option: --jsn; did you mean --json?"),
        (("list", "--sort", "nam"), "no such choice: 'nam'; did you mean name? (known: name, size)"),
        (("list", "more"), "unknown argument: more"),
        (("--json", "top"), "this command has no --json"),
    ],
)
def test_error_suggests_what_was_meant(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 64
    assert message in capsys.readouterr().err


def test_help_verb_prints_the_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    args = parsed("help", "list")
    assert args.command(args) == 0
    assert capsys.readouterr().out.startswith("usage: ctl list ")
    args = parsed("help", "lits")
    with pytest.raises(SystemExit):
        args.command(args)
    assert "there is no command 'lits'; did you mean list?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (command_line.seconds(0.2, 3600), "0", "0 is out of range; use 0.2 to 3600 seconds"),
        (command_line.seconds(0.2, 3600), "nan", "nan is out of range"),
        (command_line.seconds(0.2, 3600), "soon", "'soon' is not a number of seconds"),
        (command_line.count(0, 9, zero="0 for all"), "-1", "-1 is out of range; use 0 to 9, 0 for all"),
        (command_line.count(1, 9), "x", "'x' is not a whole number"),
        (command_line.map_name, "two words", "'two words' is not a map name"),
        (command_line.key, "no spaces", "'no spaces' is not a domain"),
        (command_line.policy_domain, "[192.0.2.1]", "is not a domain"),
    ],
)
def test_argument_out_of_range_names_the_range(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert message in str(error.value)
