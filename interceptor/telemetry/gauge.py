"""A gauge as a collector hands it out, from values that are measured when somebody asks."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric


def gauge(
    name: str, text: str, labels: list[str], samples: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    """One metric; each sample has a value for every label, in their order."""
    metric = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric
