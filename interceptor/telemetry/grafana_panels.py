"""The questions that the dashboard answers, in the order in which somebody on call asks them."""

from typing import Final

from interceptor.telemetry.grafana_authority import AUTHORITY
from interceptor.telemetry.panel import Panel, Query, Row

_NODE: Final = 'instance=~"$instance"'
# A connection between two workloads is reported by both sides; one side of each is enough, and only the destination's
# tells of what came from outside.
_ARRIVED: Final = f'{_NODE}, reporter="destination", destination_workload_namespace=~"$namespace"'
_RATE: Final = "[$__rate_interval]"
_DAY: Final = 86400.0


def _stat(
    title: str,
    description: str,
    expression: str,
    unit: str = "short",
    thresholds: tuple[tuple[float, str], ...] = (),
    base_colour: str = "green",
) -> Panel:
    return Panel(title, description, (Query(expression),), "stat", unit, 4, 4, thresholds, base_colour)


OVERVIEW: Final = Row(
    "Overview",
    (
        _stat(
            "Nodes",
            "Agents that report; compare with the number of nodes.",
            f"count(interceptor_workloads{{{_NODE}}})",
        ),
        _stat("Workloads", "Workloads that are enrolled.", f"sum(interceptor_workloads{{{_NODE}}})"),
        _stat(
            "Open connections",
            "Connections that are open now, as their receiving side counts them.",
            f'sum(interceptor_connections_open{{{_NODE}, direction="inbound"}})',
        ),
        _stat(
            "By mutual TLS",
            "Share of the connections that arrived within the last hour by mutual TLS; the rest was plaintext.",
            f'sum(increase(istio_tcp_connections_opened_total{{{_ARRIVED}, connection_security_policy="mutual_tls"}}[1h]))'
            f" / sum(increase(istio_tcp_connections_opened_total{{{_ARRIVED}}}[1h]))",
            "percentunit",
            base_colour="red",
            thresholds=((0.9, "yellow"), (1.0, "green")),
        ),
        _stat(
            "Denied per second",
            "Connections that policy or a missing proof of identity denied, in the last five minutes.",
            f"sum(rate(interceptor_connection_denials_total{{{_NODE}}}[5m]))",
            "cps",
            thresholds=((1.0, "yellow"), (10.0, "red")),
        ),
        _stat(
            "Certificates missing or late",
            "Without a certificate a workload's connections are refused.",
            f"sum(interceptor_certificates_late{{{_NODE}}})",
            thresholds=((1.0, "red"),),
        ),
    ),
)

