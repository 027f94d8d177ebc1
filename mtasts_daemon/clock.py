"""The system clock, and whether it is stable."""

import time

__all__ = ["ClockStability", "SystemClock"]

_STEADY_WITHIN = 3600.0


class SystemClock:
    """The ``Clock`` port, with the system's clocks."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class ClockStability:
    """Whether the wall clock can be trusted for decisions that cannot be undone. Times in seconds.

    If the clock is years ahead, as in a virtual machine before NTP sets it, everything looks expired. Therefore nothing
    is removed before the wall clock has agreed with the monotonic clock within an hour for some time. A clock that is
    wrong at the start is usually corrected soon.
    """

    def __init__(self, wall: float, monotonic: float) -> None:
        self._offset = wall - monotonic
        self._since = monotonic

    def set_by(self, wall: float, monotonic: float) -> float:
        """Return by how much the wall clock jumped, or 0. The new offset is then the reference."""
        moved = wall - monotonic - self._offset
        if abs(moved) <= _STEADY_WITHIN:
            return 0.0
        self._offset, self._since = wall - monotonic, monotonic
        return moved

    def lasts(self, monotonic: float, seconds: float) -> bool:
        """Return True if the wall clock has not jumped for ``seconds``."""
        return monotonic - self._since >= seconds
