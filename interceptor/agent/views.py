"""What the agent shows: every answer is looked up when it is asked for. The keys of the answers are stable."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from interceptor import __version__
from interceptor.agent.clock import wall_clock
from interceptor.agent.explain import explain
from interceptor.agent.explain_record import explain_connection
from interceptor.agent.health import authority_problems, problems_of, revocation_of
from interceptor.agent.node_view import node_view
from interceptor.credentials import certificate_state
from interceptor.errors import UsageError
from interceptor.identity.rotation import remaining_fraction
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.kernel import capture as kernel_capture
from interceptor.policy.lint import expiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.agent.members import CutOff, Enrolled
    from interceptor.agent.node import Node
    from interceptor.agent.state import EnrolledState
    from interceptor.credentials import CredentialStatus
    from interceptor.credentials.renewal import Certified

MAX_CONNECTIONS = 10_000


class Views:
    """Read-only answers about one node; JSON values only."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def workload(self, enrolled: Enrolled) -> dict[str, Any]:
        """One workload, measured now."""
        workload = enrolled.workload
        problems = problems_of(self._node, enrolled)
        return {
            "name": workload.name,
            "namespace": workload.namespace,
            "service_account": workload.service_account,
            "identity": str(workload.identity),
            "addresses": [str(address) for address in workload.addresses if not address.is_link_local],
            "labels": dict(workload.labels),
            "state": "degraded" if problems else "ready",
            "problems": problems,
            "connections": len(enrolled.proxy.context.live),
            **_place(enrolled.state),
            "netns_inode": enrolled.netns.inode,
            "netns_cookie": enrolled.cookie,
        }

    async def workloads(self, _: Mapping[str, Any]) -> object:
        """Every workload, those that could not be taken over from the last agent as well."""
        answer = [self._cut_off(cut_off) for cut_off in self._node.enroller.cut_off]
        for enrolled in self._node.enroller.enrolled:
            answer.append(self.workload(enrolled))
            await trio.lowlevel.checkpoint()  # each asks the kernel a few things; connections go on meanwhile
        return sorted(answer, key=lambda entry: (entry["namespace"], entry["name"]))

    async def connections(self, request: Mapping[str, Any]) -> object:
        """Live connections and then finished ones, each with the newest first."""
        limit = request.get("limit", 100)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= MAX_CONNECTIONS:
            raise UsageError(f"limit must be between 1 and {MAX_CONNECTIONS}")
        wanted = {key: request[key] for key in ("state", "verdict") if request.get(key) is not None}
        recent = self._node.records.recent
        if not wanted:
            return list(recent.list(limit, trio.current_time()))
        every = recent.list(MAX_CONNECTIONS, trio.current_time())
        return [entry for entry in every if wanted.items() <= entry.items()][:limit]

    async def certificates(self, _: Mapping[str, Any]) -> object:
        """The certificate of each workload; never a key."""
        return [self._certificate(enrolled) for enrolled in self._node.enroller.enrolled]

    async def status(self, _: Mapping[str, Any]) -> object:
        """The agent itself, and what is wrong with it or with any workload."""
        node = self._node
        missing = node.missing()
        attached = kernel_capture.is_attached(node.config.paths.bpf_dir)
        degraded = await self._degraded()
        problems = [] if attached or missing else ["the capture programs are not attached: restart the agent"]
        problems += authority_problems(node)
        problems += [f"{name}: {problem}" for name, found in degraded.items() for problem in found]
        problems += node.cluster.problems() if node.cluster is not None else ()
        if node.policies.error:
            kept = "everything is denied" if node.policy.value.pending else "those before stay in force"
            problems.append(f"policies refused, {kept}: {node.policies.error}")
        return {
            "version": __version__,
            "pid": os.getpid(),
            "node": node.config.node,
            "trust_domain": str(node.config.trust_domain),
            "mode": node.config.mode.value,
            "mesh_cidrs": [str(cidr) for cidr in node.config.mesh_cidrs],
            "started_at": node.started_at.isoformat(timespec="seconds"),
            "state": "starting" if missing else "degraded" if problems else "ready",
            "ready": not missing,
            "waiting_for": missing,
            "problems": problems,
            "programs_attached": attached,
            "workloads": len(node.enroller.enrolled),
            "degraded_workloads": list(degraded),
            "draining": node.predecessors.shown(),
            "connections_open": sum(len(each.proxy.context.live) for each in node.enroller.enrolled),
            "handshakes_captured": node.capture.pending_flows(),
            "authority": self._authority(),
            "authority_not_after": self._authority_not_after(),
            "kubernetes": node.cluster.shown() if node.cluster is not None else None,
            "policies": len(node.policy.value.documents),
            "policy_warnings": list(expiring(node.policy.value.documents, wall_clock())),
            "metrics_address": str(node.config.metrics_address),
            "kernel_counters": {
                counter.name.lower(): value for counter, value in node.capture.counters().items()
            },
        }

    async def node(self, _: Mapping[str, Any]) -> object:
        """Every pod of a node of a cluster."""
        return node_view(self._node)

    async def explain(self, request: Mapping[str, Any]) -> object:
        """Each step of the decision about one connection, with its evidence."""
        if request.get("connection") is not None:
            return await explain_connection(self._node, str(request["connection"]))
        return await explain(self._node, str(request.get("source", "")), str(request.get("destination", "")))

    def _authority(self) -> dict[str, Any]:
        """Where certificates come from, and whether it answers."""
        follower = self._node.follower
        own, document, age = self._node.credentials.node, follower.document, follower.trust_age()
        return {
            "address": str(follower.access.address) if follower.access.address else None,
            "node_certificate": {"identity": str(own.certificate.spiffe_id), **_life(own.certificate)}
            if own and own.certificate
            else None,
            "trust_bundle": document.bundle_hash if document else None,
            "trust_bundle_age_seconds": None if age is None else round(age, 1),
            "revocations": len(document.revoked.entries) if document else 0,
            "last_error": follower.last_error,
        }

    def _authority_not_after(self) -> str | None:
        """When the first of the intermediates ends that certificates here lead to."""
        ends = [
            each.not_valid_after_utc for svid in self._node.credentials.svids() for each in svid.chain[1:]
        ]
        return min(ends).isoformat() if ends else None

    async def _degraded(self) -> dict[str, list[str]]:
        found = {
            str(cut_off.state.key): [f"it is cut off: {cut_off.error}"]
            for cut_off in self._node.enroller.cut_off
        }
        for enrolled in self._node.enroller.enrolled:
            if problems := problems_of(self._node, enrolled):
                found[str(enrolled.workload.key)] = problems
            await trio.lowlevel.checkpoint()
        return found

    def _cut_off(self, cut_off: CutOff) -> dict[str, Any]:
        state = cut_off.state
        return {
            "name": state.key.name,
            "namespace": state.key.namespace,
            "service_account": state.service_account,
            "identity": str(
                SpiffeId(self._node.config.trust_domain, state.key.namespace, state.service_account)
            ),
            "addresses": [],
            "labels": dict(state.labels),
            "state": "cut_off",
            "problems": [f"all its connections are refused, it could not be taken over: {cut_off.error}"],
            "connections": 0,
            **_place(state),
            "netns_inode": state.reference.inode,
            "netns_cookie": None,
        }

    def _certificate(self, enrolled: Enrolled) -> dict[str, Any]:
        key = enrolled.workload.key
        status = self._node.credentials.status(key)
        return {
            "workload": key.name,
            "namespace": key.namespace,
            "identity": str(enrolled.workload.identity),
            **_svid(status),
            **({"state": "revoked"} if revocation_of(enrolled) is not None else {}),
            "renew_at": status.renew_at.isoformat() if status and status.renew_at else None,
            "issued": status.renewals if status else 0,
            "last_error": status.last_error if status else None,
        }


def _place(state: EnrolledState) -> dict[str, Any]:
    """Where a workload is on this machine: its network namespace, and what 'interceptor run' made for it."""
    reference = state.reference
    return {
        "netns": reference.path or f"pid {reference.process.pid if reference.process else '-'}",
        "pid": state.run.owner.pid if state.run else None,
        "host_link": state.run.host_link if state.run else None,
        "pod_uid": state.pod_uid,
    }


def _svid(status: CredentialStatus | None) -> dict[str, Any]:
    svid = status.svid if status else None
    if svid is None:
        names = ("serial_number", "not_before", "not_after", "remaining_seconds", "remaining_fraction")
        return {"state": "missing", **dict.fromkeys(names)}
    return {
        "state": certificate_state(svid, wall_clock()),
        "serial_number": svid.serial_number,
        "not_before": svid.not_before.isoformat(),
        **_life(svid),
    }


def _life(svid: Certified) -> dict[str, Any]:
    now = wall_clock()
    return {
        "not_after": svid.not_after.isoformat(),
        "remaining_seconds": round((svid.not_after - now).total_seconds()),
        "remaining_fraction": round(remaining_fraction(svid.issued_at, svid.not_after, now), 3),
    }
