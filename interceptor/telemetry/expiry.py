"""What ends when: the workloads' certificates, the node's own, and the authorities above them.

Instants are Unix seconds, so that a scraper subtracts them from its own time; what can only be measured when it is
asked for is a function that the owner hands in.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.telemetry.gauge import gauge
from interceptor.workload import WorkloadKey

AUTHORITIES_LIMIT: Final = 200  # roots and intermediates: of our own domain, and of those that are federated


@dataclass(frozen=True, slots=True)
class AuthorityExpiry:
    """A root or an intermediate: `fingerprint` is the SHA-256 of its certificate in hexadecimal."""

    kind: str  # root or intermediate
    fingerprint: str
    not_after: float


@dataclass(frozen=True, slots=True)
class _Life:
    labels: tuple[str, ...]
    issued_at: float
    not_after: float


class Expiry(Collector):
    """Gauges of one node; beyond `limit` workloads none is added.

    There is no "other" here: one time of expiry for many certificates would mean nothing.
    """

    def __init__(self, limit: int, dropped: Counter) -> None:
        self._limit = limit
        self._dropped = dropped
        self._workloads: dict[WorkloadKey, _Life] = {}
        self._node: _Life | None = None
        self._authorities: tuple[AuthorityExpiry, ...] = ()
        self._trust_age: Callable[[], float | None] = lambda: None
        self._late: Callable[[], int] = lambda: 0

    def set_certificate(
        self, workload: WorkloadKey, identity: SpiffeId, issued_at: float, not_after: float
    ) -> None:
        """A workload has a new certificate."""
        if workload in self._workloads or len(self._workloads) < self._limit:
            labels = (workload.namespace, workload.name, str(identity))
            self._workloads[workload] = _Life(labels, issued_at, not_after)
        else:
            self._dropped.inc()

    def set_node(self, identity: str, issued_at: float, not_after: float) -> None:
        """This node has a new certificate of its own, by which the authority knows it."""
        self._node = _Life((identity,), issued_at, not_after)

    def set_authorities(self, authorities: Iterable[AuthorityExpiry]) -> None:
        """The roots in force, and the intermediates that the certificates in use lead to."""
        self._authorities = tuple(dict.fromkeys(authorities))[:AUTHORITIES_LIMIT]

    def measure(self, trust_age: Callable[[], float | None], late: Callable[[], int]) -> None:
        """How to find out the age of the trust bundle in seconds, and how many certificates are late."""
        self._trust_age, self._late = trust_age, late

    def forget(self, workload: WorkloadKey) -> None:
        self._workloads.pop(workload, None)

    def collect(self) -> Iterator[Metric]:
        lives = self._workloads.values()
        workload = ["namespace", "workload", "principal"]
        yield gauge(
            "interceptor_certificate_not_after_seconds",
            "When the certificate of a workload expires, in Unix seconds",
            workload,
            ((life.labels, life.not_after) for life in lives),
        )
        yield gauge(
            "interceptor_certificate_last_renewal_seconds",
            "When the certificate of a workload was last renewed, in Unix seconds",
            workload,
            ((life.labels, life.issued_at) for life in lives),
        )
        yield gauge(
            "interceptor_certificates_late",
            "Certificates missing, or past three quarters of their life and not renewed",
            [],
            [((), float(self._late()))],
        )
        yield from self._collect_node()
        yield gauge(
            "interceptor_authority_not_after_seconds",
            "When a root or intermediate certificate expires, in Unix seconds",
            ["kind", "fingerprint"],
            (((each.kind, each.fingerprint), each.not_after) for each in self._authorities),
        )
        age = self._trust_age()
        yield gauge(
            "interceptor_trust_bundle_age_seconds",
            "How long ago the authority last confirmed the trust bundle in force",
            [],
            [] if age is None else [((), age)],
        )

    def _collect_node(self) -> Iterator[Metric]:
        lives = [] if self._node is None else [self._node]
        yield gauge(
            "interceptor_node_certificate_not_after_seconds",
            "When the node's own certificate expires, in Unix seconds",
            ["principal"],
            ((life.labels, life.not_after) for life in lives),
        )
        yield gauge(
            "interceptor_node_certificate_last_renewal_seconds",
            "When the node's own certificate was last renewed, in Unix seconds",
            ["principal"],
            ((life.labels, life.issued_at) for life in lives),
        )
