"""The number of series is bounded, and forgetting makes room."""

from interceptor.telemetry.traffic_labels import TrafficKey
from interceptor.telemetry.traffic_series import CONNECTION_FAMILIES, FAILURE_FAMILIES, TrafficTable
from interceptor.workload import Direction, WorkloadKey

DATABASE = WorkloadKey("shop", "database")


def key(number: int, destination: WorkloadKey | None = None) -> TrafficKey:
    return TrafficKey(
        Direction.OUTBOUND, WorkloadKey("shop", f"w{number}"), destination, None, None, None, None
    )


class Table:
    """A table with a limit of three, and what it reported as dropped."""

    def __init__(self) -> None:
        self.dropped = 0
        self.table = TrafficTable(CONNECTION_FAMILIES, 3, self._drop)

    def _drop(self) -> None:
        self.dropped += 1

    def source_workloads(self) -> list[str]:
        opened = next(iter(self.table.collect()))
        return [sample.labels["source_workload"] for sample in opened.samples]


def test_table_equal_keys_share_a_series() -> None:
    table = Table().table
    assert table.series(key(1)) is table.series(key(1))
    assert table.series(key(1)) is not table.series(key(2))


def test_table_beyond_its_limit_counts_as_other() -> None:
    limited = Table()
    kept = [limited.table.series(key(number)) for number in (1, 2)]
    assert limited.dropped == 0
    overflow = limited.table.series(key(3))
    assert limited.table.series(key(4)) is overflow
    assert overflow not in kept
    assert set(overflow.labels) == {"other"}
    assert limited.dropped == 2
    assert limited.source_workloads() == ["w1", "w2", "other"]
    assert limited.table.series(key(1)) is kept[0]


def test_table_forget_drops_both_sides_and_makes_room() -> None:
    limited = Table()
    limited.table.series(key(1, DATABASE))
    limited.table.series(key(2))
    limited.table.forget(DATABASE)
    assert limited.source_workloads() == ["w2"]
    limited.table.forget(WorkloadKey("shop", "w2"))
    assert limited.source_workloads() == []
    limited.table.series(key(3))
    assert limited.source_workloads() == ["w3"]
    assert limited.dropped == 0


def test_table_collects_the_value_of_each_family() -> None:
    table = TrafficTable((*CONNECTION_FAMILIES, *FAILURE_FAMILIES), 3, lambda: None)
    series = table.series(key(1))
    series.opened, series.closed, series.failed = 5, 4, 3
    series.sent_bytes, series.received_bytes = 20, 10
    values = {sample.name: sample.value for metric in table.collect() for sample in metric.samples}
    assert values == {
        "istio_tcp_connections_opened_total": 5,
        "istio_tcp_connections_closed_total": 4,
        "istio_tcp_connections_failed_total": 3,
        "istio_tcp_sent_bytes_total": 10,  # Istio's "sent" is the response
        "istio_tcp_received_bytes_total": 20,
    }
