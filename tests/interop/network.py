"""A network namespace with only loopback: every port is free and no packet leaves it."""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

__all__ = ["Network", "Unavailable"]

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class Unavailable(Exception):
    """This host cannot run a machine; the text says what is missing."""


class Network:
    """The namespace; a context manager. Raises ``Unavailable`` if namespaces cannot be created.

    A process holds it until its standard input is closed, so nothing remains even if this process is killed. Nothing
    has a name, so runs cannot disturb each other.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up; read -r _"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            _, said = self._holder.communicate()
            raise Unavailable(f"a network namespace cannot be made: {said.strip()}")
        self.path = Path(f"/proc/{self._holder.pid}/ns/net")
        self.call(_raise_loopback)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release it; it exists as long as processes in it."""
        self._holder.communicate()

    def add_address(self, address: str) -> None:
        """Add an IPv4 address inside; not only loopback ones."""
        subprocess.run(self.command("ip", "address", "add", f"{address}/32", "dev", "lo"), check=True)

    def enter(self) -> None:
        """Move the calling thread, and the threads and processes that it will start, into the network permanently."""
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("the main thread stays where it is")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, _CLONE_NEWNET) != 0:  # os.setns exists since Python 3.12
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def call(self, act: Callable[[], T]) -> T:
        """Call ``act`` inside; return its result or raise its exception. Its sockets stay inside."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.enter()
                done.append(act())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="in the network")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that executes another one inside and ends with this process."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", "--", *arguments]


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
