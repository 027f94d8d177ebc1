"""Memory of a full cache, and start-up time with a full store."""

import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Figure, median
from tests.bench.load import Question
from tests.bench.names import NameServer, negative, positive
from tests.bench.site import MAP, Daemon, filled_store, no_policy, policy_reply, started

__all__ = ["memory", "startup"]

_MIB = 1024 * 1024
_IDLE = 0.03
"""CPU seconds per second."""


def memory(folder: Path, names: NameServer, negatives: int, policies: int) -> Iterator[Figure]:
    """Return the resident memory with ``policies`` domains cached, each with its reply."""
    filled_store(folder, policies)
    with started(folder, names) as daemon:
        empty = daemon.resident()
        without = (Question(load.netstring(MAP, negative(n)), no_policy()) for n in range(negatives))
        load.drive(daemon.address, 64, without)
        between = daemon.resident()
        policed = (Question(load.netstring(MAP, positive(n)), policy_reply(n)) for n in range(policies))
        load.drive(daemon.address, 64, policed)
        full = daemon.resident()
    note = (
        f"{empty / _MIB:.0f} when empty, {(between - empty) / negatives:.0f} bytes a negative entry, "
        f"{(full - between) / policies:.0f} a policy"
    )
    yield Figure(f"memory, {negatives:,} negative and {policies:,} policies", full / _MIB, "MiB", 150, True, note)


def startup(folder: Path, names: NameServer, stored: int, turns: int) -> Iterator[Figure]:
    """Return the time from process start to the first answer from the store, and the memory with all names read.

    Measured in turns with a store of one policy, the reference.
    """
    (small := folder / "small").mkdir()
    filled_store(small, 1)
    filled_store(folder, stored)
    with Daemon(small, names) as daemon:
        # Not measured: it may compile the modules.
        daemon.first_answer()
    taken: dict[Path, list[float]] = {small: [], folder: []}
    used: list[float] = []
    for _ in range(turns):
        for place, times in taken.items():
            with Daemon(place, names, max_policies=stored + 1) as daemon:
                times.append(daemon.first_answer())
                used.append(daemon.cpu())
    note = (
        f"{median(taken[small]):.3f} with one; least {min(taken[folder]):.3f}, most {max(taken[folder]):.3f}; "
        f"{median(used):.3f} of CPU"
    )
    yield Figure(f"start to first answer, {stored:,} stored", median(taken[folder]), "s", 0.3, True, note)
    with Daemon(folder, names, max_policies=stored + 1) as daemon:
        daemon.first_answer()
        before = daemon.resident()
        _await_idle(daemon)
        note = f"{before / _MIB:.0f} at the first answer"
        yield Figure(f"memory, {stored:,} stored, none looked up", daemon.resident() / _MIB, "MiB", 300, True, note)


def _await_idle(daemon: Daemon) -> None:
    """Wait until the daemon has read the names in its store, once after its start."""
    used = -1.0
    while daemon.cpu() - used > _IDLE:
        used = daemon.cpu()
        time.sleep(1)
