"""Make docs/status-page.png: ``python -m tests.admin.screenshot`` (needs Chromium).

A daemon looks up example domains at a local DNS server and policy host. A day of lookups and a month of TLS results,
which a daemon has only after that time, are generated and passed to the page in the format of the API.
"""

import json
import math
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.admin.browser import chromium, visit
from tests.admin.page_world import policy
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

if TYPE_CHECKING:
    from playwright.sync_api import Page

FILE = Path(__file__).parents[2] / "docs" / "status-page.png"
SIZE = {"width": 1280, "height": 1330}
ENFORCED = ("bank", "university", "hospital", "ministry", "insurance", "library", "airline", "museum", "court")
TESTING = ("shop", "newspaper", "theatre")
PLAIN = ("bakery", "garage", "florist", "choir", "rowing", "hotel")
MINUTES = 1440


def publish(internet: Internet) -> None:
    for name in ENFORCED:
        internet.publish(f"{name}.example", behaviour=policy())
    for name in TESTING:
        internet.publish(f"{name}.example", behaviour=policy("testing"))
    for name in PLAIN:
        internet.records(f"{name}.example", "MX 10 mail.example.com.")
    internet.publish("cinema.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
    internet.publish("stadium.example", behaviour=Behaviour(status=503))


def look_up(daemon: Process) -> None:
    names = [*ENFORCED, *TESTING, *PLAIN, "cinema", "stadium", "harbour"]
    with daemon.client() as client:
        for turn in range(60):
            for index, name in enumerate(names):
                if turn % (1 + index % 5) == 0:
                    client.ask(f"{name}.example")
                    client.reply()


def history(now: float) -> dict[str, Any]:
    """Return a day of lookups with a quiet night, a lunch break and one disturbance."""
    at = [round(now) - 60 * (MINUTES - 1 - minute) for minute in range(MINUTES)]
    load = [
        150 + 110 * math.sin(math.pi * (minute - 500) / 720) + 25 * math.sin(minute / 17) for minute in range(MINUTES)
    ]
    secure = [round(value * 0.31) for value in load]
    dane = [round(value * 0.07) for value in load]
    temp = [4 if 1400 < minute < 1408 else 0 for minute in range(MINUTES)]
    none = [round(value * 0.62) for value in load]
    lookups = [sum(counts) for counts in zip(secure, dane, temp, none, strict=True)]
    hits = [round(count * (0.93 + 0.05 * math.sin(minute / 90))) for minute, count in enumerate(lookups)]
    answers = {"secure": secure, "dane-only": dane, "none": none, "temp": temp}
    return {"at": at, "seconds": [60.0] * MINUTES, "lookups": lookups, "hits": hits, "answers": answers}


def serve(page: "Page", path: str, value: object) -> None:
    page.route(
        f"**/api/v1/{path}*",
        lambda route: route.fulfill(body=json.dumps(value), content_type="application/json"),
    )


def tls_results() -> dict[str, Any]:
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=ago)).isoformat() for ago in reversed(range(30))]
    names = [f"{name}.example" for name in ENFORCED[:6]]
    domains: list[dict[str, Any]] = [
        {
            "domain": name,
            "sessions": [80 + 9 * ((day * 5 + index) % 7) for day in range(30)],
            "failed": [(2 + index) if index < 2 and 18 <= day < 22 else 0 for day in range(30)],
        }
        for index, name in enumerate(names)
    ]
    sums: dict[str, list[int]] = {"sessions": [0] * 30, "failed": [0] * 30}
    for domain in domains:
        for key, total in sums.items():
            sums[key] = [before + count for before, count in zip(total, domain[key], strict=True)]
    return {
        "collecting": True,
        "days": days,
        **sums,
        "domains": domains,
        "reasons": [{"reason": "certificate-expired", "counts": sums["failed"]}],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        with Internet(folder / "internet") as internet:
            publish(internet)
            settings = {"admin": {"listen": "127.0.0.1:0"}, "tlsrpt": {"socket": str(folder / "tlsrpt.sock")}}
            with Process(folder / "daemon", internet, settings) as daemon:
                look_up(daemon)
                # Stored policies are counted at the start and then once a minute.
                daemon.kill()
                # A mismatch is found when a policy is new.
                internet.publish("harbour.example", behaviour=policy(mx="mx.harbour.example"))
                daemon.log.clear()
                daemon.start()
                look_up(daemon)
                daemon.logged("policy-permits-no-mx-host")
                line = daemon.logged("admin-listening address=127")[0]
                base = f"http://127.0.0.1:{int(line.rpartition('port=')[2])}"
                with visit(browser, base, viewport=SIZE, color_scheme="light") as found:
                    serve(found.page, "history", history(time.time()))
                    serve(found.page, "tls-results", tls_results())
                    page = found.open()
                    page.click("#range [data-minutes='1440']")
                    FILE.parent.mkdir(exist_ok=True)
                    page.screenshot(path=FILE)


if __name__ == "__main__":
    main()
