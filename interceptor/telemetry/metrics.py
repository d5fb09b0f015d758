"""Everything that is counted, in the text format of Prometheus.

The traffic metrics have ztunnel's names and labels; what ztunnel does not count begins with `interceptor_`. Not
thread-safe: it belongs to the thread that runs the proxy, and `expose` is called there too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import prometheus_client

from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.telemetry.expiry import Expiry
from interceptor.telemetry.pod_series import PodSample, PodSeries
from interceptor.telemetry.traffic_labels import key_of
from interceptor.telemetry.traffic_series import (
    CONNECTION_FAMILIES,
    FAILURE_FAMILIES,
    TrafficSeries,
    TrafficTable,
)
from interceptor.workload import Direction, WorkloadKey

CONTENT_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
SERIES_LIMIT: Final = (
    2000  # about 1 MB per traffic metric when scraped; a node has some hundred workload pairs
)

HandshakeSide = Literal["client", "server"]
RenewalResult = Literal["success", "failure"]

# From a same-host handshake to the default timeout.
_HANDSHAKE_BUCKETS: Final = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


@dataclass(slots=True, eq=False)
class _Open:
    """An open connection: where it is counted, and how many of its bytes were counted so far."""

    series: TrafficSeries
    sent_bytes: int = 0
    received_bytes: int = 0


class Metrics:
    """All metrics of one agent. Every label set is bounded, by `series_limit` per metric or by a closed set.

    A connection is either told to `opened` and later to `closed`, or only to `failed`. Between opening and closing it
    stays with the series it was opened under, so opened minus closed is right in each series.
    """

    def __init__(self, series_limit: int = SERIES_LIMIT) -> None:
        # A switch of the whole process: `_created` series would double the size of the page and tell nothing.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._series_limit = series_limit
        self._registry = registry = prometheus_client.CollectorRegistry()
        dropped = prometheus_client.Counter(
            "interceptor_metrics_series_dropped",
            "Updates counted under the label value other, or not at all, because of the limit of series",
            registry=registry,
        )
        self._connections = TrafficTable(CONNECTION_FAMILIES, series_limit, dropped.inc)
        self._failures = TrafficTable(FAILURE_FAMILIES, series_limit, dropped.inc)
        self.expiry = Expiry(series_limit, dropped)
        for table in (self._connections, self._failures, self.expiry):
            registry.register(table)
        self._open: dict[ConnectionRecord, _Open] = {}
        self._open_by_direction = dict.fromkeys(Direction, 0)
        open_gauge = prometheus_client.Gauge(
            "interceptor_connections_open", "Connections that are open now", ["direction"], registry=registry
        )
        for direction in Direction:
            # Read when scraped: cheaper than keeping a gauge up to date on the path of each connection.
            open_gauge.labels(direction.value).set_function(
                partial(self._open_by_direction.__getitem__, direction)
            )
        self._denials = prometheus_client.Counter(
            "interceptor_connection_denials",
            "Connections denied, or closed by a later denial",
            ["reason", "direction"],
            registry=registry,
        )
        self._workloads = prometheus_client.Gauge(
            "interceptor_workloads", "Workloads enrolled on this node", registry=registry
        )
        self._policy_documents = prometheus_client.Gauge(
            "interceptor_policy_documents", "Policy documents in force", registry=registry
        )
        self._policies_refused = prometheus_client.Gauge(
            "interceptor_policies_refused", "1 while the policy files cannot be used", registry=registry
        )
        self._renewals = prometheus_client.Counter(
            "interceptor_certificate_renewals",
            "Attempts to renew a certificate",
            ["result"],
            registry=registry,
        )
        self._handshakes = prometheus_client.Histogram(
            "interceptor_tls_handshake_seconds",
            "Duration of completed TLS handshakes",
            ["side"],
            buckets=_HANDSHAKE_BUCKETS,
            registry=registry,
        )

    def opened(self, record: ConnectionRecord) -> None:
        """A connection is established end to end; workloads, identities and transport must be in its record."""
        series = self._connections.series(key_of(record, None))
        series.opened += 1
        self._open[record] = _Open(series)
        self._open_by_direction[record.direction] += 1

    def progress(self, record: ConnectionRecord) -> None:
        """Count the bytes of an open connection that were not counted yet; for flows that live long."""
        _count_bytes(self._open[record], record)

    def closed(self, record: ConnectionRecord) -> None:
        """An opened connection has ended, with its final byte counts; raises KeyError when it is not open."""
        open_connection = self._open.pop(record)
        _count_bytes(open_connection, record)
        open_connection.series.closed += 1
        self._open_by_direction[record.direction] -= 1
        self._count_denial(record)

    def failed(self, record: ConnectionRecord) -> None:
        """A connection ended without having been opened: denied, or broken before the far end was reached."""
        self._failures.series(key_of(record, record.reason)).failed += 1
        self._count_denial(record)

    def handshake(self, side: HandshakeSide, seconds: float) -> None:
        """A TLS handshake was completed, in which we were the client or the server."""
        self._handshakes.labels(side).observe(seconds)

    def set_workloads(self, count: int) -> None:
        """How many workloads are enrolled on this node."""
        self._workloads.set(count)

    def set_policies(self, documents: int, *, refused: bool) -> None:
        """How many policy documents are in force, and whether the files say something that cannot be used."""
        self._policy_documents.set(documents)
        self._policies_refused.set(int(refused))

    def follow_cluster(
        self, states: Iterable[str], pods: Callable[[str], float], problems: Callable[[], float]
    ) -> None:
        """Show a node's pods by their state, of a closed set, and what is wrong in the cluster; asked when scraped."""
        gauge = prometheus_client.Gauge(
            "interceptor_pods",
            "Pods of this node by how they stand to the mesh",
            ["state"],
            registry=self._registry,
        )
        for state in states:
            gauge.labels(state).set_function(partial(pods, state))
        prometheus_client.Gauge(
            "interceptor_kubernetes_problems",
            "What of the Kubernetes API cannot be followed or read, and pods that are not as they shall be",
            registry=self._registry,
        ).set_function(problems)

    def follow_pods(self, pods: Callable[[], Iterable[PodSample]]) -> None:
        """Show how each pod of a node of a cluster stands; asked when scraped."""
        self._registry.register(PodSeries(pods, self._series_limit))

    def renewal(self, result: RenewalResult) -> None:
        """An attempt to renew a certificate has ended."""
        self._renewals.labels(result).inc()

    def forget(self, workload: WorkloadKey) -> None:
        """Drop the series of a withdrawn workload; what its connections still count afterwards is not exposed.

        What was counted since the last scrape is lost, so a caller may wish to wait a few scrape intervals.
        """
        self._connections.forget(workload)
        self._failures.forget(workload)
        self.expiry.forget(workload)

    def expose(self) -> bytes:
        """The page that Prometheus scrapes; its content type is CONTENT_TYPE."""
        return prometheus_client.generate_latest(self._registry)

    def _count_denial(self, record: ConnectionRecord) -> None:
        if record.verdict == "denial" and record.reason is not None:
            self._denials.labels(record.reason.value, record.direction.value).inc()


def _count_bytes(open_connection: _Open, record: ConnectionRecord) -> None:
    """Add what is new since the last time, so that bytes are never counted twice."""
    series = open_connection.series
    series.sent_bytes += record.bytes_sent - open_connection.sent_bytes
    series.received_bytes += record.bytes_received - open_connection.received_bytes
    open_connection.sent_bytes = record.bytes_sent
    open_connection.received_bytes = record.bytes_received
