"""The real libtlsrpt against the collector: encoding, sizes and bursts.

Skipped if there is neither the library (Debian: libtlsrpt0) nor the tree that the interop tests build.
"""

import ctypes
import ctypes.util
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mtasts_daemon.text import utc_day
from mtasts_daemon.tlsrpt.collect.collector import Collector, SocketSettings
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase, open_database
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.tally import PolicyRows
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.process  # find_library() runs ldconfig

NOW = 1_790_000_000.0
DAY = utc_day(NOW)
_TREES = Path(__file__).parents[3] / ".cache" / "interop"

_POINTER = ctypes.POINTER(ctypes.c_void_p)
_TEXT = ctypes.c_char_p
_FUNCTIONS = {
    "open": (_POINTER, _TEXT),
    "close": (_POINTER,),
    "init_delivery_request": (_POINTER, ctypes.c_void_p, _TEXT, _TEXT),
    "init_policy": (ctypes.c_void_p, ctypes.c_int, _TEXT),
    "add_policy_string": (ctypes.c_void_p, _TEXT),
    "add_mx_host_pattern": (ctypes.c_void_p, _TEXT),
    "add_delivery_request_failure": (ctypes.c_void_p, ctypes.c_int, *[_TEXT] * 6),
    "finish_policy": (ctypes.c_void_p, ctypes.c_int),
    "finish_delivery_request": (_POINTER,),
}


class Library:
    """libtlsrpt, as Postfix uses it."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._calls = {}
        for name, arguments in _FUNCTIONS.items():
            call = self._calls[name] = getattr(library, f"tlsrpt_{name}")
            call.argtypes, call.restype = arguments, ctypes.c_int

    def _call(self, name: str, *arguments: object) -> None:
        status = self._calls[name](*arguments)
        if status:
            raise OSError(status, f"tlsrpt_{name}")

    def report(self, path: str, domain: str, policy: Policy, failure: Sequence[str | None] | None = None) -> None:
        """Send one datagram. Raises ``OSError`` if the library cannot."""
        connection, request = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("open", connection, path.encode())
        try:
            record = f"v=TLSRPTv1; rua=mailto:tls@{domain}"
            self._call("init_delivery_request", request, connection, domain.encode(), record.encode())
            self._call("init_policy", request, int(policy.type), policy.domain.encode())
            for text in policy.strings:
                self._call("add_policy_string", request, text.encode())
            for text in policy.mx_hosts:
                self._call("add_mx_host_pattern", request, text.encode())
            if failure is not None:
                texts = [None if text is None else text.encode() for text in failure]
                self._call("add_delivery_request_failure", request, 205, *texts)
            self._call("finish_policy", request, int(failure is not None))
            self._call("finish_delivery_request", request)
        finally:
            self._calls["close"](connection)


@pytest.fixture(scope="module")
def library() -> Library:
    installed = ctypes.util.find_library("tlsrpt")
    found = [*([installed] if installed else []), *map(str, sorted(_TREES.glob("*/usr/lib/*/libtlsrpt.so.0")))]
    for path in found:
        try:
            return Library(path)
        except OSError:  # built for another machine's libc
            continue
    pytest.skip("libtlsrpt is not installed")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[TlsrptDatabase]:
    opened = open_database(tmp_path / "tlsrpt.sqlite", now=NOW)
    yield opened
    opened.close_now()


@pytest.fixture
def collector(database: TlsrptDatabase, tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(SocketSettings(str(tmp_path / "s")), database, clock=FakeClock(NOW))
    collector.start()
    yield collector
    collector.stop()


async def rows(database: TlsrptDatabase, domain: str = "example.com") -> tuple[PolicyRows, ...]:
    return (await database.day_rows(DAY, domain)).policies


POLICY = Policy(
    PolicyType.STS, "example.com", ("version: STSv1", 'mode: "enforce"\\', "mx: ü"), ("mx.example.com", "*.example.net")
)


async def test_results_given_to_the_library_are_stored(
    library: Library, collector: Collector, database: TlsrptDatabase, tmp_path: Path
) -> None:
    ehlo = '250-mx.example.com says \x01 "hello"\r\n250-SIZE 1\r\n250 STARTTLS'
    details = ["192.0.2.1", "MX.example.com", ehlo, "2001:DB8:0::25", "more", "self-signed_certificate"]
    library.report(str(tmp_path / "s"), "Example.com", POLICY)
    library.report(str(tmp_path / "s"), "Example.com", POLICY, details)
    library.report(str(tmp_path / "s"), "Example.com", POLICY, [None] * 6)
    collector.stop()
    known = Failure(
        "validation-failure",
        *("192.0.2.1", "mx.example.com", "mx.example.com", "2001:db8::25", "more", "self-signed_certificate"),
    )
    (row,) = await rows(database)
    assert (row.policy, row.successful, row.failed) == (POLICY, 1, 2)
    assert dict(row.failures) == {known: 1, Failure("validation-failure"): 1}


async def test_largest_datagram_of_the_library_is_received(
    library: Library, collector: Collector, database: TlsrptDatabase, tmp_path: Path
) -> None:
    whole = Policy(PolicyType.STS, "example.com", tuple("x" * 1000 for _ in range(200)))
    library.report(str(tmp_path / "s"), "example.com", whole)
    with pytest.raises(OSError, match="finish_delivery_request"):  # more than the sender's buffer takes
        library.report(str(tmp_path / "s"), "example.com", Policy(PolicyType.STS, "example.com", ("x" * 300_000,)))
    collector.stop()
    (row,) = await rows(database)
    assert len(row.policy.strings) == 65  # 64 KiB of them
    assert collector.counters.received == 1


async def test_burst_of_ten_datagrams_is_received(
    library: Library, collector: Collector, database: TlsrptDatabase, tmp_path: Path
) -> None:
    for burst in range(1, 21):
        for _ in range(10):
            library.report(str(tmp_path / "s"), "example.com", POLICY)
        while collector.counters.received < 10 * burst:  # the next burst finds the queue empty, as after a pause
            threading.Event().wait(0.001)
    collector.stop()
    assert (await rows(database))[0].successful == 200
