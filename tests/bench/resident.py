"""How much memory a full cache takes, and how soon a daemon with a full store answers."""

from collections.abc import Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Figure, median
from tests.bench.load import Question
from tests.bench.names import NameServer, negative, positive
from tests.bench.site import MAP, Daemon, filled_store, no_policy, policy_reply, started

__all__ = ["memory", "startup"]

_MIB = 1024 * 1024


def memory(folder: Path, names: NameServer, negatives: int, policies: int) -> Iterator[Figure]:
    """Resident memory with so many domains known, each with its reply ready."""
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
    yield Figure(f"memory, {negatives:,} negative and {policies:,} policies", full / _MIB, "MiB", 200, True, note)


def startup(folder: Path, names: NameServer, stored: int, turns: int) -> Iterator[Figure]:
    """From the start of the process to the first answer, which is a policy in the store."""
    filled_store(folder, stored)
    taken, used = [], []
    for _ in range(turns):
        with Daemon(folder, names) as daemon:
            taken.append(daemon.first_answer())
            used.append(daemon.cpu())
    note = f"{median(used):.3f} s of CPU; least {min(taken):.3f}, most {max(taken):.3f}"
    yield Figure(f"start to first answer, {stored:,} stored", median(taken), "s", 0.5, True, note)
