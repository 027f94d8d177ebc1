"""A daemon with a status page and real traffic."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.admin import Admin
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

__all__ = ["MARKUP", "World", "world"]

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
"""A hostile text in an invalid policy; no text of a valid policy is shown."""

_DOMAINS = {"enforced.example": "enforce", "tested.example": "testing", "withdrawn.example": "none"}
_TLS_FAILURES = (201, 204, 204)
_TLS_SUCCESSES = 7


def policy(mode: str = "enforce", mx: str = "mail.example.com", more: str = "") -> Behaviour:
    return Behaviour(body=f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 604800\n{more}".encode())


@dataclass
class World:
    """The daemon and its addresses."""

    internet: Internet
    daemon: Process
    api: Admin
    port: int

    @property
    def base(self) -> str:
        """Return the URL of the page."""
        return f"http://127.0.0.1:{self.port}"

    def file(self, name: str) -> str:
        """Return the path of a file of the page."""
        page = self.api.get("/").body.decode()
        return page.partition("/app.js")[0].rpartition('"')[2] + f"/{name}"

    def get(self, path: str) -> Any:
        """GET from the API and return the JSON."""
        return self.api.get(path).json


@contextmanager
def world(folder: Path, *, asked: bool = True, **settings: Any) -> Iterator[World]:
    """A restarted daemon with the policies of its first run and new lookups.

    If not ``asked``, it is in its first run without lookups.
    """
    with Internet(folder / "internet") as internet:
        publish(internet)
        tlsrpt = folder / "tlsrpt.sock"
        own = {"admin": {"listen": "127.0.0.1:0"}, "tlsrpt": {"socket": str(tlsrpt)}}
        with Process(folder / "daemon", internet, own | settings) as daemon:
            if asked:
                live_twice(internet, daemon)
            if "tlsrpt" not in settings:
                send_sessions(tlsrpt)
            port = int(daemon.logged("admin-listening address=127")[0].rpartition("port=")[2])
            yield World(internet, daemon, Admin(("127.0.0.1", port)), port)


def live_twice(internet: Internet, daemon: Process) -> None:
    look_up(daemon)
    daemon.kill()
    # A mismatch is found when a policy is new.
    internet.publish("permits-none.example", behaviour=policy(mx="other.example.net"))
    daemon.log.clear()
    # Stored policies are counted at the start and then once a minute.
    daemon.start()
    look_up(daemon)
    daemon.logged("policy-permits-no-mx-host")


def publish(internet: Internet) -> None:
    for domain, mode in _DOMAINS.items():
        internet.publish(domain, behaviour=policy(mode))
    internet.publish("markup.example", behaviour=policy(more=f"{MARKUP}\n"))
    internet.publish("unavailable.example", behaviour=Behaviour(status=503))
    internet.records("plain.example", "MX 10 mail.example.com.")


def look_up(daemon: Process) -> None:
    names = [*_DOMAINS, "markup.example", "unavailable.example", "permits-none.example"]
    with daemon.client() as client:
        for _ in range(25):
            for name in [*names, "plain.example"]:
                client.ask(name)
                client.reply()


def send_sessions(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for code in (*_TLS_FAILURES, *[None] * _TLS_SUCCESSES):
            failure = {} if code is None else {"t": 1, "failure-details": [{"c": code}]}
            applied = {"policy-type": 9, "f": int(code is not None), **failure}
            event = {"dpv": "1", "d": "enforced.example", "pr": "v=TLSRPTv1; rua=mailto:a@b", "policies": [applied]}
            sock.sendto(json.dumps(event).encode(), str(path))
