"""A bug in the command of pipe(8) must not make Postfix bounce the report."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.tlsrpt.receive import intake


def test_bug_defers_the_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: Any, **_more: Any) -> Any:
        raise ZeroDivisionError

    file = tmp_path / "config.yml"
    file.write_text(
        json.dumps({"receive": {"own_domains": ["example.com"], "database": str(tmp_path / "received.sqlite")}})
    )
    monkeypatch.setattr(intake, "read_mail", broken)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: report\n\n")))
    assert ctl_main(["tlsrpt", "receive", "-c", str(file)]) == os.EX_TEMPFAIL
    assert "4.3.0 internal error: ZeroDivisionError" in capsys.readouterr().err
