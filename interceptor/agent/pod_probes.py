"""Probes of this node's kubelet: recognised by its cgroup, and let through to the ports that the pods declare."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.errors import EnrolmentError, InterceptorError, KernelError
from interceptor.kernel.kubelet import find_kubelet_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from interceptor.agent.members import Enrolled
    from interceptor.kernel.probes import Probes
    from interceptor.node_pods.pods import NodePod

log = logging.getLogger(__name__)

SEARCH_SECONDS: Final = 10.0  # between two looks at all processes


class PodProbes:
    """Owner of what the kernel is told of probes.

    problem   why probes are treated as any plaintext, None when they are not
    refused   by UID, why some ports of a pod cannot be probed
    """

    def __init__(self, probes: Probes, cgroup: Path, configured: Path | None) -> None:
        """`cgroup` is the root of cgroup v2, `configured` the kubelet's cgroup if it need not be looked for."""
        self._probes = probes
        self._cgroup = cgroup
        self._configured = configured
        self._found: Path | None = None
        self._searched_at = -SEARCH_SECONDS
        self._declared: set[int] = set()
        self._is_told = False  # of all pods, once
        self.problem: str | None = None
        self.refused: dict[str, str] = {}

    def recognise(self, pods: Path) -> None:
        """Follow the kubelet, whose cgroup may be made anew; `pods` is the cgroup of all pods."""
        try:
            if self._configured is None and self._found is None:
                self._search(pods)
            self._take_for_kubelet(self._configured or self._found, pods)
        except InterceptorError as error:
            if str(error) != self.problem:
                log.warning("probes are treated as any plaintext: %s", error)
            self.problem, self._found = str(error), None
        else:
            self.problem = None if self._configured or self._found else self.problem

    def _take_for_kubelet(self, kubelet: Path | None, pods: Path) -> None:
        if kubelet is not None and pods.is_relative_to(kubelet):
            self._probes.recognise(None)  # pods on the host's network would pass for it
            raise KernelError(
                f"the pods' cgroup {pods} is below the kubelet's, {kubelet}: give the kubelet one of its own "
                "(a service manager does), and name that"
            )
        self._probes.recognise(kubelet)

    def _search(self, pods: Path) -> None:
        if trio.current_time() >= self._searched_at + SEARCH_SECONDS:
            self._searched_at = trio.current_time()
            self._found = find_kubelet_cgroup(self._cgroup, pods)

    def declare(self, enrolled: Iterable[Enrolled], pods: Mapping[str, NodePod]) -> None:
        """Let the kubelet reach the ports that these pods declare, and of all others none."""
        self.refused = {}
        current = set()
        for each in enrolled:
            pod = pods.get(each.state.pod_uid or "")
            if pod is not None and pod.probe_ports:
                current.add(each.cookie)
                self._try_to_declare(each, pod)
        for cookie in self._declared - current:
            self._probes.set_ports(cookie, (), ())
        self._declared = current
        if not self._is_told:
            self._probes.retain()
            self._is_told = True

    def _try_to_declare(self, enrolled: Enrolled, pod: NodePod) -> None:
        addresses = [a for a in enrolled.workload.addresses if not a.is_link_local]
        try:
            self._probes.set_ports(enrolled.cookie, addresses, pod.probe_ports)
        except EnrolmentError as error:
            self.refused[pod.uid] = str(error)
