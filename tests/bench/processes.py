"""Measured processes: started on a separate core, with their use of CPU and memory."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

__all__ = [
    "ALL_CORES",
    "LOAD_CORES",
    "SERVER_CORES",
    "Measured",
    "await_listener",
    "family",
    "free_port",
    "memory_of",
    "on_cores",
    "without_idle_cores",
]

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORES: Final = frozenset(_CORES[:1])
"""The core of the server."""
LOAD_CORES: Final = frozenset(_CORES[1:] or _CORES)
"""The cores of all other processes."""
ALL_CORES: Final = frozenset(_CORES)
"""The cores of a daemon whose receiving process has load: that process keeps to those of the load."""


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Run on ``cores`` inside the block; processes started in it stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def without_idle_cores() -> Iterator[None]:
    """Keep all cores busy with processes of idle priority.

    A virtual core that slept waits up to some milliseconds for the hypervisor, which hides what is measured. Linux
    prefers any other process to these.
    """
    spinning = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    processes = []
    for core in _CORES:
        with on_cores(frozenset({core})):
            processes.append(subprocess.Popen([sys.executable, "-c", spinning]))
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Measured:
    """A Python module in a separate process; a context manager that stops it."""

    def __init__(self, arguments: Sequence[str], log: Path, cores: frozenset[int] = SERVER_CORES) -> None:
        # With bytecode, as an installed package has it.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with on_cores(cores), log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=output, text=True, env=environ
            )
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def line(self) -> str:
        """Return its next line of output. Raises ``RuntimeError`` if it ended."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"it ended with {self._process.wait()}:\n{self.log.read_text()[-2000:]}")
        return said.rstrip("\n")

    def check(self) -> None:
        """Raise ``RuntimeError`` if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"it ended with {self._process.returncode}:\n{self.log.read_text()[-2000:]}")

    def end(self) -> None:
        """Send SIGTERM and wait."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def cpu(self) -> float:
        """Return the CPU seconds of all its threads, and of its children that run."""
        # clock_getcpuclockid(3), which Python has for threads only; more precise than the ticks of /proc/PID/stat.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in family(self._process.pid))

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        self._process.send_signal(number)

    def resident(self) -> int:
        """Return its memory in bytes, with its children."""
        return memory_of(self._process.pid, "VmRSS")


def family(pid: int) -> list[int]:
    """Return the process and its children."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [pid, *(int(child) for thread in threads for child in (thread / "children").read_text().split())]


def memory_of(pid: int, line: str) -> int:
    """Return a line of the status of the process and its children in bytes: VmRSS, or VmHWM for the maximum."""
    total = 0
    for one in family(pid):
        status = Path(f"/proc/{one}/status").read_text()
        total += int(status.partition(f"{line}:")[2].split()[0]) << 10
    return total


def await_listener(port: int) -> None:
    """Wait until a TCP port of 127.0.0.1 accepts connections. Raises ``RuntimeError`` after 30 seconds."""
    ending = time.monotonic() + 30
    while time.monotonic() < ending:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def free_port() -> int:
    """Return a free TCP and UDP port of 127.0.0.1."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
    return port
