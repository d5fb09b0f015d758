"""A node's side towards its cluster: the API that it follows, and who is told what of it."""

from __future__ import annotations

import logging
import os
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.cluster_policies import ClusterPolicies
from interceptor.agent.cluster_routes import ClusterRoutes
from interceptor.agent.outside import Outside
from interceptor.agent.pod_gate import PodGate
from interceptor.agent.pod_keeper import PodKeeper
from interceptor.agent.pod_probes import PodProbes
from interceptor.agent.pod_status import PodStatus
from interceptor.agent.policy_files import PolicyFiles
from interceptor.agent.policy_keeper import mesh_of
from interceptor.cluster.cluster import Kind
from interceptor.cluster.head import ObjectKey
from interceptor.errors import ClusterError, UsageError, utc
from interceptor.identity.rotation import backoff
from interceptor.kernel.hold import Hold
from interceptor.kernel.probes import Probes
from interceptor.kubernetes.access import as_said, in_pod
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.informer import LONGEST_PAUSE
from interceptor.kubernetes.listing import zone_of_node
from interceptor.kubernetes.removal import is_being_removed
from interceptor.kubernetes.resource import EVERYTHING, POLICIES
from interceptor.node_pods.elsewhere import pods_outside_cidrs
from interceptor.policy.parse import parse_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from interceptor.agent.enroller import Enroller
    from interceptor.agent.node import Node
    from interceptor.config import Config, KubernetesConfig
    from interceptor.enrolment.registry import Registry
    from interceptor.kernel.bpf_program import Programs
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.policy.documents import Document
    from interceptor.proxy.snapshot import Snapshot

log = logging.getLogger(__name__)

_randomness = random.SystemRandom()
NAMESPACE_VARIABLE: Final = "POD_NAMESPACE"
DAEMONSET_VARIABLE: Final = "DAEMONSET"
# What the node waits for before anything is decided; without it everything would be denied at first.
POLICY_WAIT_SECONDS: Final = 5.0
MOST_SKEW: Final = timedelta(seconds=30)  # certificates are issued as of a minute ago
EVERYTHING_WAIT_SECONDS: Final = 10.0
# Without these nothing can be said of any pod, or everything is denied; what else is missing is a problem of its own.
_NEEDED: Final = frozenset(
    kind.value.replace("_", " ")
    for kind in (Kind.NAMESPACE, Kind.POD, Kind.PEER_AUTHENTICATION, Kind.AUTHORIZATION_POLICY)
)


