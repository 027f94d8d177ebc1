"""Settings of the Python interpreter and of its C library; each value was measured."""

import gc
import os
import sys
from contextlib import suppress

__all__ = ["collect_garbage_rarely", "give_way_to_lookups", "switch_threads_quickly", "tune_malloc"]

_M_MMAP_THRESHOLD = -3  # malloc.h
_MMAP_THRESHOLD = 128 * 1024

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread releases the interpreter to the lookups. Python's default is 5 ms."""

_NICE = 10


def switch_threads_quickly() -> None:
    """Let lookups wait less for threads that compute, such as one that imports."""
    sys.setswitchinterval(_SWITCH_INTERVAL)


def give_way_to_lookups() -> None:
    """Lower the priority of this process, and leave one of its cores to lookups if it has several.

    Call it before threads start: they do the same then. The priority alone is not enough: a lookup that arrives while
    all cores work waits until the kernel's next tick, up to 4 ms, even for a process of lower priority.
    """
    with suppress(OSError):  # where a sandbox forbids it
        os.nice(_NICE)
    with suppress(OSError, AttributeError):  # not every system has it
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[1:])


def collect_garbage_rarely() -> None:
    """Exempt start-up objects from garbage collection and collect rarely.

    Most objects made by lookups are freed by reference counting. With the default threshold of 700 objects the
    collector took a tenth of the time of a cold lookup.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def tune_malloc() -> bool:
    """Let the GNU C library return the memory of large blocks. Return False if another C library is in use.

    Without this it takes large blocks from its heaps after the first ones were freed, and the tables that a growing
    cache replaces leave holes: 5 MiB of 150 with 120,000 domains.
    """
    import ctypes  # the first answer does not wait for it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD))
