"""Where connections of this node's pods lead, by the cluster's services: decided before kube-proxy would translate them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from interceptor.cluster.affinity import Affinity
from interceptor.cluster.membership import membership
from interceptor.cluster.resolution import Client, Outcome, resolve
from interceptor.proxy.route import Route, Way

if TYPE_CHECKING:
    from interceptor.cluster.pod import Pod
    from interceptor.cluster.resolution import Resolution
    from interceptor.config import Config
    from interceptor.kubernetes.cluster_watch import ClusterWatch
    from interceptor.workload import Endpoint, IPAddress

_randomness = random.SystemRandom()
_WAYS = {Outcome.NO_CANDIDATE: Way.NOBODY_NOW, Outcome.NO_SUCH_PORT: Way.NO_SUCH_PORT}


class ClusterRoutes:
    """A `Locate` by the snapshot that `watch` keeps; it remembers which client had which pod, where a service wants that.

    zone    of this node, None while it is not known
    """

    def __init__(self, config: Config, watch: ClusterWatch) -> None:
        self._node = config.node
        self._trust_domain = config.trust_domain
        self._mesh = config.mesh_cidrs
        self._watch = watch
        self._affinity = Affinity()
        self.zone: str | None = None

    def __call__(self, destination: Endpoint, client: IPAddress) -> Route:
        """Where a connection from the pod at `client` leads now."""
        cluster, here = self._watch.cluster, Client(self._node, self.zone)
        found = resolve(cluster, destination, here, self._trust_domain, self._mesh)
        service = "" if found.service is None else str(found.service.head.key)
        match found.outcome:
            case Outcome.POD:
                pod = found.candidates[0].pod
                return Route(Way.OUTSIDE if self._is_outside(pod) else Way.MESH, destination)
            case Outcome.SERVICE:
                draw, now = _randomness.random(), trio.current_time()
                chosen = self._affinity.choose(found, client, draw=draw, now=now)
                return Route(
                    Way.OUTSIDE if self._is_outside(chosen.pod) else Way.MESH, chosen.endpoint, service
                )
            case Outcome.UNTOUCHED:
                is_outside = self._is_certain(found, destination)
                return Route(Way.OUTSIDE if is_outside else Way.MESH, destination, service)
            case _:
                return Route(_WAYS[found.outcome], destination, service)

    def _is_outside(self, pod: Pod | None) -> bool:
        """Whether a backend is certainly nobody of the mesh; one without a pod was said to be elsewhere."""
        return pod is None or not membership(self._watch.cluster, pod, self._trust_domain).is_possible

    def _is_certain(self, found: Resolution, destination: Endpoint) -> bool:
        """Whether what is left to kube-proxy is known to be nobody's of the mesh.

        A service is; an unknown address may be a new pod's, if it is inside the mesh's ranges. Without a list of the
        pods nothing is.
        """
        is_beyond = not any(destination.address in cidr for cidr in self._mesh)
        return self._watch.cluster.pods.is_listed and (is_beyond or found.service is not None)
