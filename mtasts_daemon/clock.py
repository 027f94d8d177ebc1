"""The real clock, and how far it is to be believed."""

import time

__all__ = ["ClockStability", "SystemClock"]

_STEADY_WITHIN = 3600.0


class SystemClock:
    """``ports.api.Clock`` as the system has it."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class ClockStability:
    """Whether the wall clock is to be believed where that cannot be undone. Times in seconds.

    By a clock that is years ahead, as that of a virtual machine can be until NTP sets it, all that is kept for a time
    ended long ago. So none of it is removed before the wall clock has kept step with the monotonic one for a while, an
    hour more or less; a clock that was wrong already at the start is mostly put right soon.
    """

    def __init__(self, wall: float, monotonic: float) -> None:
        self._offset = wall - monotonic
        self._since = monotonic

    def set_by(self, wall: float, monotonic: float) -> float:
        """How far the wall clock was set since it was last in step, 0 where it still is; the new offset then counts."""
        moved = wall - monotonic - self._offset
        if abs(moved) <= _STEADY_WITHIN:
            return 0.0
        self._offset, self._since = wall - monotonic, monotonic
        return moved

    def lasts(self, monotonic: float, seconds: float) -> bool:
        """Whether it has been in step for so long."""
        return monotonic - self._since >= seconds
