"""Settings of the Python interpreter that lookups depend on; each value was measured."""

import gc
import sys

__all__ = ["collect_garbage_rarely", "switch_threads_quickly"]

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread releases the interpreter to the lookups. Python's default is 5 ms."""


def switch_threads_quickly() -> None:
    """Let lookups wait less for threads that compute, such as one that imports."""
    sys.setswitchinterval(_SWITCH_INTERVAL)


def collect_garbage_rarely() -> None:
    """Exempt start-up objects from garbage collection and collect rarely.

    Most objects made by lookups are freed by reference counting. With the default threshold of 700 objects the
    collector took a tenth of the time of a cold lookup.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
