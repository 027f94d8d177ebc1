"""Log lines that nothing remote can forge, and lines that repeat."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.log import RepeatLimit, _Formatter, configure, log_event

HOSTILE = 'x\r\nerror: forged\n<0>forged\x1b[2J\u2028\x85"quoted" key=value \\'


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    logger = logging.getLogger("mtasts_daemon")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


def logged(form: str, environ: Mapping[str, str] | None = None, level: int = logging.INFO, **fields: object) -> str:
    """Return the line of one event."""
    stream = io.StringIO()
    configure("info", form, environ or {}, stream)
    log_event("event", level=level, once_a_minute=None, **fields)
    return stream.getvalue()


def test_a_line_is_its_level_its_event_and_its_fields() -> None:
    assert logged("plain", domain="example.com", count=3) == "info: event domain=example.com count=3\n"
    assert logged("plain", level=logging.WARNING, text="two words") == 'warning: event text="two words"\n'
    assert logged("plain", level=logging.DEBUG) == ""


def test_journald_gets_the_priority_and_no_level() -> None:
    assert logged("journald", level=logging.ERROR, a="b") == "<3>event a=b\n"
    assert logged("auto", {"JOURNAL_STREAM": "8:1"}) == "<6>event\n"
    assert logged("auto") == "info: event\n"


def test_json_has_a_time_and_keeps_numbers() -> None:
    line = json.loads(logged("json", count=3, text=HOSTILE))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "event", "count": 3, "text": HOSTILE}


@given(st.text())
@pytest.mark.parametrize("form", ["plain", "journald", "json"])
def test_any_value_stays_one_printable_line(form: str, text: str) -> None:
    for value in (text, HOSTILE + text):
        line = logged(form, value=value, last="end")
        assert line.endswith("\n")
        assert line[:-1].isascii() and line[:-1].isprintable()


@pytest.mark.parametrize("form", ["plain", "journald", "json"])
def test_a_trace_stays_within_its_line(form: str) -> None:
    stream = io.StringIO()
    configure("info", form, {}, stream)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("mtasts_daemon.lookup.service").exception(
            "lookup-internal-error", extra={"fields": {"domain": "a.example"}}
        )
    (line,) = stream.getvalue().splitlines()
    assert "lookup-internal-error" in line and "a.example" in line and "test_log.py" in line


def test_a_long_value_is_cut() -> None:
    assert len(logged("plain", value="x" * 100_000)) < 1000


def test_a_repeated_line_is_held_back_and_counted() -> None:
    limit = RepeatLimit(period=60.0, most=2)
    assert limit.admit("a", 0.0) == 0
    assert limit.admit("a", 59.0) is None
    assert limit.admit("a", 59.5) is None
    assert limit.admit("b", 59.5) == 0
    assert limit.admit("a", 60.0) == 2
    assert limit.admit("a", 120.0) == 0


def test_memory_of_repeats_is_bounded() -> None:
    limit = RepeatLimit(period=60.0, most=2)
    for key in ("a", "b", "c"):
        assert limit.admit(key, 0.0) == 0
    # The oldest was forgotten, the others were not.
    assert limit.admit("c", 1.0) is None
    assert limit.admit("b", 1.0) is None
    assert limit.admit("a", 1.0) == 0


_STALLED = """
import sys
from mtasts_daemon.log import configure, flush, lines_lost, log_event

configure("info", "plain", {})
for number in range(30_000):
    log_event("policy-fetch-failed", number=number)
print(lines_lost(), flush=True)
sys.stdin.readline()  # from now on standard error is read
flush(30)
log_event("after", number=1)
"""


def test_stalled_reader_blocks_no_caller_and_lost_lines_are_counted() -> None:
    command = [sys.executable, "-c", _STALLED]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        lost = int(process.stdout.readline())  # no line of standard error has been read so far
        process.stdin.write("\n")
        process.stdin.flush()
        lines = process.stderr.read().splitlines()
    assert lost > 0
    assert len([line for line in lines if line.startswith("info: policy-fetch-failed ")]) == 30_000 - lost
    assert lines[-2:] == [
        f'warning: log-lines-lost count={lost} meaning="the reader of the log was too slow"',
        "info: after number=1",
    ]


def test_line_of_a_library_cannot_forge_an_event() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("plain"))
    record = logging.makeLogRecord(
        {"name": "asyncio", "msg": "bad\nerror: forged", "levelname": "ERROR", "levelno": 40}
    )
    handler.emit(record)
    assert stream.getvalue() == 'error: library-message logger=asyncio message="bad\\nerror: forged"\n'
