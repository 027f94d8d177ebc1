"""How long this daemon has served policies: the clock by which removals wait. Pure.

A wall clock that is set, or that is wrong after a boot, must not end a removal early. This clock advances with the
monotonic clock, and after a restart continues where it was last stored: time without a daemon does not count, because
no sender could learn of the removal. It begins with the wall clock's time, so that its values look like dates.
"""

from ..ports import Clock

__all__ = ["ServingClock"]


class ServingClock:
    """Seconds; ``start`` is the value to continue from."""

    def __init__(self, clock: Clock, start: float) -> None:
        self._clock = clock
        self._offset = start - clock.monotonic()

    def now(self) -> float:
        """Return the present value."""
        return self._offset + self._clock.monotonic()

    def wall(self, moment: float) -> float:
        """Return the wall clock's time at which this clock shows ``moment``, if the daemon runs until then."""
        return self._clock.wall() + moment - self.now()
