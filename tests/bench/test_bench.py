"""The benchmarks run and detect wrong replies. No test checks speed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.figures import Figure, as_text
from tests.bench.load import Question, Wrong, drive, netstring
from tests.bench.processes import LOAD_CORES, Measured
from tests.bench.reference import REPLY
from tests.bench.responder import answer


def test_a_moment_of_lookups_gives_figures() -> None:
    command = [sys.executable, "-m", "tests.bench", "pipelined", "cold", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)}
    assert figures["pipelined, 8 connections: ratio"]["value"] > 0
    assert figures["cold, no policy, 64 connections: daemon"]["value"] > 0


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[tuple[str, int]]:
    with Measured(["tests.bench.reference"], tmp_path / "log", LOAD_CORES) as server:
        yield "127.0.0.1", int(server.line())


def test_every_reply_is_counted_once(reference: tuple[str, int]) -> None:
    batch = Question(netstring("postfix", "example.com") * 10, REPLY * 10, 10)
    assert drive(reference, 3, iter([batch] * 7)).answered == 70


@pytest.mark.parametrize("expected", [b"7:OK dane,", REPLY.lower(), REPLY[:-1] + b";", REPLY[1:]])
def test_a_reply_that_differs_from_the_expected_one_ends_the_measurement(
    reference: tuple[str, int], expected: bytes
) -> None:
    with pytest.raises(Wrong):
        drive(reference, 1, iter([Question(netstring("postfix", "example.com"), expected)]))


def test_a_figure_says_whether_its_target_is_reached() -> None:
    assert Figure("rate", 5.0, "/s", 5.0).reached
    assert not Figure("rate", 4.9, "/s", 5.0).reached
    assert not Figure("memory", 5.1, "MiB", 5.0, at_most=True).reached
    assert Figure("rate", 1.0, "/s").reached is None
    assert "MISSED (>= 5)" in as_text(Figure("rate", 4.9, "/s", 5.0))


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (b"\x08_mta-sts\x02p7\x05bench\x04test\x00\x00\x10\x00\x01", 1),
        (b"\x08_mta-sts\x02d7\x05bench\x04test\x00\x00\x10\x00\x01", 0),
        (b"\x08_mta-sts\x02p8\x05bench\x04test\x00\x00\x10\x00\x01", 0),
        (b"\x07mta-sts\x02p7\x05bench\x04test\x00\x00\x01\x00\x01", 1),
        (b"\x05_smtp\x04_tls\x02d7\x01r\x05bench\x04test\x00\x00\x10\x00\x01", 1),
        (b"\x02d7\x05bench\x04test\x00\x00\x0f\x00\x01", 1),
    ],
)
def test_the_stand_in_for_a_name_server_knows_the_same_names(question: bytes, answers: int) -> None:
    reply = answer(b"\0\1\1\0\0\1\0\0\0\0\0\0" + question, 8)
    assert reply[6:8] == answers.to_bytes(2, "big")
