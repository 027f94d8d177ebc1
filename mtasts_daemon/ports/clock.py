"""The real clock."""

import time

__all__ = ["SystemClock"]


class SystemClock:
    """``ports.api.Clock`` as the system has it."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
