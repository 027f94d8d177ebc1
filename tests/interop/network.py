"""A network of our own: a namespace with nothing but loopback, in which every port is free and no packet leaves."""

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
    """This host cannot give us a machine; the text says what it lacks."""


class Network:
    """The namespace; a context manager. Raises ``Unavailable`` where namespaces cannot be made.

    It is held by a process that ends when its standard input does, so that nothing is left behind even when this
    process is killed; nothing has a name that a later run could trip over.
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
        """Let go of it; it lives on while processes in it do."""
        self._holder.communicate()

    def add_address(self, address: str) -> None:
        """One more IPv4 address inside, which need not be a loopback one."""
        subprocess.run(self.command("ip", "address", "add", f"{address}/32", "dev", "lo"), check=True)

    def enter(self) -> None:
        """Move the calling thread, and the threads and processes it will start, into the network, for good."""
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("the main thread stays where it is")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, _CLONE_NEWNET) != 0:  # os.setns came with Python 3.12
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def call(self, act: Callable[[], T]) -> T:
        """What ``act`` returns or raises when called inside; sockets it makes stay inside."""
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
        """The command line that runs another inside; it becomes that process and dies with this one."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", "--", *arguments]


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
