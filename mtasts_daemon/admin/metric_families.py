"""Metric families of Prometheus, made from plain values."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..counters import Durations

__all__ = ["counter", "gauge", "histogram", "labelled", "labelled_gauge"]


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels."""
    return CounterMetricFamily(name, text, value)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value)


def labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter with one label; ``values`` are its counts by label value."""
    return _with_label(CounterMetricFamily(name, text, labels=[label]), values)


def labelled_gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with one label."""
    return _with_label(GaugeMetricFamily(name, text, labels=[label]), values)


def _with_label(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def histogram(name: str, text: str, found: Durations, quick: int = 0) -> Metric:
    """Return a histogram; ``quick`` untimed events are added to the smallest bucket."""
    buckets: list[tuple[str, float]] = []
    total = quick
    for bound, count in zip([*map(str, found.bounds), "+Inf"], found.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=found.total)
