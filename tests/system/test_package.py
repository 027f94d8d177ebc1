"""The life cycle of the Debian package on a booted Debian 13. The tests run in this order."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.interop.postfix import eventually
from tests.system.package import run_in_build_tree
from tests.system.scene import LOOKUP_SOCKET, SOCKETS, Scene
from tests.system.steady_load import SteadyLoad

pytestmark = pytest.mark.timeout(2400)

SERVICE = "mtasts-daemon.service"
OPTIONAL = tuple(f"mtasts-daemon-{name}.socket" for name in ("tcp", "tlsrpt", "lmtp", "public"))
ALLOWED_NETWORK = 'https: {allow_addresses: ["127.0.0.0/8"]}\n'
RATE = 10_200.0
"""Lookups per second: 10,000, and a margin for the end of the load, when none are sent."""


def all_active(scene: Scene) -> bool:
    return set(scene.active(SERVICE, *SOCKETS).values()) == {"active"}


# -- the package -------------------------------------------------------------------------------------------


def test_lintian_is_silent_about_the_package(scene: Scene) -> None:
    folder = scene.package.parent.parent
    log = folder / "lintian.log"
    changes = f"first/{scene.package.name.replace('_all.deb', '_amd64.changes')}"
    command = ["lintian", "--pedantic", "--display-info", "--fail-on", "error,warning,info,pedantic", changes]
    assert run_in_build_tree(folder, *command, log=log) == 0, log.read_text()


# -- installation ------------------------------------------------------------------------------------------


def test_apt_installs_the_package_and_it_runs_unconfigured(scene: Scene) -> None:
    scene.prepare()
    scene.file("/root/first.deb").write_bytes(scene.package.read_bytes())
    scene.file("/root/second.deb").write_bytes(scene.newer_package.read_bytes())
    scene.machine.run("apt-get", "install", "--yes", "/root/first.deb")
    assert all_active(scene)
    assert scene.machine.attempt("systemctl", "--failed", "--no-legend") == (0, "")
    assert scene.postmap("[192.0.2.1]") == ""
    assert "mtasts-daemon 1." in scene.machine.run("mtasts-daemon", "--version")


def test_installed_tests_of_the_package_pass(scene: Scene) -> None:
    for name in ("units", "postmap"):
        script = scene.package.parent.parent / "source" / "packaging" / "debian" / "tests" / name
        scene.file(f"/root/{name}").write_text(script.read_text())
        scene.machine.run("sh", f"/root/{name}")
    example = "/usr/share/doc/mtasts-daemon/examples/config.example.yml"
    scene.machine.run("mtasts-daemon", "check-config", "-c", example)


def test_state_is_private_and_only_postfix_may_look_up(scene: Scene) -> None:
    state = scene.file("/var/lib/mtasts-daemon")
    assert state.stat().st_mode & 0o777 == 0o750
    node = scene.file(LOOKUP_SOCKET).stat()
    assert (node.st_mode & 0o777, node.st_uid) == (0o660, 0)
    assert scene.machine.run("stat", "--format=%G", LOOKUP_SOCKET).strip() == "postfix"


def test_setup_apply_writes_main_cf_and_undo_restores_every_byte(scene: Scene) -> None:
    main_cf = scene.file("/etc/postfix/main.cf")
    before = main_cf.read_bytes()
    shown = scene.machine.run("mtastsctl", "setup", "--apply", "--yes")
    assert "+ smtp_tls_policy_maps = socketmap:unix:run/mtasts/lookup.sock:postfix-tlsrpt" in shown
    assert scene.machine.attempt("mtastsctl", "setup")[0] == 0
    scene.machine.run("mtastsctl", "setup", "--undo", "--yes")
    assert main_cf.read_bytes() == before
    scene.machine.run("mtastsctl", "setup", "--apply", "--yes")
    scene.machine.run("systemctl", "reload", "postfix")


# -- use ---------------------------------------------------------------------------------------------------


def test_mail_goes_to_the_listed_exchanger_only(scene: Scene) -> None:
    scene.configure(ALLOWED_NETWORK)
    scene.machine.run("systemctl", "reload", SERVICE)
    world = scene.world
    good, injected = world.exchanger("mx.good.example"), world.exchanger("mx.injected.example")
    world.send_mail_for("good.example", good)
    world.publish("good.example", "enforce", ["mx.good.example"])
    world.send_mail_for("injected.example", injected)
    world.publish("injected.example", "enforce", ["mx.good.example"])
    assert scene.send("user@good.example") == "sent"
    assert scene.send("user@injected.example") == "deferred"
    assert scene.postmap("good.example") == "secure match=mx.good.example servername=hostname"


def test_reload_rejects_a_bad_configuration_and_keeps_the_old(scene: Scene) -> None:
    scene.configure("dns: {timeout: 3 parsecs}\n", "bad.yml")
    code, output = scene.machine.attempt("systemctl", "reload", SERVICE)
    assert code != 0, output
    assert "3 parsecs" in scene.machine.journal(SERVICE)
    assert scene.postmap("good.example").startswith("secure ")
    scene.configure("", "bad.yml")
    scene.machine.run("systemctl", "reload", SERVICE)


# -- the units ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "units",
    [[SERVICE], [SOCKETS[0]], [SOCKETS[0], SERVICE], [SOCKETS[1], SERVICE, SOCKETS[0]], [*SOCKETS]],
    ids=lambda units: "+".join(unit.split(".")[0].removeprefix("mtasts-") + "." + unit.split(".")[1] for unit in units),
)
def test_restarting_sockets_with_or_without_the_service_works(scene: Scene, units: list[str]) -> None:
    for _ in range(5):
        scene.machine.run("systemctl", "restart", *units)
    eventually(lambda: all_active(scene), f"all units after restarts of {units}")
    assert scene.postmap("good.example").startswith("secure ")


def test_bad_configuration_at_a_restart_leaves_the_sockets_open(scene: Scene) -> None:
    scene.configure("nonsense: true\n", "bad.yml")
    assert scene.machine.attempt("systemctl", "restart", SERVICE)[0] != 0
    waiting = subprocess.Popen(
        scene.machine.command("postmap", "-q", "good.example", f"socketmap:unix:{LOOKUP_SOCKET}:postfix"),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: int(scene.machine.unit(SERVICE, "NRestarts")) >= 3, "three automatic restarts")
    assert set(scene.active(*SOCKETS).values()) == {"active"}
    scene.configure("", "bad.yml")
    output, _ = waiting.communicate(timeout=30)
    assert output.startswith("secure "), "a lookup that waited is answered once the configuration is valid"


def test_masked_socket_stays_closed_and_the_other_works(scene: Scene) -> None:
    scene.machine.run("systemctl", "mask", "--now", SOCKETS[0])
    scene.machine.run("systemctl", "restart", SERVICE)
    assert scene.active(SERVICE, *SOCKETS) == {SERVICE: "active", SOCKETS[0]: "inactive", SOCKETS[1]: "active"}
    assert ":8461" not in scene.machine.run("ss", "-lnt")
    assert scene.postmap("good.example").startswith("secure ")
    scene.machine.run("systemctl", "unmask", SOCKETS[0])
    scene.machine.run("systemctl", "restart", SERVICE)
    assert all_active(scene)


def test_optional_sockets_open_with_a_restart_of_the_service(scene: Scene) -> None:
    # The fake policy host has port 443 of another address.
    drop_in = scene.file("/etc/systemd/system/mtasts-daemon-public.socket.d/address.conf")
    drop_in.parent.mkdir()
    drop_in.write_text("[Socket]\nListenStream=\nListenStream=127.0.0.3:443\n")
    scene.machine.run("systemctl", "daemon-reload")
    scene.machine.run("systemctl", "enable", *OPTIONAL)
    scene.machine.run("systemctl", "restart", SERVICE)
    assert set(scene.active(*OPTIONAL).values()) == {"active"}
    eventually(lambda: "tcp_table:127.0.0.1:8462" in scene.machine.journal(SERVICE), "tcp_table")
    eventually(lambda: "public-listening" in scene.machine.journal(SERVICE), "the public listener")
    scene.configure('receive: {own_domains: ["own.example"]}\n', "receive.yml")
    scene.machine.run("systemctl", "reload", SERVICE)
    eventually(lambda: "tlsrpt-receiver-listening" in scene.machine.journal(SERVICE), "LMTP on the passed socket")
    lmtp = scene.file("/var/spool/postfix/run/tlsrpt-receive/lmtp.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(lmtp))
        assert client.recv(100).startswith(b"220 ")
    scene.configure("", "receive.yml")
    scene.machine.run("systemctl", "reload", SERVICE)
    assert lmtp.is_socket(), "the daemon does not remove a socket of systemd's"
    scene.machine.run("systemctl", "restart", OPTIONAL[1])
    eventually(lambda: all_active(scene), "the service after a restart of a socket")
    scene.machine.run("systemctl", "disable", *OPTIONAL)
    scene.machine.run("systemctl", "stop", *OPTIONAL)
    scene.machine.run("systemctl", "restart", SERVICE)
    assert set(scene.active(*OPTIONAL).values()) == {"inactive"}
    shutil.rmtree(drop_in.parent)


# -- restarts and upgrades under load --------------------------------------------------------------------------


def expected_replies(scene: Scene, domains: int) -> dict[bytes, bytes]:
    """Publish policies, wait until they are fetched, and return the reply to each request."""
    replies = {}
    for number in range(domains):
        domain = f"d{number}.load.example"
        scene.world.send_mail_for(domain)
        scene.world.publish(domain, "enforce", [f"mx.{domain}"])
        reply = f"secure match=mx.{domain} servername=hostname"
        scene.comes_to_answer(domain, reply)
        request, text = f"postfix {domain}".encode(), f"OK {reply}".encode()
        replies[b"%d:%b," % (len(request), request)] = b"%d:%b," % (len(text), text)
    return replies


@contextlib.contextmanager
def steady_load(scene: Scene) -> Iterator[SteadyLoad]:
    load = SteadyLoad(scene.file(LOOKUP_SOCKET), expected_replies(scene, 20), RATE)
    with load:
        time.sleep(2)
        yield load
        time.sleep(2)
    print(
        f"{load.answered:,} lookups in {load.seconds:.1f} s, {load.answered / (load.seconds - load.paused):,.0f}/s "
        f"outside of pauses of {load.paused:.1f} s; "
        f"lost {load.lost}, wrong {len(load.wrong)}, longest {load.longest:.2f} s"
    )


def test_three_restarts_and_an_upgrade_lose_no_lookup(scene: Scene) -> None:
    sockets = scene.invocations()
    with steady_load(scene) as load:
        for _ in range(3):
            scene.machine.run("systemctl", "restart", SERVICE)
            time.sleep(1)
        scene.machine.run("apt-get", "install", "--yes", "/root/second.deb")
    assert load.lost == 0
    assert load.wrong == []
    assert scene.invocations() == sockets, "an upgrade does not restart the sockets"
    assert all_active(scene)
    assert "-2" in scene.machine.run("dpkg-query", "--show", "--showformat=${Version}", "mtasts-daemon")


def test_sigkill_loses_no_lookup(scene: Scene) -> None:
    with steady_load(scene) as load:
        scene.machine.run("systemctl", "kill", "--signal=KILL", SERVICE)
        eventually(lambda: all_active(scene), "the service after SIGKILL")
    assert load.lost == 0
    assert load.wrong == []


# -- damage ----------------------------------------------------------------------------------------------------


def test_full_disk_stops_no_lookup(scene: Scene) -> None:
    state = "/var/lib/mtasts-daemon"
    scene.machine.run("systemctl", "stop", SERVICE)
    scene.machine.run("cp", "-a", state, "/root/state")
    scene.machine.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", state)
    scene.machine.run("sh", "-c", f"cp -a /root/state/. {state}/ && chown _mtasts:_mtasts {state} && chmod 750 {state}")
    scene.machine.attempt("dd", "if=/dev/zero", f"of={state}/filler", "bs=64k")
    scene.machine.run("systemctl", "start", SERVICE)
    assert scene.postmap("good.example").startswith("secure "), "from the store, which can still be read"
    scene.world.send_mail_for("disk.example")
    scene.world.publish("disk.example", "enforce", ["mx.disk.example"])
    scene.comes_to_answer("disk.example", "secure ")
    scene.machine.run("rm", f"{state}/filler")
    scene.machine.run("systemctl", "stop", SERVICE)
    scene.machine.run("umount", state)
    scene.machine.run("systemctl", "start", SERVICE)


def test_read_only_var_stops_no_lookup(scene: Scene) -> None:
    state = "/var/lib/mtasts-daemon"
    scene.machine.run("systemctl", "stop", SERVICE)
    scene.machine.run("mount", "--bind", state, state)
    scene.machine.run("mount", "-o", "remount,ro,bind", state)
    scene.machine.run("systemctl", "start", SERVICE)
    assert scene.postmap("good.example").startswith("secure ")
    scene.machine.run("systemctl", "stop", SERVICE)
    scene.machine.run("umount", state)
    scene.machine.run("systemctl", "start", SERVICE)


def test_reboot_without_a_network_answers_from_the_cache(scene: Scene) -> None:
    assert scene.postmap("good.example").startswith("secure ")
    resolver = scene.file("/etc/resolv.conf").read_text()
    scene.file("/etc/resolv.conf").write_text("nameserver 192.0.2.53\n")  # there is no route to it
    scene.machine.power_off()
    scene.machine.boot()
    try:
        assert scene.machine.attempt("systemctl", "--failed", "--no-legend") == (0, "")
        assert all_active(scene)
        assert scene.active("postfix.service") == {"postfix.service": "active"}
        began = time.monotonic()
        assert scene.postmap("good.example").startswith("secure ")
        assert time.monotonic() - began < 4  # and not the 5 s that a lookup may wait
        sockets, postfix = (
            int(scene.machine.unit(unit, "ActiveEnterTimestampMonotonic")) for unit in (SOCKETS[1], "postfix.service")
        )
        assert sockets < postfix, "lookups wait in the socket from before Postfix starts"
    finally:
        scene.file("/etc/resolv.conf").write_text(resolver)


def test_postfix_is_not_delayed_by_the_network(scene: Scene) -> None:
    found = scene.machine.run("systemctl", "list-dependencies", "--after", "--plain", "--all", SERVICE)
    assert not re.search(r"network-online\.target|network\.target|nss-lookup\.target", found), found


# -- removal ---------------------------------------------------------------------------------------------------


def test_removal_warns_that_postfix_still_asks_and_stops_everything(scene: Scene) -> None:
    output = scene.machine.run("apt-get", "remove", "--yes", "mtasts-daemon")
    assert "Postfix still uses this daemon" in output
    assert set(scene.active(SERVICE, *SOCKETS).values()) == {"inactive"}
    assert scene.machine.attempt("pgrep", "-u", "_mtasts")[0] == 1
    assert scene.file("/var/lib/mtasts-daemon/policies.sqlite").exists(), "a removal keeps the cache"


def test_reinstallation_finds_its_cache(scene: Scene) -> None:
    scene.machine.run("apt-get", "install", "--yes", "/root/first.deb")
    assert scene.postmap("good.example").startswith("secure ")
    scene.machine.run("mtastsctl", "setup", "--undo", "--yes")
    scene.machine.run("systemctl", "reload", "postfix")


def test_purge_leaves_nothing(scene: Scene) -> None:
    scene.configure("")  # files that an administrator wrote are kept
    output = scene.machine.run("apt-get", "purge", "--yes", "mtasts-daemon")
    assert "Postfix still uses this daemon" not in output
    found = scene.machine.run("find", "/", "-xdev", "-name", "*mtasts*", "-not", "-path", "/proc/*")
    own = ("/root/", "/var/log/journal", "/var/cache/apt", "/var/lib/apt")
    left = [path for path in found.splitlines() if not path.startswith(own)]
    assert left == []
    assert scene.machine.attempt("getent", "passwd", "_mtasts")[0] != 0
    assert scene.machine.attempt("systemctl", "--failed", "--no-legend") == (0, "")
    assert "mtasts" not in scene.machine.run("postconf", "-n")
