"""What is told to the metrics is on the page that Prometheus scrapes: once, bounded, under the right labels."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.telemetry.expiry import AUTHORITIES_LIMIT, AuthorityExpiry
from interceptor.telemetry.metrics import CONTENT_TYPE, Metrics
from interceptor.telemetry.pod_series import PodSample
from interceptor.workload import Direction, Workload, WorkloadKey


def workload(name: str) -> Workload:
    return Workload(
        WorkloadKey("shop", name), SpiffeId.parse(f"spiffe://cluster.local/ns/shop/sa/{name}"), (), "node-1"
    )


WEB, DATABASE = workload("web"), workload("database")


def record(source: Workload = WEB, direction: Direction = Direction.OUTBOUND) -> ConnectionRecord:
    made = ConnectionRecord(direction, "c1", "t1", None, None, 0.0, 0.0)
    made.source_workload, made.destination_workload = source, DATABASE
    made.source_identity, made.destination_identity = source.identity, DATABASE.identity
    made.decide(Permit(Transport.MUTUAL_TLS))
    return made


def denied(reason: Reason) -> ConnectionRecord:
    made = record()
    made.decide(Denial(reason))
    return made


def page(metrics: Metrics, name: str, **labels: str) -> list[float]:
    """The values of the samples of that name which have at least these labels."""
    return [
        sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def test_metrics_page_has_every_metric_before_anything_happened() -> None:
    exposed = Metrics().expose().decode()
    for name in (
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_connections_failed_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
        "interceptor_connection_denials_total",
        "interceptor_policies_refused",
        "interceptor_policy_documents",
        "interceptor_workloads",
        "interceptor_certificate_not_after_seconds",
        "interceptor_certificate_last_renewal_seconds",
        "interceptor_certificates_late",
        "interceptor_node_certificate_not_after_seconds",
        "interceptor_authority_not_after_seconds",
        "interceptor_trust_bundle_age_seconds",
        "interceptor_certificate_renewals_total",
        "interceptor_connections_open",
        "interceptor_tls_handshake_seconds",
        "interceptor_metrics_series_dropped_total",
    ):
        assert f"# TYPE {name} " in exposed
    assert CONTENT_TYPE.startswith("text/plain")


def test_metrics_have_no_created_series() -> None:
    metrics = Metrics()
    metrics.handshake("client", 0.001)
    metrics.renewal("success")
    connection = record()
    metrics.opened(connection)
    assert "_created" not in metrics.expose().decode()


def test_metrics_opened_and_closed_are_counted_under_one_label_set() -> None:
    metrics = Metrics()
    connection = record()
    metrics.opened(connection)
    assert page(metrics, "interceptor_connections_open", direction="outbound") == [1]
    connection.bytes_sent, connection.bytes_received = 10, 20
    metrics.closed(connection)
    labels = {
        "reporter": "source",
        "source_workload": "web",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
        "destination_workload": "database",
        "destination_principal": "spiffe://cluster.local/ns/shop/sa/database",
        "connection_security_policy": "mutual_tls",
        "response_flags": "-",
    }
    assert page(metrics, "istio_tcp_connections_opened_total", **labels) == [1]
    assert page(metrics, "istio_tcp_connections_closed_total", **labels) == [1]
    assert page(metrics, "istio_tcp_received_bytes_total", **labels) == [10]
    assert page(metrics, "istio_tcp_sent_bytes_total", **labels) == [20]
    assert page(metrics, "interceptor_connections_open", direction="outbound") == [0]
    assert page(metrics, "interceptor_connections_open", direction="inbound") == [0]


def test_metrics_progress_never_counts_a_byte_twice() -> None:
    metrics = Metrics()
    connection = record()
    metrics.opened(connection)
    for sent in (10, 10, 25):
        connection.bytes_sent, connection.bytes_received = sent, 2 * sent
        metrics.progress(connection)
        assert page(metrics, "istio_tcp_received_bytes_total") == [sent]
    connection.bytes_sent = 30
    metrics.closed(connection)
    assert page(metrics, "istio_tcp_received_bytes_total") == [30]
    assert page(metrics, "istio_tcp_sent_bytes_total") == [50]


def test_metrics_closed_without_opened_raises() -> None:
    with pytest.raises(KeyError):
        Metrics().closed(record())


def test_metrics_equal_connections_add_up() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.opened(record())
    metrics.opened(record(direction=Direction.INBOUND))
    assert page(metrics, "istio_tcp_connections_opened_total", reporter="source") == [3]
    assert page(metrics, "istio_tcp_connections_opened_total", reporter="destination") == [1]
    assert page(metrics, "interceptor_connections_open", direction="outbound") == [3]


def test_metrics_denied_connection_is_failed_with_its_reason() -> None:
    metrics = Metrics()
    metrics.failed(denied(Reason.UNKNOWN_DESTINATION))
    assert page(metrics, "istio_tcp_connections_failed_total", response_flags="unknown_destination") == [1]
    assert page(
        metrics, "interceptor_connection_denials_total", reason="unknown_destination", direction="outbound"
    ) == [1]
    assert page(metrics, "istio_tcp_connections_opened_total") == []


def test_metrics_failed_connection_without_denial_is_no_denial() -> None:
    metrics = Metrics()
    failed = record()
    failed.reason = Reason.DESTINATION_REFUSED
    metrics.failed(failed)
    undecided = ConnectionRecord(Direction.OUTBOUND, "c1", "t1", None, None, 0.0, 0.0)
    metrics.failed(undecided)
    assert page(metrics, "istio_tcp_connections_failed_total", response_flags="destination_refused") == [1]
    assert page(metrics, "istio_tcp_connections_failed_total", response_flags="-") == [1]
    assert page(metrics, "interceptor_connection_denials_total") == []


def test_metrics_late_denial_is_closed_where_it_was_opened() -> None:
    metrics = Metrics()
    connection = record()
    metrics.opened(connection)
    connection.decide(Denial(Reason.WITHDRAWN))
    metrics.closed(connection)
    assert page(metrics, "istio_tcp_connections_closed_total", response_flags="-") == [1]
    assert page(metrics, "interceptor_connection_denials_total", reason="withdrawn") == [1]


def test_metrics_series_are_bounded_and_the_rest_is_other() -> None:
    metrics = Metrics(series_limit=4)
    for number in range(20):
        metrics.opened(record(workload(f"w{number}")))
        metrics.failed(record(workload(f"w{number}")))
    for name in ("istio_tcp_connections_opened_total", "istio_tcp_connections_failed_total"):
        assert len(page(metrics, name)) == 4
        assert sum(page(metrics, name)) == 20
        assert page(metrics, name, source_workload="other", reporter="other") == [17]
    assert page(metrics, "interceptor_metrics_series_dropped_total") == [34]


def test_metrics_certificates_are_set_bounded_and_forgotten() -> None:
    metrics = Metrics(series_limit=1)
    metrics.expiry.set_certificate(WEB.key, WEB.identity, 10.0, 100.0)
    metrics.expiry.set_certificate(WEB.key, WEB.identity, 20.0, 200.0)
    metrics.expiry.set_certificate(DATABASE.key, DATABASE.identity, 30.0, 300.0)
    name = "interceptor_certificate_not_after_seconds"
    assert page(metrics, name) == [200.0]
    assert page(metrics, name, namespace="shop", workload="web", principal=str(WEB.identity)) == [200.0]
    assert page(metrics, "interceptor_certificate_last_renewal_seconds", workload="web") == [20.0]
    assert page(metrics, "interceptor_metrics_series_dropped_total") == [1]
    metrics.forget(WEB.key)
    assert page(metrics, name) == []


def test_metrics_of_node_authorities_and_trust_are_there_once_they_are_known() -> None:
    metrics = Metrics()
    names = ("node_certificate_not_after", "node_certificate_last_renewal", "trust_bundle_age")
    assert [page(metrics, f"interceptor_{name}_seconds") for name in names] == [[], [], []]
    assert page(metrics, "interceptor_certificates_late") == [0]
    metrics.expiry.set_node("spiffe://cluster.local/node/a", 10.0, 20.0)
    metrics.expiry.measure(trust_age=lambda: 7.0, late=lambda: 3)
    assert [page(metrics, f"interceptor_{name}_seconds") for name in names] == [[20.0], [10.0], [7.0]]
    assert page(metrics, "interceptor_certificates_late") == [3]
    root, intermediate = AuthorityExpiry("root", "aa", 1.0), AuthorityExpiry("intermediate", "bb", 2.0)
    name = "interceptor_authority_not_after_seconds"
    metrics.expiry.set_authorities([root, intermediate, root])
    assert page(metrics, name) == [1.0, 2.0]
    assert page(metrics, name, kind="intermediate", fingerprint="bb") == [2.0]
    metrics.expiry.set_authorities([intermediate])
    assert page(metrics, name) == [2.0]
    metrics.expiry.set_authorities(AuthorityExpiry("root", str(n), 1.0) for n in range(1000))
    assert len(page(metrics, name)) == AUTHORITIES_LIMIT


def test_metrics_forgotten_workload_stays_away_while_its_connections_end() -> None:
    metrics = Metrics()
    connection = record()
    metrics.opened(connection)
    metrics.failed(record())
    metrics.forget(WEB.key)
    connection.bytes_sent = 10
    metrics.closed(connection)
    for name in ("opened", "closed", "failed"):
        assert page(metrics, f"istio_tcp_connections_{name}_total") == []
    assert page(metrics, "interceptor_connections_open", direction="outbound") == [0]


def test_metrics_simple_ones_have_their_values() -> None:
    metrics = Metrics()
    metrics.set_workloads(3)
    metrics.renewal("success")
    metrics.renewal("failure")
    metrics.renewal("failure")
    metrics.handshake("server", 0.003)
    assert page(metrics, "interceptor_workloads") == [3]
    metrics.set_policies(7, refused=True)
    assert page(metrics, "interceptor_policy_documents") == [7]
    assert page(metrics, "interceptor_policies_refused") == [1]
    assert page(metrics, "interceptor_certificate_renewals_total", result="failure") == [2]
    assert page(metrics, "interceptor_tls_handshake_seconds_bucket", side="server", le="0.002") == [0]
    assert page(metrics, "interceptor_tls_handshake_seconds_bucket", side="server", le="0.005") == [1]
    assert page(metrics, "interceptor_tls_handshake_seconds_sum", side="server") == [0.003]


def test_metrics_of_a_cluster_are_asked_when_they_are_scraped() -> None:
    metrics = Metrics()
    counts = {"enrolled": 2, "waiting": 1}
    problems = ["one"]
    metrics.follow_cluster(counts, counts.__getitem__, lambda: len(problems))
    counts["waiting"] = 0
    problems.append("another")
    assert page(metrics, "interceptor_pods", state="enrolled") == [2]
    assert page(metrics, "interceptor_pods", state="waiting") == [0]
    assert page(metrics, "interceptor_kubernetes_problems") == [2]


def test_metrics_of_pods_are_bounded_and_say_which_pod_is_not_as_it_shall_be() -> None:
    metrics = Metrics(series_limit=3)
    pods = [PodSample("shop", f"web-{number}", "web", "Enrolled", True) for number in range(5)]
    pods[1] = PodSample("shop", "web-1", "web", "NoCertificate", False)
    metrics.follow_pods(lambda: pods)
    assert page(metrics, "interceptor_pod_enrolled") == [1, 0, 1]
    assert page(metrics, "interceptor_pod_enrolled", reason="NoCertificate", service_account="web") == [0]
