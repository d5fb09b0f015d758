"""Just enough of PromQL to hold queries against what the product really exposes: metrics, and labels of each."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from prometheus_client.parser import text_string_to_metric_families

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.telemetry.authority_series import AuthorityCounts, AuthoritySeries, AuthorityState
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.telemetry.expiry import AuthorityExpiry
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.pod_series import PodSample
from interceptor.workload import Direction, Workload, WorkloadKey

OF_SCRAPING = frozenset(("instance", "job"))  # which Prometheus adds to every series
FROM_SCRAPING = {"up": OF_SCRAPING}  # and the one metric of its own
_METRIC = re.compile(r"\b((?:interceptor|istio)_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"')
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def busy_metrics() -> Metrics:
    """Metrics to which everything happened that can happen to them."""
    metrics = Metrics()
    identity = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
    workload = Workload(WorkloadKey("shop", "web"), identity, (), "node-1")
    for direction in Direction:
        for verdict in (
            Permit(Transport.MUTUAL_TLS),
            Permit(Transport.PLAINTEXT),
            Denial(Reason.POLICY_DENIED),
        ):
            record = ConnectionRecord(direction, "c", "t", None, None, 0.0, 0.0)
            record.source_workload = record.destination_workload = workload
            record.source_identity = record.destination_identity = identity
            record.decide(verdict)
            if isinstance(verdict, Permit):
                metrics.opened(record)
            else:
                metrics.failed(record)
    metrics.handshake("client", 0.001)
    metrics.handshake("server", 0.001)
    metrics.renewal("success")
    metrics.renewal("failure")
    metrics.set_workloads(1)
    metrics.expiry.set_certificate(workload.key, identity, 1.0, 2.0)
    metrics.expiry.set_node("spiffe://cluster.local/node/node-1", 1.0, 2.0)
    metrics.expiry.set_authorities([AuthorityExpiry("root", "ab", 3.0)])
    metrics.expiry.measure(lambda: 1.0, lambda: 0)
    metrics.follow_cluster(["enrolled"], lambda _: 1, lambda: 0)
    metrics.follow_pods(lambda: [PodSample("shop", "web-1", "web", "Enrolled", True)])
    return metrics


def busy_authority() -> AuthoritySeries:
    """The same of an authority's service."""
    counts = AuthorityCounts(Counter(workload=1), Counter(token_used=1))
    root = AuthorityExpiry("root", "ab", 3.0)
    state = AuthorityState((root,), 1.0, True, "stable", 0, Counter(current=1), 0.0)
    return AuthoritySeries(counts, lambda: state)


@cache
def exposed() -> dict[str, frozenset[str]]:
    """The labels of each series' name on the page that Prometheus scrapes."""
    found = dict(FROM_SCRAPING)
    pages = (busy_metrics().expose().decode(), busy_authority().expose().decode())
    for family in (each for page in pages for each in text_string_to_metric_families(page)):
        for sample in family.samples:
            found[sample.name] = frozenset(sample.labels) | OF_SCRAPING
    return found


def problems(expression: str) -> list[str]:
    """What the expression asks for that nobody exposes."""
    found = []
    available: set[str] = set()
    metrics = _METRIC.findall(expression)
    if not metrics:
        found.append(f"no metric in {expression}")
    for name, matchers in metrics:
        labels = exposed().get(name)
        if labels is None:
            found.append(f"no metric {name}")
            continue
        available |= labels
        found += [
            f"{name} has no label {label}" for label in _MATCHER.findall(matchers) if label not in labels
        ]
    for group in _GROUPING.findall(expression):
        found += [f"nothing has a label {label}" for label in _names(group) if label not in available]
    if expression.count("(") != expression.count(")"):
        found.append(f"parentheses do not match in {expression}")
    return found


def labels_left(expression: str) -> set[str]:
    """The labels of the result: those of the outermost grouping, or of the metrics when there is none."""
    groups = _GROUPING.findall(expression)
    if groups:
        return set(_names(groups[0]))
    if re.match(r"\w+\(", expression):
        return set()
    return set().union(*(exposed()[name] for name, _ in _METRIC.findall(expression)))


def _names(group: str) -> list[str]:
    return [name.strip() for name in group.split(",") if name.strip()]
