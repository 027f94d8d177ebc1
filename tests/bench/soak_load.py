"""The lookups of the soak, in a process of their own, so that the fakes cannot delay them."""

import asyncio
import contextlib
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, Self

__all__ = ["Load", "Tally"]

_CONNECTIONS: Final = 32
_FRESH_EVERY: Final = 0.5
"""Seconds between two lookups of domains not asked for before."""
_PATIENCE: Final = 30.0


@dataclass(slots=True)
class Tally:
    """Results since the last call of ``Load.cut``. Times in seconds."""

    lookups: int = 0
    wrong: int = 0
    """Replies for learned domains without their policy, and lookups without a reply."""
    longest: float = 0.0
    own_lag: float = 0.0
    """Longest delay of this process itself; waits of that length are not the daemon's."""
    learned: int = 0
    """Domains learned so far."""
    example: str = ""


class Load:
    """Asks for learned domains at a steady rate, and learns a new one now and then. A context manager."""

    def __init__(self, path: str, rate: int, learned: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path, rate, learned), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.cut()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.join()

    def cut(self) -> Tally:
        """Return the results since the last call. Raises RuntimeError if the process does not answer."""
        self._ours.send("cut")
        if not self._ours.poll(_PATIENCE):
            raise RuntimeError("the load does not answer")
        tally: Tally = self._ours.recv()
        return tally

    def names(self) -> list[str]:
        """Return the learned domains."""
        self._ours.send("names")
        found: list[str] = self._ours.recv()
        return found


def _serve(control: Connection, path: str, rate: int, learned: list[str]) -> None:
    asyncio.run(_Clients(control, path, _CONNECTIONS / rate, learned).run())


class _Clients:
    def __init__(self, control: Connection, path: str, interval: float, learned: list[str]) -> None:
        self._control = control
        self._path = path
        self._interval = interval
        self._learned = learned
        self._next = 0
        self._tally = Tally()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._controlled)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure_lag())
            group.create_task(self._learn())
            for _ in range(_CONNECTIONS):
                group.create_task(self._client())

    def _controlled(self) -> None:
        if self._control.recv() == "names":
            self._control.send(self._learned)
            return
        self._tally.learned = len(self._learned)
        self._control.send(self._tally)
        self._tally = Tally()

    async def _measure_lag(self) -> None:
        while True:
            slept = time.monotonic()
            await asyncio.sleep(0.01)
            self._tally.own_lag = max(self._tally.own_lag, time.monotonic() - slept - 0.01)

    async def _learn(self) -> None:
        number = 0
        while True:
            domain, number = f"f{number}.example", number + 1
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                reader, writer = await asyncio.open_unix_connection(self._path)
                if (await _ask(reader, writer, domain)).startswith("OK secure "):
                    self._learned.append(domain)
                writer.close()
            await asyncio.sleep(_FRESH_EVERY)

    async def _client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
                await self._lookups(reader, writer)
            except (OSError, EOFError, TimeoutError) as error:
                self._wrong(f"no reply: {type(error).__name__}")
                await asyncio.sleep(0.1)

    async def _lookups(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due = time.monotonic()
        while True:
            self._next = (self._next + 1) % len(self._learned)
            domain, asked = self._learned[self._next], time.monotonic()
            reply = await _ask(reader, writer, domain)
            self._tally.lookups += 1
            self._tally.longest = max(self._tally.longest, time.monotonic() - asked)
            if not reply.startswith("OK secure "):
                self._wrong(f"{domain}: {reply[:80]}")
            due = max(due + self._interval, time.monotonic() - 1.0)
            await asyncio.sleep(max(due - time.monotonic(), 0))

    def _wrong(self, what: str) -> None:
        self._tally.wrong += 1
        self._tally.example = self._tally.example or what


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, domain: str) -> str:
    request = f"postfix {domain}".encode()
    writer.write(b"%d:%b," % (len(request), request))
    async with asyncio.timeout(_PATIENCE):
        length = int((await reader.readuntil(b":"))[:-1])
        return (await reader.readexactly(length + 1)).decode()
