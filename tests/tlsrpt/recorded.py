"""Datagrams of real Postfix with real libtlsrpt; see tests/data/tlsrpt-datagrams/README.md."""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RECORDED", "Recorded", "recorded"]

_FOLDER = Path(__file__).parents[1] / "data" / "tlsrpt-datagrams"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One datagram and its context: file name, version of Postfix, and the mail host's behaviour."""

    file: str
    postfix: str
    scenario: str
    datagram: bytes


def _read(path: Path) -> list[Recorded]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Recorded(path.stem, line["postfix"], line["scenario"], line["datagram"].encode()) for line in lines]


RECORDED = [found for path in sorted(_FOLDER.glob("*.jsonl")) for found in _read(path)]


def recorded(file: str, scenario: str) -> list[bytes]:
    """Return the datagrams of one scenario of one file."""
    return [found.datagram for found in RECORDED if (found.file, found.scenario) == (file, scenario)]