TRAFFIC: Final = Row(
    "Traffic",
    (
        Panel(
            "Connections opened",
            "By how they arrived: mutual_tls, or none for plaintext.",
            (
                Query(
                    "sum by (connection_security_policy) "
                    f"(rate(istio_tcp_connections_opened_total{{{_ARRIVED}}}{_RATE}))",
                    "{{connection_security_policy}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Connections failed",
            "By reason; 'interceptor explain SOURCE DESTINATION:PORT' shows each step of the decision.",
            (
                Query(
                    f"sum by (response_flags) (rate(istio_tcp_connections_failed_total{{{_NODE}}}{_RATE}))",
                    "{{response_flags}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Bytes",
            "As Istio counts: received by the destination, sent by the destination.",
            (
                Query(
                    f"sum(rate(istio_tcp_received_bytes_total{{{_ARRIVED}}}{_RATE}))", "to the destination"
                ),
                Query(f"sum(rate(istio_tcp_sent_bytes_total{{{_ARRIVED}}}{_RATE}))", "to the source"),
            ),
            unit="Bps",
        ),
        Panel(
            "Busiest pairs",
            "Connections per second in the last five minutes, of source and destination.",
            (
                Query(
                    "topk(10, sum by (source_workload_namespace, source_workload, destination_workload_namespace, "
                    f"destination_workload) (rate(istio_tcp_connections_opened_total{{{_ARRIVED}}}[5m])))",
                ),
            ),
            kind="table",
            unit="cps",
            width=12,
        ),
        Panel(
            "Plaintext that arrived within a day",
            "Who would be cut off by mode STRICT: connections without mutual TLS.",
            (
                Query(
                    "topk(20, sum by (source_workload_namespace, source_workload, destination_workload_namespace, "
                    f"destination_workload) (increase(istio_tcp_connections_opened_total{{{_ARRIVED}, "
                    'connection_security_policy="none"}[1d])) > 0)',
                ),
            ),
            kind="table",
            width=12,
        ),
    ),
)

POLICIES: Final = Row(
    "Policies",
    (
        _stat(
            "Documents in force",
            "The fewest of all nodes; each node reads files of its own.",
            f"min(interceptor_policy_documents{{{_NODE}}})",
        ),
        _stat(
            "Sets refused",
            "Nodes whose policy files cannot be used; 'interceptor policies' there shows why.",
            f"sum(interceptor_policies_refused{{{_NODE}}})",
            thresholds=((1.0, "red"),),
        ),
    ),
)

DENIALS: Final = Row(
    "Denials and handshakes",
    (
        Panel(
            "Denials by reason",
            "Denied when they were made, or closed later because of a new policy or a revocation.",
            (
                Query(
                    f"sum by (reason, direction) (rate(interceptor_connection_denials_total{{{_NODE}}}{_RATE}))",
                    "{{reason}} ({{direction}})",
                ),
            ),
            unit="cps",
            width=12,
        ),
        Panel(
            "TLS handshakes",
            "How long they take, as half and 99 of 100 see it.",
            tuple(
                Query(
                    f"histogram_quantile({quantile}, sum by (le, side) "
                    f"(rate(interceptor_tls_handshake_seconds_bucket{{{_NODE}}}{_RATE})))",
                    f"{name} {{{{side}}}}",
                )
                for quantile, name in ((0.5, "median"), (0.99, "99 %"))
            ),
            unit="s",
            width=12,
        ),
    ),
)

PODS: Final = Row(
    "Pods of a Kubernetes cluster",
    (
        Panel(
            "Pods by how they stand",
            "Those of namespaces in the mesh are enrolled, draining, or waiting for something; the others are outside.",
            (Query(f"sum by (state) (interceptor_pods{{{_NODE}}})", "{{state}}"),),
        ),
        Panel(
            "Pods that shall be in the mesh and are not",
            "The same is in their status, as condition interceptor.io/Enrolled; 'interceptor status --node' says more.",
            (
                Query(
                    "sum by (instance, namespace, pod, service_account, reason) "
                    f"(interceptor_pod_enrolled{{{_NODE}}} == 0)"
                ),
            ),
            kind="table",
        ),
        _stat(
            "Problems with the Kubernetes API",
            "What cannot be followed, read or written, and pods that are not as they shall be.",
            f"sum(interceptor_kubernetes_problems{{{_NODE}}})",
            thresholds=((1.0, "red"),),
        ),
    ),
)

CERTIFICATES: Final = Row(
    "Certificates and authorities",
    (
        Panel(
            "Shortest life left of a workload's certificate",
            "It is renewed when half to three fifths of its life have passed; a line that falls below that is stuck.",
            (
                Query(
                    f"min by (instance) (interceptor_certificate_not_after_seconds{{{_NODE}}} - time())",
                    "{{instance}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Renewals",
            "Failures are tried again by themselves; the agent's log says why they fail.",
            (
                Query(
                    f"sum by (result) (rate(interceptor_certificate_renewals_total{{{_NODE}}}{_RATE}))",
                    "{{result}}",
                ),
            ),
            unit="cps",
        ),
        Panel(
            "Age of the trust bundle",
            "How long ago each node heard from its authority: revocations and new roots come with it.",
            (Query(f"interceptor_trust_bundle_age_seconds{{{_NODE}}}", "{{instance}}"),),
            unit="s",
        ),
        Panel(
            "Life left of the nodes' own certificates",
            "When one ends, its node comes back with its return token, or needs a new one.",
            (Query(f"interceptor_node_certificate_not_after_seconds{{{_NODE}}} - time()", "{{instance}}"),),
            unit="s",
        ),
        Panel(
            "Life left of roots and intermediates",
            "The node that knows of the shortest.",
            (
                Query(
                    f"min by (kind, fingerprint) (interceptor_authority_not_after_seconds{{{_NODE}}} - time())",
                    "{{kind}} {{fingerprint}}",
                ),
            ),
            kind="stat",
            unit="s",
            base_colour="red",
            thresholds=((30 * _DAY, "yellow"), (180 * _DAY, "green")),
        ),
        Panel(
            "Metrics that were dropped",
            "More label sets than the limit: what this page shows is then not all.",
            (
                Query(
                    f"sum by (instance) (increase(interceptor_metrics_series_dropped_total{{{_NODE}}}[1h]))",
                    "{{instance}}",
                ),
            ),
        ),
    ),
)

ROWS: Final = (OVERVIEW, TRAFFIC, DENIALS, POLICIES, PODS, CERTIFICATES, AUTHORITY)
