"""The thread for connections to untrusted hosts."""

import asyncio
import os
import threading

import pytest

from mtasts_daemon.https.untrusted_loop import UntrustedLoop, UntrustedLoopClosed, UntrustedLoopFailed
from tests.event_loop import both_loops


@both_loops
async def test_work_runs_on_another_thread_with_the_standard_loop() -> None:
    loop = UntrustedLoop()

    async def work() -> tuple[type, int]:
        return type(asyncio.get_running_loop()), threading.get_ident()

    kind, thread = await loop.run(work)
    assert kind is asyncio.SelectorEventLoop
    assert thread != threading.get_ident()
    assert await loop.run(work) == (kind, thread)
    await loop.close()


@both_loops
async def test_exception_of_the_work_reaches_the_caller() -> None:
    loop = UntrustedLoop()

    async def work() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        await loop.run(work)
    await loop.close()


@both_loops
async def test_cancelled_caller_cancels_its_work() -> None:
    loop = UntrustedLoop()
    begun, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    caller = asyncio.create_task(loop.run(work))
    assert await asyncio.to_thread(begun.wait, 120)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await asyncio.to_thread(cancelled.wait, 120)
    await loop.close()


@both_loops
async def test_close_interrupts_work_and_ends_the_thread() -> None:
    loop = UntrustedLoop("closed-soon")
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    callers = [asyncio.create_task(loop.run(work)) for _ in range(3)]
    assert await asyncio.to_thread(begun.wait, 120)
    await loop.close()
    for caller in callers:
        with pytest.raises(UntrustedLoopClosed):
            await caller
    with pytest.raises(UntrustedLoopClosed):
        await loop.run(work)
    assert not [thread for thread in threading.enumerate() if thread.name == "closed-soon"]


@both_loops
async def test_close_without_work_starts_no_thread() -> None:
    before = threading.active_count()
    loop = UntrustedLoop()
    await loop.close()
    assert threading.active_count() == before


async def test_work_runs_again_when_a_thread_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = UntrustedLoop()

    async def work() -> int:
        return 1

    def limited(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        for _ in range(2):
            with pytest.raises(UntrustedLoopFailed, match="can't start new thread"):
                await loop.run(work)
    assert await loop.run(work) == 1
    await loop.close()


async def test_thread_gives_way_to_lookups() -> None:
    async def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    loop = UntrustedLoop()
    try:
        assert await loop.run(nice) >= 10 > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    finally:
        await loop.close()
