"""The receiving side in a process of its own: checks, received reports, publishing and the public HTTP server.

Strangers decide how much work it has. In one process, Python runs one thread at a time, so lookups would wait for that
work; another process can give way to them (``tuning.give_way_to_lookups``).

The configuration goes to its standard input, one pickled pair of number and ``Config`` after another. When that input
ends, the process ends, also if the daemon was killed. Everything else is HTTP on a Unix socket in a private directory.
"""

import asyncio
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..admin.receiving_client import ReceivingClient, ReceivingUnavailable
from ..admin.receiving_state import ReceivingState
from ..config import Config
from ..log import level, log_event
from .systemd import Activation

__all__ = ["PROGRAM", "ReceivingProcess", "needs_receiving"]

PROGRAM = "from mtasts_daemon.daemon.receiving_side import main; main(arguments)"
"""What the process runs. ``arguments`` is a dict."""

_READY_WITHIN = 60.0
_STOP_WITHIN = 5.0
_END_WITHIN = 1.0
"""Seconds between the end of its socket and that of the process."""
_LOOK_EVERY = 10.0
_ANSWER_WITHIN = 2.0
_HUNG_AFTER = 3
"""Unanswered questions, ten seconds apart, after which the process is killed."""
_RESTART_FIRST = 1.0
_RESTART_MOST = 60.0
_REQUEST_RETRY = 5.0
"""Seconds after a failed start in which requests do not try again."""


def needs_receiving(config: Config, activation: Activation) -> bool:
    """Return True if the process is to start with the daemon, and not only with the first request to it."""
    uses = config.receive.own_domains or config.publish.domains or config.publish.domains_file
    return bool(uses or config.check.domains or config.public.listen or activation.lmtp or activation.public)


@dataclass(frozen=True, slots=True)
class _StartedProcess:
    process: "subprocess.Popen[bytes]"
    client: ReceivingClient
    folder: str
    ended: "asyncio.Future[int]"
    """Its exit code."""