class ClusterSide:
    """Made before the event loop runs, which is when a wrong access is told.

    watch     the cluster's state
    policies  where the node's policies are read from
    routes    where connections to services lead
    keeper    who enrols its pods; None until the node is made
    status    who tells the API how they stand; None until then too
    """

    def __init__(self, config: Config, cluster: KubernetesConfig) -> None:
        """InterceptorError when the API cannot be asked like this."""
        self._config = config
        self._cluster = cluster
        access = _access(cluster)
        self.server = access.server
        self._daemonset = _daemonset(os.environ)
        self._client = ApiClient(access)
        self.watch = ClusterWatch(self._client, (*EVERYTHING, *POLICIES))
        mesh = mesh_of(config)

        def parse(place: str, text: str) -> tuple[Document, ...]:
            return parse_file(place, text, mesh)

        self.policies = ClusterPolicies(PolicyFiles(config.paths.policies, mesh), self.watch, parse)
        self.routes = ClusterRoutes(config, self.watch)
        self.keeper: PodKeeper | None = None
        self.status: PodStatus | None = None
        self._outside: Outside | None = None

    def keep_pods(
        self,
        programs: Programs,
        cgroup: Path,
        enroller: Enroller,
        registry: Snapshot[Registry],
        redecide: Callable[[], Awaitable[object]],
    ) -> None:
        """Have a keeper for the node's pods; `cgroup` is the root of cgroup v2."""
        bpf_dir, limits = self._config.paths.bpf_dir, self._config.limits
        hold = Hold(programs, bpf_dir)
        self._outside = Outside(hold, limits.connect_timeout.total_seconds())
        self.keeper = PodKeeper(
            self._config,
            cgroup,
            self.watch,
            enroller,
            registry,
            PodGate(hold, self._outside),
            PodProbes(Probes(programs, bpf_dir), cgroup, self._cluster.kubelet_cgroup),
            redecide,
        )

    def tell_of(self, node: Node) -> None:
        """Have somebody who tells the API how the node's pods stand."""
        assert self.keeper is not None, "it is told of pods that are kept"
        self.status = PodStatus(
            node, self.keeper, self._client, writes_conditions=self._cluster.pod_conditions
        )
        node.records.metrics.follow_pods(self.status.samples)

    async def run(self) -> None:
        """Follow the API, until cancelled."""
        async with self._client, trio.open_nursery() as nursery:
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self._find_zone)

    async def _find_zone(self) -> None:
        """Where this node is: topology hints are about it, and it does not change while a node is there."""
        attempt = 0
        while True:
            try:
                self.routes.zone = await zone_of_node(self._client, self._config.node)
            except ClusterError as error:
                if attempt == 0:
                    log.warning("topology hints are not followed yet: %s", error)
                await trio.sleep(min(backoff(attempt, _randomness.random()), LONGEST_PAUSE).total_seconds())
                attempt += 1
            else:
                return

    async def wait_for_policies(self) -> None:
        """For a while: who starts while the API is away denies everything until it is back, and says so."""
        with trio.move_on_after(POLICY_WAIT_SECONDS):
            while not self.policies.is_known:
                await self.watch.wait_changed()

    @property
    def carried(self) -> int:
        """How many connections of pods outside of the mesh are carried on, because they were held once."""
        return 0 if self._outside is None else self._outside.carried

    async def wait_until_known(self) -> None:
        """Until the API has said all that decisions need; what else it tells is waited for a while."""
        with trio.move_on_after(EVERYTHING_WAIT_SECONDS):
            while self.watch.waiting_for:
                await self.watch.wait_changed()
        while self._needed():
            await self.watch.wait_changed()

    async def is_being_removed(self) -> bool:
        """Whether the agent stops because the mesh is being taken out of the cluster, and nobody will come after it."""
        if self._daemonset is None:
            return False
        return await is_being_removed(self._client, self.watch.cluster, self._daemonset)

    def waiting_for(self) -> list[str]:
        """What keeps the node from being ready, a line each."""
        return [*self._needed(), *(self.keeper.waiting_for() if self.keeper is not None else ())]

    def _needed(self) -> list[str]:
        return [self._listing(each) for each in self.watch.waiting_for if each in _NEEDED]

    def warnings(self) -> list[str]:
        """What is not as it shall be and does not keep the node from being ready, a line each."""
        listed = [
            f"waiting for {self._listing(each)}" for each in self.watch.waiting_for if each not in _NEEDED
        ]
        return [*listed, *self._problems_here()]

    def _listing(self, what: str) -> str:
        why = self.watch.why_not(what)
        return f"the Kubernetes API's {what}{f': {why}' if why else ''}"

    def problems(self) -> list[str]:
        """What is wrong with the API's answers, and with this node's pods, a line each."""
        config = self._config
        # A look at every pod of the cluster: not for each probe of the kubelet.
        outside = pods_outside_cidrs(self.watch.cluster, config.trust_domain, config.mesh_cidrs)
        return [*self._problems_here(), *([outside] if outside else ())]

    def _problems_here(self) -> list[str]:
        found = [*self.watch.problems, *self.policies.problems, *self._skew()]
        if self.status is not None:
            found += self.status.problems
        if self.keeper is not None:
            pods = self.keeper.pods
            found += [
                f"pod {pods[uid].key if uid in pods else uid}: {problem}"
                for uid, problem in self.keeper.trouble.items()
            ]
            found += [
                f"pod {pods[uid].key}: {why}"
                for uid, why in self.keeper.probes.refused.items()
                if uid in pods
            ]
            if self.keeper.probes.problem is not None:
                found.append(
                    f"probes of the kubelet are treated as any plaintext: {self.keeper.probes.problem}"
                )
            if self.keeper.unguarded is not None:
                found.append(f"new pods do not wait until they are known: {self.keeper.unguarded}")
        return found

    def _skew(self) -> list[str]:
        """Certificates are about time: a clock that is wrong is named before they cannot be renewed."""
        theirs, ours = self._client.time(), wall_clock()
        if theirs is None or abs(ours - theirs) <= MOST_SKEW:
            return []
        return [
            f"this node's clock shows {utc(ours)}, that of the API server {utc(theirs)}: set the one that is wrong"
        ]

    def count(self, state: str) -> int:
        """How many of the node's pods are shown in this state."""
        pods = self.keeper.shown() if self.keeper is not None else []
        return sum(pod["state"] == state for pod in pods)

    def shown(self) -> dict[str, object]:
        """For the status; the keys are stable."""
        return {
            "server": self.server,
            "waiting_for": self.watch.waiting_for,
            "problems": self.problems(),
            "pods": self.keeper.shown() if self.keeper is not None else [],
        }


def _daemonset(environment: Mapping[str, str]) -> ObjectKey | None:
    """Whose pod this is, as its manifest says."""
    namespace, name = environment.get(NAMESPACE_VARIABLE), environment.get(DAEMONSET_VARIABLE)
    return ObjectKey(namespace, name) if namespace and name else None


def _access(cluster: KubernetesConfig) -> ApiAccess:
    if cluster.server is not None:
        return as_said(cluster.server, cluster.token_file, cluster.ca_file)
    if cluster.token_file is not None or cluster.ca_file is not None:
        raise UsageError("kubernetes.tokenFile and kubernetes.caFile belong to kubernetes.server, set it too")
    found = in_pod(os.environ)
    if found is None:
        raise UsageError("this is no pod, so the API server must be named: set kubernetes.server")
    return found
