"""A clock that only tests move."""

__all__ = ["FakeClock"]


class FakeClock:
    """Implements ``ports.Clock``. ``advance`` moves both clocks, ``set_back`` only the wall's."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 1000.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        self._wall -= seconds
