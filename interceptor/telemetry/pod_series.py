"""How each pod of a node of a cluster stands: one gauge, measured when somebody asks."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from interceptor.telemetry.gauge import gauge

LABELS: Final = ("namespace", "pod", "service_account", "reason")


class PodSample(NamedTuple):
    """One pod that shall be in the mesh; `reason` is from a closed set."""

    namespace: str
    pod: str
    service_account: str
    reason: str
    is_enrolled: bool


class PodSeries(Collector):
    """The first `limit` pods; a node has some hundred, and whoever may make pods decides their names."""

    def __init__(self, pods: Callable[[], Iterable[PodSample]], limit: int) -> None:
        self._pods = pods
        self._limit = limit

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        yield gauge(
            "interceptor_pod_enrolled",
            "1 for a pod of this node that is in the mesh and served, 0 for one that shall be and is not",
            list(LABELS),
            ((each[:-1], float(each.is_enrolled)) for each in islice(self._pods(), self._limit)),
        )
