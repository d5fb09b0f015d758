"""The counters behind the traffic metrics: plain integers for each label set, turned into metrics when scraped.

prometheus_client's own counters take a lock and several calls for each increment, four times per connection; an
integer in a slot costs a twentieth. Its collector interface is made for such tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from interceptor.telemetry.traffic_labels import LABEL_NAMES, OTHER_LABELS, TrafficKey, labels_of
from interceptor.workload import WorkloadKey


@dataclass(slots=True, eq=False)
class TrafficSeries:
    """What was counted under one label set; the byte counts are the source's view, as in a ConnectionRecord."""

    labels: tuple[str, ...]
    opened: int = 0
    closed: int = 0
    failed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Family(NamedTuple):
    """One metric read off a table: its name, its help text, and where its value is."""

    name: str
    documentation: str
    value: Callable[[TrafficSeries], int]


CONNECTION_FAMILIES: Final = (
    Family("istio_tcp_connections_opened", "TCP connections opened", lambda series: series.opened),
    Family("istio_tcp_connections_closed", "TCP connections closed", lambda series: series.closed),
    # In Istio's metrics, of either reporter, "sent" is the response and "received" is the request (istio/istio#32399):
    # the opposite of the source's view.
    Family(
        "istio_tcp_sent_bytes",
        "Bytes that the destination sent to the source",
        lambda series: series.received_bytes,
    ),
    Family(
        "istio_tcp_received_bytes",
        "Bytes that the destination received from the source",
        lambda series: series.sent_bytes,
    ),
)
FAILURE_FAMILIES: Final = (
    Family(
        "istio_tcp_connections_failed",
        "TCP connections that were denied or failed",
        lambda series: series.failed,
    ),
)


class TrafficTable(Collector):
    """At most `limit` series; a connection of any further label set is counted under "other", and reported dropped.

    The bound is there because identities come from peers: without it, whoever may obtain certificates decides how
    much memory this process and the Prometheus that scrapes it need (CVE-2025-43915 in another mesh).
    """

    def __init__(self, families: tuple[Family, ...], limit: int, dropped: Callable[[], object]) -> None:
        self._families = families
        self._limit = limit
        self._dropped = dropped
        self._series: dict[TrafficKey, TrafficSeries] = {}
        self._other: TrafficSeries | None = None

    def series(self, key: TrafficKey) -> TrafficSeries:
        """The series of this key, made when it is new."""
        found = self._series.get(key)
        return found if found is not None else self._add(key)

    def forget(self, workload: WorkloadKey) -> None:
        """Drop every series that has this workload on either side."""
        for key in [key for key in self._series if workload in (key.source, key.destination)]:
            del self._series[key]

    def collect(self) -> Iterator[Metric]:
        """The families with all their series, for prometheus_client."""
        everything = [*self._series.values(), *([self._other] if self._other else [])]
        for family in self._families:
            metric = CounterMetricFamily(family.name, family.documentation, labels=LABEL_NAMES)
            for series in everything:
                metric.add_metric(series.labels, family.value(series))
            yield metric

    def _add(self, key: TrafficKey) -> TrafficSeries:
        # The series "other" takes one of the places, so that the limit holds for what is exposed.
        if len(self._series) < self._limit - 1:
            return self._series.setdefault(key, TrafficSeries(labels_of(key)))
        self._dropped()
        if self._other is None:
            self._other = TrafficSeries(OTHER_LABELS)
        return self._other
