"""The daemon on uvloop, next to policy hosts and resolvers that fail."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.admin import Admin
from tests.fakes.ca import Ca
from tests.fakes.https import Behaviour, Manner
from tests.fakes.process import Internet, Process

pytest.importorskip("uvloop")

HOSTILE = [Manner.RESET, Manner.CLOSE, Manner.CLOSE_TLS, Manner.RESET_TLS, Manner.CLOSE_MID_BODY]


@contextmanager
def daemon(folder: Path, internet: Internet) -> Iterator[Process]:
    with Process(folder / "daemon", internet, loop="uvloop") as process:
        yield process


def test_policy_hosts_that_reset_cost_no_lookup_its_policy(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        hostile = {f"hostile{n}.example": Behaviour(manner=HOSTILE[n % len(HOSTILE)]) for n in range(40)}
        internet.publish_all({f"honest{n}.example": Behaviour() for n in range(40)} | hostile)
        with daemon(tmp_path, internet) as process:
            replies: dict[str, str] = {}

            def ask(kind: str, numbers: range) -> None:
                with process.client() as client:
                    for number in numbers:
                        client.ask(f"{kind}{number}.example")
                        replies[f"{kind}{number}"] = client.reply()

            threads = [
                threading.Thread(target=ask, args=(kind, range(start, 40, 4)))
                for kind in ("honest", "hostile")
                for start in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(replies) == 80
            assert {replies[f"honest{number}"][:9] for number in range(40)} == {"OK secure"}
            assert {replies[f"hostile{number}"].strip() for number in range(40)} == {"NOTFOUND"}
            assert process.lines("internal-error|task-failed|used by transport") == []


def test_restart_of_the_resolver_costs_no_policy(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        internet.publish("new.example")
        with daemon(tmp_path, internet) as process:
            internet.stop_dns()
            restart = threading.Timer(0.7, internet.start_dns)
            restart.start()
            assert process.lookup("new.example").startswith("OK secure")
            restart.join()


def test_lookups_do_not_wait_for_a_resolver_that_is_down(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        internet.publish("new.example")
        with daemon(tmp_path, internet) as process:
            internet.stop_dns()
            process.lookup("first.example")
            process.logged("resolver-unreachable")
            started = time.monotonic()
            for number in range(20):
                assert process.lookup(f"other{number}.example").strip() == "NOTFOUND"
            assert time.monotonic() - started < 20  # and not twenty timeouts of a resolver
            internet.start_dns()
            process.logged("resolver-recovered")
            assert process.lookup("new.example").startswith("OK secure")


def test_reload_reads_a_changed_ca_file(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        for name in ("before.example", "without.example", "after.example"):
            internet.publish(name)
        bundle, other = tmp_path / "bundle.pem", Ca(tmp_path / "other")
        shutil.copy(internet.ca.pem, bundle)
        settings = {"https": internet.settings["https"] | {"ca_file": str(bundle)}}
        with Process(tmp_path / "daemon", internet, settings, loop="uvloop") as process:
            assert process.lookup("before.example").startswith("OK secure")
            shutil.copy(other.pem, bundle)
            process.reload()
            assert process.lookup("without.example").strip() == "NOTFOUND"
            shutil.copy(internet.ca.pem, bundle)
            process.reload()
            assert process.lookup("after.example").startswith("OK secure")


def test_start_without_its_ca_file_and_token_answers_from_stored_policies(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        for name in ("before.example", "without.example", "after.example"):
            internet.publish(name)
        bundle, admin = tmp_path / "bundle.pem", tmp_path / "admin.sock"
        shutil.copy(internet.ca.pem, bundle)
        token = {"socket": str(admin), "listen": "127.0.0.1:0", "token_file": str(tmp_path / "token")}
        settings = {"https": internet.settings["https"] | {"ca_file": str(bundle)}, "admin": {"socket": str(admin)}}
        with Process(tmp_path / "daemon", internet, settings, loop="uvloop") as process:
            assert process.lookup("before.example").startswith("OK secure")
            process.logged("admin-listening")
            process.signal(signal.SIGTERM)
            assert process.ended() == os.EX_OK
            bundle.unlink()
            process.configure(admin=token)
            process.start()
            assert process.lookup("before.example").startswith("OK secure")
            assert process.lookup("without.example").strip() == "NOTFOUND"
            assert "bundle.pem: No such file" in process.logged("ca-certificates-unreadable")[0]
            assert "token cannot be read" in process.logged("part-failed part=admin")[0]
            process.logged("admin-listening", 2)
            answer = Admin(admin).get("/readyz")
            assert answer.status == 503
            assert b"bundle.pem" in answer.body and b"token cannot be read" in answer.body
            shutil.copy(internet.ca.pem, bundle)
            process.configure(admin={"socket": str(admin)})
            process.reload()
            assert process.lookup("after.example").startswith("OK secure")
