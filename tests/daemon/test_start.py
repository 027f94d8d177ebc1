"""The start of the daemon: early signals, internal errors, and resolvers that hang."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from mtasts_daemon.store.lock import StoreLock

ROOT = Path(__file__).parents[2]

# The program's main function with an additional event during its start.
PRELUDE = """
import os, signal, sys
import mtasts_daemon.config, mtasts_daemon.daemon.app
from mtasts_daemon.cli import main as cli

def before(place, name, happens):
    then = getattr(place, name)
    def both(*args, **kwargs):
        happens()
        return then(*args, **kwargs)
    setattr(place, name, both)

def send(number):
    return lambda: os.kill(os.getpid(), number)

def fail():
    raise KeyError("a mistake\\n\\x1b[2J")

read = mtasts_daemon.config, "load_with_origins"
store = mtasts_daemon.daemon.app, "open_store"
ready = mtasts_daemon.daemon.app.Daemon, "_log_dane"
"""


def start(folder: Path, extra: str, log: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """One run of the daemon; the test must stop it."""
    config = folder / "config.yml"
    settings = {
        "listen": [f"socketmap:unix:{folder}/lookup.sock"],
        "store": {"path": f"{folder}/policies.sqlite"},
        "dns": {"resolvers": ["127.0.0.1:1"]},
        "log": log or {},
    }
    config.write_text(yaml.safe_dump(settings))
    script = f"{PRELUDE}\n{extra}\nsys.exit(cli.daemon_main(['serve', '-c', {str(config)!r}]))\n"
    own = ("MTASTS_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "JOURNAL_", "STATE_", "RUNTIME_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: str(number.name))
@pytest.mark.parametrize("moment", ["read", "store"])
def test_early_signal_ends_the_daemon_cleanly(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    ended = start(tmp_path, f"before(*{moment}, send({int(number)}))")
    assert ended.returncode == os.EX_OK, ended.stderr
    assert "ready" not in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "lookup.sock").exists()


# Either is called when the daemon is ready; a reload comes after that.
@pytest.mark.parametrize(("moment", "last"), [("read", "app.Daemon, '_status'"), ("store", "reload, 'log_event'")])
def test_early_sighup_does_not_end_the_daemon(tmp_path: Path, moment: str, last: str) -> None:
    end = f"before(mtasts_daemon.daemon.{last}, send(signal.SIGTERM))"
    ended = start(tmp_path, f"before(*{moment}, send(signal.SIGHUP)); {end}")
    assert ended.returncode == os.EX_OK, ended.stderr
    events = [line.split()[1] for line in ended.stderr.splitlines()]
    assert "ready" in events
    assert moment == "read" or events.index("ready") < events.index("reloaded")


@pytest.mark.parametrize("moment", ["read", "store", "ready"])
@pytest.mark.parametrize("form", ["plain", "json"])
def test_internal_error_at_the_start_is_one_log_line(tmp_path: Path, moment: str, form: str) -> None:
    ended = start(tmp_path, f"before(*{moment}, fail)", {"format": form})
    assert ended.returncode == os.EX_SOFTWARE
    (line,) = [line for line in ended.stderr.splitlines() if "unexpected-error" in line]
    assert line.isprintable() and "please report" in line and "KeyError" in line and "Traceback" in line
    if form == "json" and moment != "read":  # where the configuration has not been read, the form is not known
        assert json.loads(line)["level"] == "error"
    assert not [line for line in ended.stderr.splitlines() if line.startswith("Traceback")]


def test_lookup_is_answered_before_the_parts_that_no_lookup_needs(tmp_path: Path) -> None:
    asks = """
        import importlib, socket
        app, imported = mtasts_daemon.daemon.app, importlib.import_module

        def ask(name):
            assert name not in sys.modules and "mtasts_daemon.admin" not in sys.modules
            print("before", name)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(FOLDER + "/lookup.sock")
                client.sendall(b"19:postfix [192.0.2.1],")
                print(client.recv(100))
            return imported(name)

        app.importlib = type("Importing", (), {"import_module": staticmethod(ask)})
    """
    end = "before(app.Daemon, '_status', send(signal.SIGTERM))"
    ended = start(tmp_path, f"FOLDER = {str(tmp_path)!r}\n{textwrap.dedent(asks)}\n{end}")
    assert ended.returncode == os.EX_OK, ended.stderr
    assert ended.stdout.splitlines() == [
        line
        for name in ("mtasts_daemon.tlsrpt.service", "mtasts_daemon.daemon.late_parts")
        for line in (f"before {name}", "b'9:NOTFOUND ,'")
    ]
    assert "info: ready" in ended.stderr


# -- a second daemon --------------------------------------------------------------------------------------------


def test_daemon_runs_in_memory_if_another_one_holds_the_store(tmp_path: Path) -> None:
    lock = StoreLock()
    assert lock.take(str(tmp_path / "policies.sqlite"))
    # It would wait for the other process, which does not end here.
    at_once = (
        "mtasts_daemon.daemon.app.open_store = functools.partial(mtasts_daemon.daemon.app.open_store, lock_seconds=0)"
    )
    end = "before(mtasts_daemon.daemon.app.Daemon, '_status', send(signal.SIGTERM))"
    ended = start(tmp_path, f"import functools; {at_once}; {end}")
    lock.release()
    assert ended.returncode == os.EX_OK, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "store-" in line]
    assert line.startswith("warning: store-in-memory ") and "another process writes it" in line
    assert "info: ready" in ended.stderr
    assert not (tmp_path / "policies.sqlite").exists()


_WITHOUT = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("psycopg", "uvloop")))  # as if they were not installed
import mtasts_daemon
for module in pkgutil.walk_packages(mtasts_daemon.__path__, "mtasts_daemon."):
    if module.name not in ("mtasts_daemon.__main__", "mtasts_daemon.tlsrpt.receive.postgresql_backend"):
        importlib.import_module(module.name)
"""


def test_no_module_needs_an_optional_package_at_import() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- main.cf -----------------------------------------------------------------------------------------------


def test_main_cf_that_changes_while_the_daemon_runs_is_taken_over(tmp_path: Path) -> None:
    changes = """
        app = mtasts_daemon.daemon.app
        contents = iter(["", "smtp_tls_security_level = may", "smtp_tls_security_level = encrypt"])
        levels = []
        app._MAIN_CF_EVERY = 0.0
        app.read_main_cf = lambda: next(contents, "smtp_tls_security_level = encrypt")

        configure = app.PolicyService.configure

        def note(service, settings):
            configure(service, settings)
            levels.append(service.settings.zones["postfix-tlsrpt"].default_level)
            if levels[-1] == "encrypt":
                print("levels", *levels)
                os.kill(os.getpid(), signal.SIGTERM)

        app.PolicyService.configure = note
    """
    ended = start(tmp_path, textwrap.dedent(changes))
    assert ended.returncode == os.EX_OK, ended.stderr
    assert ended.stdout.split()[0] == "levels"
    assert ended.stdout.split()[-1] == "encrypt"
