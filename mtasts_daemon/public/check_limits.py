"""Rate limits of the check page: new checks per client network, and in all. Pure."""

from collections import OrderedDict

__all__ = ["CheckLimits"]

_MAX_CLIENTS = 10_000


class CheckLimits:
    """Token buckets. A client may start ``per_client`` checks at once and as many again in ``period`` seconds.

    All clients together may start ``in_all``, refilled in the same time.
    """

    def __init__(self, per_client: int = 10, in_all: int = 120, period: float = 300.0) -> None:
        self._per_client, self._in_all, self._period = per_client, in_all, period
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._all = (float(in_all), float("-inf"))

    def admit(self, client: str, now: float) -> float:
        """Return 0 and count a check, or the seconds after which the client may try again."""
        mine = _refilled(self._clients.pop(client, (float(self._per_client), now)), self._per_client, self._period, now)
        everyone = _refilled(self._all, self._in_all, self._period, now)
        waits = (_wait(mine, self._per_client, self._period), _wait(everyone, self._in_all, self._period))
        if not any(waits):
            mine, everyone = mine - 1.0, everyone - 1.0
        self._all = (everyone, now)
        self._clients[client] = (mine, now)
        while len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        return max(waits)


def _refilled(bucket: tuple[float, float], size: int, period: float, now: float) -> float:
    tokens, at = bucket
    return min(float(size), tokens + (now - at) * size / period)


def _wait(tokens: float, size: int, period: float) -> float:
    return 0.0 if tokens >= 1.0 else (1.0 - tokens) * period / size
