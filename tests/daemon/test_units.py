"""The systemd units: settings that the daemon and Postfix need, and systemd-analyze verify."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtasts_daemon.daemon.systemd import inherited_names

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "mtasts-daemon.service"
SOCKETS = sorted(UNITS.glob("*.socket"))

needs_systemd_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


def settings(unit: Path) -> dict[str, list[str]]:
    """Every value of each key; keys do not repeat between the sections of our units."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, text = line.partition("=")
            found.setdefault(key, []).append(text)
    return found


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text)
    return int(text[:-1])


def test_service_notifies_systemd_and_restarts_on_failure() -> None:
    service = settings(SERVICE)
    assert service["Type"] == ["notify"]
    assert service["ExecStart"] == ["/usr/bin/mtasts-daemon serve"]
    assert service["Restart"] == ["on-failure"]
    assert seconds(service["WatchdogSec"][0]) > 0
    assert seconds(service["TimeoutStopSec"][0]) > 5  # a stop takes up to 5 s


_DAEMON = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
print(flush=True)
sys.stdin.read()
sys.exit(5 if signal.SIGHUP in signal.sigpending() else 1)
"""


@pytest.mark.parametrize(("code", "ends", "hung_up"), [(0, 0, 0), (78, 78, 0), (69, 0, 1)])
def test_reload_fails_for_bad_configuration_or_falls_back_to_sighup(
    tmp_path: Path, code: int, ends: int, hung_up: int
) -> None:
    [line] = settings(SERVICE)["ExecReload"]
    command = shlex.split(line)
    assert command[:2] == ["/bin/sh", "-c"]
    asks = tmp_path / "mtastsctl"
    asks.write_text(f"#!/bin/sh\nexit {code}\n")
    asks.chmod(0o755)
    daemon = subprocess.Popen([sys.executable, "-ISc", _DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()  # the signal is blocked
        # As in systemd.service(5): $MAINPID is replaced, and $$ is a dollar.
        script = command[2].replace("/usr/bin/mtastsctl", str(asks))
        script = script.replace("$MAINPID", str(daemon.pid)).replace("$$", "$")
        assert subprocess.run([*command[:2], script], timeout=240).returncode == ends
        daemon.communicate(timeout=240)
    assert daemon.returncode == (5 if hung_up else 1)


def test_service_start_is_never_limited() -> None:
    # When a start limit is reached, systemd closes the sockets of the service too.
    assert settings(SERVICE)["StartLimitIntervalSec"] == ["0"]
    # After exit status 78 too: otherwise each waiting lookup starts it again, without RestartSec in between.
    assert "RestartPreventExitStatus" not in settings(SERVICE)
    assert seconds(settings(SERVICE)["RestartSec"][0]) >= 2


@pytest.mark.parametrize("unit", SOCKETS, ids=lambda unit: unit.name)
def test_socket_start_is_never_limited(unit: Path) -> None:
    socket = settings(unit)
    assert socket["StartLimitIntervalSec"] == socket["TriggerLimitIntervalSec"] == ["0"]


def test_service_waits_for_no_network() -> None:
    # With Before=postfix.service Postfix would wait, too.
    assert not {"After", "Wants", "Requires"} & settings(SERVICE).keys()


def test_restarting_a_socket_restarts_the_service() -> None:
    units = " ".join(settings(SERVICE)["PartOf"]).split()
    assert sorted(units) == [unit.name for unit in SOCKETS]


def test_tcp_sockets_may_be_bound_while_a_closed_one_lingers() -> None:
    for unit in SOCKETS:
        if not settings(unit).get("ListenStream", settings(unit).get("ListenDatagram", [""]))[0].startswith("/"):
            assert settings(unit)["ReusePort"] == ["yes"], unit.name


def test_service_starts_before_postfix_of_every_release() -> None:
    assert {"postfix.service", "postfix@-.service"} <= set(settings(SERVICE)["Before"][0].split())


def test_the_service_pulls_in_the_two_sockets_of_a_usual_host() -> None:
    wanted = "mtasts-daemon.socket mtasts-daemon-postfix.socket"
    assert settings(SERVICE)["Sockets"] == [wanted]
    # A package would restart the sockets together with the service at each upgrade.
    assert "Also" not in settings(SERVICE)
    assert set(wanted.split()) <= {socket.name for socket in SOCKETS}


@pytest.mark.parametrize("unit", SOCKETS, ids=lambda unit: unit.name)
def test_each_socket_unit_has_a_known_descriptor_name(unit: Path) -> None:
    socket = settings(unit)
    assert socket["Service"] == [SERVICE.name]
    [name] = socket["FileDescriptorName"]
    if "ListenDatagram" in socket:
        assert name.startswith("tlsrpt")
    elif name.startswith(("socketmap", "tcp_table")):
        assert int(socket["Backlog"][0]) >= 4096  # lookups wait there while the service restarts
    else:
        assert name in ("lmtp", "public-https")
    assert inherited_names({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}, 1) == ([name], "")


def test_default_address_is_port_8461_of_loopback() -> None:
    assert settings(UNITS / "mtasts-daemon.socket")["ListenStream"] == ["127.0.0.1:8461"]


def test_the_socket_in_the_queue_directory_is_for_postfix_alone() -> None:
    socket = settings(UNITS / "mtasts-daemon-postfix.socket")
    assert socket["ListenStream"] == ["/var/spool/postfix/run/mtasts/lookup.sock"]
    assert socket["SocketGroup"] == ["postfix"]
    assert socket["SocketMode"] == ["0660"]


def test_tls_results_socket_is_in_the_queue_directory_for_postfix() -> None:
    socket = settings(UNITS / "mtasts-daemon-tlsrpt.socket")
    assert socket["ListenDatagram"] == ["/var/spool/postfix/run/tlsrpt/tlsrpt.sock"]
    assert socket["SocketGroup"] == ["postfix"]
    assert socket["SocketMode"] == ["0660"]


def test_other_sockets_need_no_group_of_postfix() -> None:
    for unit in SOCKETS:
        if "/var/spool/postfix" not in unit.read_text():
            assert not {"SocketUser", "SocketGroup"} & settings(unit).keys()


def test_user_of_the_service_is_the_one_of_sysusers() -> None:
    [line] = [line for line in (UNITS / "mtasts-daemon.sysusers").read_text().splitlines() if not line.startswith("#")]
    kind, name, *_ = line.split()
    assert (kind, [name]) == ("u", settings(SERVICE)["User"])


@needs_systemd_analyze
def test_systemd_analyze_verify_accepts_the_units(tmp_path: Path) -> None:
    for unit in [SERVICE, *SOCKETS]:
        # Neither the program nor kill(1) need be installed where the tests run.
        text = re.sub(r"^(Exec\w+=)\S+", rf"\1{shutil.which('true')}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    # Ignore messages about other units of this host.
    assert not [line for line in found.stderr.splitlines() if "mtasts" in line]
    assert found.returncode == 0, found.stderr


@needs_systemd_analyze
def test_the_sandbox_scores_1_2_or_better() -> None:
    found = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=12", str(SERVICE)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stdout + found.stderr
