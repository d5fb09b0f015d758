"""The verbs of the admin socket: what changes the set of workloads, and how a request becomes a validated one."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from interceptor.agent.members import Request
from interceptor.agent.policy_requests import PolicyRequests
from interceptor.agent.reference import NamespaceReference, Process
from interceptor.agent.state import RunDetails
from interceptor.agent.views import Views
from interceptor.cluster.membership import ENABLED, MESH_LABEL, NONE
from interceptor.enrolment.address_pool import next_addresses
from interceptor.errors import EnrolmentError, UsageError
from interceptor.identity.spiffe_id import validate_name
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.labels import Labels
from interceptor.workload import WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.admin import Command
    from interceptor.agent.node import Node
    from interceptor.workload import IPAddress

STOP_OWNER_SECONDS = 5.0
LAST_REPORT_SECONDS = 2.0
READY_SECONDS = 20.0
DEFAULT_NAMESPACE = "default"


class Requests:
    """What can be asked of one node."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery
        self._views = Views(node)
        # A name and addresses are chosen, and then enrolled: nobody else may choose meanwhile.
        self._choosing = trio.Lock()

    @property
    def commands(self) -> dict[str, Command]:
        """Every command by its name on the admin socket."""
        return {
            "enrol": self._enrol,
            "run": self._run,
            "withdraw": self._withdraw,
            "down": self._down,
            "workloads": self._views.workloads,
            "connections": self._views.connections,
            "certificates": self._views.certificates,
            "status": self._views.status,
            "node": self._views.node,
            "explain": self._views.explain,
            **PolicyRequests(self._node).commands,
        }

    async def _enrol(self, request: Mapping[str, Any]) -> object:
        """Take an existing network namespace in."""
        self._require_no_cluster()
        await self._node.ready.wait()
        async with self._choosing:
            return await self._enrol_chosen(request)

    async def _enrol_chosen(self, request: Mapping[str, Any]) -> object:
        if (request.get("netns") is None) == (request.get("pid") is None):
            raise UsageError("give either the name or path of a network namespace, or a pid")
        if request.get("pid") is not None:
            reference, netns = NamespaceReference.by_pid(_integer(request, "pid"))
        else:
            reference, netns = NamespaceReference.by_path(_text(request, "netns"))
        with ExitStack() as undo:
            undo.callback(netns.close)
            namespace, account = self._names(request)
            name = _text(request, "name") if request.get("name") else self._free_name(namespace, account)
            wanted = Request(namespace, name, account, reference, labels=_labels(request))
            undo.pop_all()
        enrolled = await self._node.enroller.enrol(wanted, netns, self._nursery)
        return self._views.workload(enrolled)

    async def _run(self, request: Mapping[str, Any]) -> object:
        """Make a network namespace on the bridge for a command that process `pid` is about to run."""
        self._require_no_cluster()
        await self._node.ready.wait()
        async with self._choosing:
            return await self._run_chosen(request)

    async def _run_chosen(self, request: Mapping[str, Any]) -> object:
        owner = Process.find(_integer(request, "pid"))
        namespace, account = self._names(request)
        name = _text(request, "name") if request.get("name") else self._free_name(namespace, account)
        key = WorkloadKey(namespace, name)
        bridge = self._node.config.bridge
        self._node.ensure_bridge()
        path = self._node.config.paths.run_dir / "netns" / f"{namespace}.{name}"
        host_link = netlink.host_link_name(f"{self._node.config.node}/{key}")
        if self._node.enroller.get(key) is not None:
            raise EnrolmentError(f"workload {key} is enrolled already: choose another --name")
        with ExitStack() as undo:
            netns = kernel_netns.create_named(path)
            undo.callback(kernel_netns.remove_named, path)
            with ExitStack() as close:
                close.callback(netns.close)
                interfaces = next_addresses(bridge.ipv4, bridge.ipv6, self._taken_addresses())
                netlink.attach_to_bridge(
                    bridge.name, netns, host_link, interfaces, (bridge.ipv4.ip, bridge.ipv6.ip)
                )
                undo.callback(netlink.remove_link, host_link)
                close.pop_all()
            reference = NamespaceReference.of(netns, path=str(path))
            run = RunDetails(owner, host_link)
            wanted = Request(namespace, name, account, reference, run, _labels(request))
            enrolled = await self._node.enroller.enrol(wanted, netns, self._nursery)
            undo.pop_all()
        self._node.hosts.write(self._node.registry.value)
        return {
            **self._views.workload(enrolled),
            "netns_path": str(path),
            "hosts_path": str(self._node.hosts.path(namespace)),
        }

    async def _withdraw(self, request: Mapping[str, Any]) -> object:
        await self._node.ready.wait()
        key = self._find(_text(request, "name"))
        enrolled = self._node.enroller.get(key)
        if self._node.cluster is not None and enrolled is not None and enrolled.state.pod_uid is not None:
            raise EnrolmentError(
                f"{key} is a pod of the cluster, which says that it is in the mesh: change the labels of its namespace, "
                f"or give it the label {MESH_LABEL}={NONE}"
            )
        if request.get("drain") is True:
            await self._node.enroller.drain(key)
        await self._node.enroller.withdraw(key)
        return {"withdrawn": str(key)}

    def _require_no_cluster(self) -> None:
        if self._node.cluster is not None:
            raise EnrolmentError(
                "this is a node of a cluster, whose pods are its workloads: give a pod's namespace the label "
                f"{MESH_LABEL}={ENABLED}"
            )

    def _find(self, name: str) -> WorkloadKey:
        """A workload by its name, also one that is cut off and therefore not in the registry."""
        for cut_off in self._node.enroller.cut_off:
            key = cut_off.state.key
            if name in (str(key), key.name) and self._node.enroller.get(key) is None:
                return key
        found = self._node.registry.value.find(name)
        if self._node.enroller.get(found.key) is None:
            raise EnrolmentError(f"workload {found.key} runs on node {found.node}: withdraw it there")
        return found.key

    async def _down(self, request: Mapping[str, Any]) -> object:
        del request
        with trio.move_on_after(READY_SECONDS):
            await self._node.ready.wait()
        if self._node.cluster is not None and self._node.cluster.keeper is not None:
            self._node.cluster.keeper.stop()
        # One that never was ready has taken nothing over: whoever asked removes what the last agent left.
        withdrawn = []
        for enrolled in self._node.enroller.enrolled:
            if enrolled.state.run is not None:
                await _end_process(enrolled.state.run.owner)
            if self._node.enroller.get(enrolled.workload.key) is enrolled:
                await self._node.enroller.withdraw(enrolled.workload.key)
            withdrawn.append(str(enrolled.workload.key))
        # Their names and addresses are free for other nodes then.
        if self._node.follower.document is not None:
            await self._node.follower.reporter.send_last(LAST_REPORT_SECONDS)
        self._node.stop()
        return {"withdrawn": withdrawn, "pid": os.getpid()}

    def _names(self, request: Mapping[str, Any]) -> tuple[str, str]:
        namespace = _text(request, "namespace") if request.get("namespace") else DEFAULT_NAMESPACE
        return namespace, validate_name("service account", _text(request, "service_account"))

    def _free_name(self, namespace: str, account: str) -> str:
        """The service account's name, with a number when somebody has it already."""
        base = account.replace(".", "-")[:60]
        taken = {w.name for w in self._node.registry.value.workloads if w.namespace == namespace}
        number, name = 1, base
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        return name

    def _taken_addresses(self) -> set[IPAddress]:
        served = {a for workload in self._node.registry.value.workloads for a in workload.addresses}
        return served.union(*(cut_off.state.addresses for cut_off in self._node.enroller.cut_off))


async def _end_process(process: Process) -> None:
    """Ask a process to end, and make it after a while; one that has ended is no error."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not process.is_alive():
            return
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
        with trio.move_on_after(STOP_OWNER_SECONDS):
            while process.is_alive():  # noqa: ASYNC110 - a process that is not our child has no event
                await trio.sleep(0.02)


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key} is missing in the request")
    return value


def _labels(request: Mapping[str, Any]) -> Labels:
    value = request.get("labels") or {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise UsageError("labels must be an object of texts")
    return Labels(value)


def _integer(request: Mapping[str, Any], key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UsageError(f"{key} must be a positive number, not {str(value)[:32]!r}")
    return value