class ReceivingProcess:
    """An optional part: the process starts if the configuration needs it, or with the first request to it."""

    name = "receiving"

    def __init__(
        self,
        environ: Mapping[str, str],
        activation: Activation,
        look_every: float = _LOOK_EVERY,
        answer_within: float = _ANSWER_WITHIN,
    ) -> None:
        self._environ = dict(environ)
        self._activation = activation
        self._config: Config | None = None
        self._number = 0
        self._running: _StartedProcess | None = None
        self._changing = asyncio.Lock()
        self._starting: _StartedProcess | None = None
        self._failure = ""
        self._failed_at = float("-inf")
        self._stopping = False
        self._look_every = look_every
        self._answer_within = answer_within

    # -- the part ----------------------------------------------------------------------------------------------

    async def configure(self, config: Config) -> None:
        """Give the process the configuration, or start it; ``run`` tries a failed start again.

        Raises OSError if a running process does not take the configuration.
        """
        self._config = config
        self._number += 1
        async with self._changing:
            if self._running is not None and not self._running.ended.done():
                await self._send(self._running)
            elif self._running is not None or needs_receiving(config, self._activation):
                await self._try_start()
            else:
                self._failure = ""

    async def stop(self) -> None:
        """End the process, which stops its parts in order; after some seconds kill it."""
        self._stopping = True
        if self._starting is not None:  # or the lock would be held until it is ready
            self._starting.process.kill()
        async with self._changing:
            await self._stop()

    async def run(self) -> None:
        """Start the process again, with back-off, when it could not be started, ended or hangs; until cancelled."""
        delay, loop = _RESTART_FIRST, asyncio.get_running_loop()
        while True:
            if (running := self._running) is not None:
                since = loop.time()
                failure = await self.failed()
                if self._running is not running:  # it was stopped
                    continue
                self._failure = failure
                # It may hang in the middle of a new configuration, whose writer holds the lock.
                running.process.kill()
                log_event("receiving-process-failed", level=logging.ERROR, error=failure, effect="it is restarted")
                delay = _RESTART_FIRST if loop.time() - since > _RESTART_MOST else delay
            await asyncio.sleep(delay)
            if self._failure:
                delay = min(delay * 2, _RESTART_MOST)
                await self._restart(running)

    async def _restart(self, ended: _StartedProcess | None) -> None:
        async with self._changing:
            if self._running is ended and not self._stopping:
                await self._try_start()

    async def _try_start(self) -> None:
        await self._stop()
        try:
            await self._start()
        except OSError:
            if not self._stopping:
                log_event("receiving-process-failed", level=logging.ERROR, error=self._failure, effect="retried")

    async def failed(self) -> str:
        """Wait until the process that runs now ended or hangs, and return a sentence."""
        running, missed = self._running, 0
        assert running is not None
        while missed < _HUNG_AFTER:
            done, _ = await asyncio.wait([running.ended], timeout=self._look_every)
            if done:
                return _end_of(running.ended.result())
            try:
                await running.client.state(within=self._answer_within)
                missed = 0
            except ReceivingUnavailable:
                missed += 1
        return f"the receiving process has not answered for {_HUNG_AFTER * self._look_every:.0f} s"

    # -- for the admin listeners -------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Its process number, or None if it does not run."""
        return None if self._running is None else self._running.process.pid

    @property
    def running(self) -> ReceivingClient | None:
        """The client if the process runs."""
        return None if self._running is None else self._running.client

    async def client(self) -> ReceivingClient:
        """Return the client, after starting the process if needed. Raises OSError if it cannot be started."""
        if self._running is None:
            async with self._changing:
                if self._running is None:
                    if asyncio.get_running_loop().time() - self._failed_at < _REQUEST_RETRY:
                        raise OSError(0, self._failure)
                    await self._start()
        running = self._running
        assert running is not None
        if running.ended.done():
            raise OSError(0, _end_of(running.ended.result()))
        return running.client

    async def state(self) -> ReceivingState:
        """Return its state; if it should run but does not answer, the last known one with that as a failure."""
        failure, known = self._failure, ReceivingState()
        if (running := self._running) is not None and running.ended.done():
            failure = failure or _end_of(running.ended.result())
        elif running is not None:
            try:
                return await running.client.state(within=self._answer_within)
            except ReceivingUnavailable as error:
                failure = failure or str(error)
                # Counters that fall to zero would count twice what they counted before.
                known = known if running.ended.done() else running.client.last_state
        return replace(known, failures={**known.failures, **({self.name: failure} if failure else {})})

    # -- its life ----------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self._stopping or self._config is None:
            raise OSError(0, "the daemon is starting or stopping")
        running: _StartedProcess | None = None
        try:
            running = self._starting = await self._launched()
            if self._stopping:
                raise OSError(0, "the daemon is stopping")
            await self._send(running)
        except BaseException as error:  # includes cancellation
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._failure = reason or "its start was interrupted"
            self._failed_at = asyncio.get_running_loop().time()
            if running is not None:
                await _end(running)
            if isinstance(error, RuntimeError):  # no thread can be started
                raise OSError(0, self._failure) from error
            raise
        finally:
            self._starting = None
        # Only now: requests are answered with a configuration.
        self._running, self._failure = running, ""
        log_event("receiving-process-started", pid=running.process.pid)

    async def _launched(self) -> _StartedProcess:
        assert self._config is not None
        loop = asyncio.get_running_loop()
        folder = await asyncio.to_thread(_private_folder, self._config.admin.socket_path(self._environ))
        path = f"{folder}/receiving.sock"
        try:
            process = await asyncio.to_thread(self._popen, path)
            ended: asyncio.Future[int] = loop.create_future()
            threading.Thread(target=_wait, args=(process, loop, ended), name="receiving-process", daemon=True).start()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return _StartedProcess(process, ReceivingClient(path), folder, ended)

    def _popen(self, path: str) -> "subprocess.Popen[bytes]":
        lmtp = [one.fileno() for one in self._activation.lmtp]
        public = [(one.sock.fileno(), one.address, one.tls) for one in self._activation.public]
        # The path of modules as it is here: ``python -c`` would look into the current directory.
        program = f"import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = {sys.path!r}; {PROGRAM}"
        with socket.socket(socket.AF_UNIX) as listening:
            # Opened here, so that a request before the process is ready waits.
            listening.bind(path)
            listening.listen()
            arguments = {"admin": listening.fileno(), "lmtp": lmtp, "public": public}
            return subprocess.Popen(  # noqa: S603 - this program
                [sys.executable, "-P", "-c", program, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                env=self._environ,
                pass_fds=[listening.fileno(), *lmtp, *(fd for fd, _, _ in public)],
            )

    async def _send(self, running: _StartedProcess) -> None:
        """Send the configuration and wait until it is in force. Raises OSError."""
        assert running.process.stdin is not None and self._config is not None
        # The level that the daemon logs at: an operator may have set another one since the reload.
        log = self._config.log.model_copy(update={"level": level()})
        data = pickle.dumps((self._number, self._config.model_copy(update={"log": log})))
        # A descriptor of its own: the thread goes on if this is cancelled.
        writing = asyncio.to_thread(_write, os.dup(running.process.stdin.fileno()), data)
        try:
            async with asyncio.timeout(_READY_WITHIN):
                await writing
        except TimeoutError:
            raise OSError(0, "the receiving process does not read its configuration") from None
        except BrokenPipeError:
            await asyncio.wait([running.ended], timeout=_END_WITHIN)
        taken = running.client.state(self._number, _READY_WITHIN)
        waiting = asyncio.get_running_loop().create_task(taken, name="receiving-configuration")
        both: list[asyncio.Future[Any]] = [waiting, running.ended]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not running.ended.done():
                await waiting
        except ReceivingUnavailable as error:
            await asyncio.wait([running.ended], timeout=_END_WITHIN)
            if not running.ended.done():
                raise OSError(0, str(error)) from None
        finally:
            waiting.cancel()
        if running.ended.done():
            raise OSError(0, _end_of(running.ended.result()))

    async def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await _end(running)


async def _end(running: _StartedProcess) -> None:
    await running.client.close()
    assert running.process.stdin is not None
    with suppress(OSError):
        running.process.stdin.close()
    await asyncio.wait([running.ended], timeout=_STOP_WITHIN)
    if not running.ended.done():
        running.process.kill()
        await running.ended
    await asyncio.to_thread(shutil.rmtree, running.folder, ignore_errors=True)


def _private_folder(admin_socket: Path | None) -> str:
    """Make a directory for the socket: in /tmp, or next to the admin socket if a container has no writable /tmp."""
    try:
        return tempfile.mkdtemp(prefix="mtasts-")
    except OSError:
        if admin_socket is None:
            raise
        return tempfile.mkdtemp(prefix="mtasts-", dir=admin_socket.parent)


def _wait(process: "subprocess.Popen[bytes]", loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[int]") -> None:
    code = process.wait()
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(ended.set_result, code)


def _write(descriptor: int, data: bytes) -> None:
    """Write to the descriptor and close it."""
    with open(descriptor, "wb", buffering=0) as pipe:
        while data:
            data = data[pipe.write(data) :]


def _end_of(code: int) -> str:
    if code >= 0:
        return f"the receiving process ended with exit code {code}"
    with suppress(ValueError):
        return f"the receiving process was ended by {signal.Signals(-code).name}"
    return f"the receiving process was ended by signal {-code}"
