"""The daemon as a process, next to faults that once cost learned policies."""

import asyncio
import resource
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from mtasts_daemon.policy.mtasts import MAX_BODY
from mtasts_daemon.store.policy_store import open_store
from tests.fakes.admin import Admin
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process
from tests.fakes.store import policy_entry

LABEL = "x" * 60
LARGE = b"version: STSv1\nmode: enforce\nmax_age: 604800\n" + b"".join(
    b"mx: m%d.%b.%b\n" % (number, LABEL.encode(), LABEL.encode()) for number in range(490)
)


async def test_nothing_is_refreshed_while_the_disk_is_full(tmp_path: Path) -> None:
    due, now = 200, time.time()
    folder = tmp_path / "daemon"
    folder.mkdir()
    entry = policy_entry("x.example", at=now - 90_000, last_used=now)
    store = await open_store(folder / "policies.sqlite", now=now)
    for number in range(due):
        await store.put(replace(entry, domain=f"d{number}.example"), now - 60)
    await store.close()
    with Internet(tmp_path / "internet") as internet:
        slow = Behaviour(delay=3.0)  # the disk is full before the first of them answers
        internet.publish_all({f"d{number}.example": slow for number in range(due)})
        with Process(folder, internet) as daemon:
            assert daemon.process is not None
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            daemon.logged("store-write-failed")
            await asyncio.sleep(4)  # longer than a fetch
            fetched = Counter(request.sni for request in internet.host.requests)
            assert 0 < len(fetched) <= 48 and set(fetched.values()) == {1}


def test_burst_of_large_policies_takes_no_policy_from_other_domains(tmp_path: Path) -> None:
    assert 60_000 < len(LARGE) <= MAX_BODY
    hostile, banks = [f"h{n}.hostile.example" for n in range(70)], [f"bank{n}.example" for n in range(5)]
    with Internet(tmp_path / "internet") as internet:
        internet.publish_all(dict.fromkeys(hostile, Behaviour(body=LARGE)) | dict.fromkeys(banks, Behaviour()))
        internet.publish("new.example")
        for domain in hostile:  # the policies stay in use until MX is answered
            internet.records(domain, "MX 10 mx.hostile.example.", "! MX delay 2.5")
        settings = {"lookup": {"memory_bytes": "1MiB"}, "admin": {"socket": str(tmp_path / "admin.sock")}}
        with Process(tmp_path / "daemon", internet, settings) as daemon:
            daemon.logged("admin-listening")
            assert {daemon.lookup(bank)[:9] for bank in banks} == {"OK secure"}
            burst = [threading.Thread(target=daemon.lookup, args=(domain,)) for domain in hostile]
            for thread in burst:
                thread.start()
            while any(thread.is_alive() for thread in burst):
                assert {daemon.lookup(bank)[:9] for bank in banks} == {"OK secure"}
            assert {daemon.lookup(bank)[:9] for bank in banks} == {"OK secure"}
            assert daemon.lookup("new.example").startswith("OK secure")
            assert Admin(tmp_path / "admin.sock").get("/readyz").status == 200
            assert daemon.lines("internal-error|task-failed|Traceback") == []


async def test_refreshes_of_large_policies_from_slow_hosts_leave_lookups_answered(tmp_path: Path) -> None:
    hostile, now = [f"h{number}.hostile.example" for number in range(60)], time.time()
    folder = tmp_path / "daemon"
    folder.mkdir()
    entry = policy_entry("x.example", at=now - 90_000, last_used=now, body=LARGE)
    store = await open_store(folder / "policies.sqlite", now=now)
    await asyncio.gather(*(store.put(replace(entry, domain=domain), now - 60) for domain in hostile))
    await store.put(policy_entry("bank.example", at=now, last_used=now), now + 86_400)
    await store.close()
    admin = Admin(tmp_path / "admin.sock")
    with Internet(tmp_path / "internet") as internet:
        internet.publish_all(dict.fromkeys(hostile, Behaviour(body=LARGE, delay=0.5)))
        internet.publish("other.example")
        with Process(folder, internet, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as daemon:
            daemon.logged("admin-listening")
            rounds = 0
            while rounds < 2 or admin.get("/api/v1/status").json["refresher"]["refreshes"] < len(hostile):
                rounds += 1
                assert daemon.lookup("bank.example").startswith("OK secure ")
                assert daemon.lookup(f"new{rounds}.example").strip() == "NOTFOUND"
                assert admin.get("/readyz").status == 200
            assert daemon.lookup("other.example").startswith("OK secure ")
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 0
            daemon.start()
            daemon.logged("admin-listening", 2)
            assert {daemon.lookup(domain)[:9] for domain in ("bank.example", "other.example", *hostile)} == {
                "OK secure"
            }
            assert daemon.lookup("new.example").strip() == "NOTFOUND"
            assert admin.get("/readyz").status == 200
            assert daemon.lines("internal-error|task-failed|Traceback") == []


def test_learned_policies_answer_at_once_with_dane_always_and_a_silent_resolver(tmp_path: Path) -> None:
    domains = [f"d{number}.example" for number in range(20)]
    with Internet(tmp_path / "internet") as internet:
        internet.dns.authenticated = True
        internet.publish_all(dict.fromkeys(domains, Behaviour()))
        settings = {"zones": {"dane": {"dane": "always"}, "plain": {"dane": "off"}}}
        with Process(tmp_path / "daemon", internet, settings) as daemon:
            daemon.logged("dnssec-validated")
            assert {daemon.lookup(domain, "plain")[:9] for domain in domains} == {"OK secure"}
            for name in ("*", "."):
                internet.records(name, "! * silent")
            daemon.lookup("other.example", "plain")
            daemon.logged("resolver-unreachable")
            begun = time.monotonic()
            # DANE was never asked for, so there is no last verdict.
            assert {daemon.lookup(domain, "dane")[:9] for domain in domains} == {"OK secure"}
            assert {daemon.lookup(f"new-{domain}", "dane").strip() for domain in domains} == {"NOTFOUND"}
            assert time.monotonic() - begun < 15  # if each waited: two minutes
