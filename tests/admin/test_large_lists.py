"""Long lists are made on another thread than the lookups."""

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

from mtasts_daemon.admin.received import overview_text
from mtasts_daemon.config.sections.publish import PublishedDomainSettings
from mtasts_daemon.publish.operations import PublishOperations
from mtasts_daemon.publish.registry import PublishedDomain
from mtasts_daemon.publish.state import DomainState
from mtasts_daemon.tlsrpt.receive.totals import DomainTotals


def test_overview_of_received_reports_is_json() -> None:
    totals = [DomainTotals(f"d{number}.example", 2, 3, 1, "2026-11-01", "2026-11-02") for number in range(2)]
    found = json.loads(overview_text({"receiving": True, "alerts": []}, totals))
    assert found["receiving"] is True
    assert found["domains"][1] == {
        "domain": "d1.example", "reports": 2, "successful": 3, "failed": 1, "first_day": "2026-11-01",
        "last_day": "2026-11-02", "failed_share": 0.25,
    }  # fmt: skip
    assert json.loads(overview_text({"receiving": True}, []))["domains"] == []


async def test_page_of_many_published_domains_leaves_the_loop_to_lookups() -> None:
    settings = PublishedDomainSettings.model_validate({"mode": "testing", "mx": ["mx.example.com"]})
    names = [f"domain{number}.example" for number in range(3)]
    threads: set[int] = set()

    class Noting(PublishedDomain):
        def __getattribute__(self, name: str) -> Any:
            """Record the thread on which the domain is examined."""
            if name == "findings":
                threads.add(threading.get_ident())
            return super().__getattribute__(name)

    known = {name: Noting(DomainState(name), settings) for name in names}
    service: Any = SimpleNamespace(
        registry=SimpleNamespace(domains=known),
        clock=SimpleNamespace(wall=time.time),
        removal_progress=lambda _one: None,
        wall_of=lambda moment: moment,
    )
    page = await PublishOperations(service, None).domains("", 2)  # type: ignore[arg-type]
    assert [one["domain"] for one in page["domains"]] == names[:2]
    assert page["next"] == names[1]
    threads.clear()
    page = await PublishOperations(service, None).domains("", 2, attention=True)  # type: ignore[arg-type]
    assert page["domains"] == [] or page["next"] is None
    assert threads and threading.get_ident() not in threads
