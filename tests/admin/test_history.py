"""The data of the charts."""

from mtasts_daemon.admin.history import History
from mtasts_daemon.counters import Counters


def count(counters: Counters, kind: str, made: int, hits: int = 0) -> None:
    tally = counters.tally("socketmap", kind)
    tally.made += made
    tally.hits += hits
    counters.misses += made


def test_interval_has_the_differences_of_the_counters() -> None:
    counters = Counters()
    history = History(counters)
    history.sample(1000.0, 0.0)
    count(counters, "secure", 2, 6)
    history.sample(1060.0, 60.0)
    count(counters, "none", 1)
    history.sample(1121.0, 121.0)
    assert history.series() == {
        "at": [1060, 1121],
        "seconds": [60.0, 61.0],
        "lookups": [8, 1],
        "hits": [6, 0],
        "answers": {"none": [0, 1], "secure": [8, 0]},
    }
    assert history.series(1)["lookups"] == [1]


def test_history_is_limited_to_a_day() -> None:
    history = History(Counters(), kept=3)
    for minute in range(10):
        history.sample(minute * 60.0, minute * 60.0)
    assert history.series()["at"] == [420, 480, 540]


def test_rates_cover_the_last_minute() -> None:
    counters = Counters()
    history = History(counters)
    history.sample(0.0, 0.0)
    count(counters, "none", 1000)
    history.sample(60.0, 60.0)
    count(counters, "secure", 1, 3)
    assert history.rates(100.0) == {"lookups_per_second": 0.1, "hit_rate": 0.75}


def test_rates_without_lookups_are_none() -> None:
    history = History(Counters())
    assert history.rates(0.0) == {"lookups_per_second": None, "hit_rate": None}
    history.sample(0.0, 0.0)
    assert history.rates(10.0) == {"lookups_per_second": 0.0, "hit_rate": None}
