"""What an authority's service is watched by: its certificates, what it issues and refuses, and whether it can go on.

No label holds a name: kinds, codes and states are closed sets, fingerprints are of the few roots in force. Instants are
Unix seconds, as on the nodes (`expiry`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import prometheus_client
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from interceptor.telemetry.expiry import AuthorityExpiry
from interceptor.telemetry.gauge import gauge


@dataclass(slots=True)
class AuthorityCounts:
    """What was counted since the service began; `issued` by workload, node and service, `refused` by the code."""

    issued: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    is_audit_written: bool = True


@dataclass(frozen=True, slots=True)
class AuthorityState:
    """What is so at the moment; `nodes` by current, behind, silent and revoked, `unread_seconds` of the database."""

    authorities: tuple[AuthorityExpiry, ...]
    renewal_due: float
    has_root_key: bool
    phase: str
    lagging: int
    nodes: Counter[str]
    unread_seconds: float


class AuthoritySeries(Collector):
    """The metrics of one service; `look` says how things stand."""

    def __init__(self, counts: AuthorityCounts, look: Callable[[], AuthorityState]) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._counts = counts
        self._look = look
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)

    def expose(self) -> bytes:
        """The page that is scraped."""
        return prometheus_client.generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        state = self._look()
        yield gauge(
            "interceptor_authority_not_after_seconds",
            "When a root or intermediate certificate expires, in Unix seconds",
            ["kind", "fingerprint"],
            (((each.kind, each.fingerprint), each.not_after) for each in state.authorities),
        )
        yield _one(
            "interceptor_authority_intermediate_renewal_due_seconds",
            "When the intermediate is to be renewed, in Unix seconds; later than that it was not",
            state.renewal_due,
        )
        yield _one(
            "interceptor_authority_root_key_present",
            "Whether the root key is here, so that the intermediate renews itself",
            float(state.has_root_key),
        )
        yield from self._collect_nodes(state)
        yield from self._collect_counts()
        yield _one(
            "interceptor_authority_store_unread_seconds",
            "How long ago the authority's database could last be read",
            state.unread_seconds,
        )

    def _collect_nodes(self, state: AuthorityState) -> Iterator[Metric]:
        yield gauge(
            "interceptor_authority_nodes",
            "Nodes that have joined, by whether they use the trust bundle of now",
            ["state"],
            (((name,), float(state.nodes[name])) for name in ("current", "behind", "silent", "revoked")),
        )
        yield gauge(
            "interceptor_authority_rotation_waiting_nodes",
            "Nodes that the next step of a rotation waits for",
            ["phase"],
            [((state.phase,), float(state.lagging))],
        )

    def _collect_counts(self) -> Iterator[Metric]:
        for name, text, label, counted in (
            ("interceptor_authority_certificates_issued", "Certificates issued", "kind", self._counts.issued),
            (
                "interceptor_authority_refusals",
                "Requests refused, by the code of the refusal",
                "code",
                self._counts.refused,
            ),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in sorted(counted.items()):
                family.add_metric([value], count)
            yield family
        yield _one(
            "interceptor_authority_audit_writable",
            "Whether the audit could be written when that was last tried; nothing is issued while it cannot",
            float(self._counts.is_audit_written),
        )


def _one(name: str, text: str, value: float) -> Metric:
    return gauge(name, text, [], [((), value)])
