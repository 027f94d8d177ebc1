"""How mtastsctl asks the daemon."""

from typing import Any

import pytest

from mtasts_daemon.cli import admin_client as module
from mtasts_daemon.cli.admin_client import Client, Refused


class Busy(Client):
    """A client of a daemon that too many ask, for so many seconds; it is its own clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__("/nowhere")
        self.now = 0.0
        self._until = seconds

    def _ask_once(self, method: str, path: tuple[str, ...], query: str, body: object) -> Any:
        if self.now < self._until:
            raise Refused(429, {"detail": "others ask without a pause"})
        return {"asked": path}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def asked(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Any:
    client = Busy(seconds)
    monkeypatch.setattr(module, "time", client)
    return client.get("status")


def test_where_too_many_ask_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, 20.0) == {"asked": ("status",)}


def test_it_does_not_ask_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="others ask without a pause") as refused:
        asked(monkeypatch, 3600.0)
    assert refused.value.exit_code == 75
