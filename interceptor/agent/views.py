"""What the agent shows: every answer is looked up when it is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from interceptor import __version__
from interceptor.agent.clock import wall_clock
from interceptor.errors import EnrolmentError, InterceptorError, UsageError
from interceptor.identity.rotation import remaining_fraction
from interceptor.kernel import capture as kernel_capture
from interceptor.kernel.return_path import has_return_path
from interceptor.policy.policy_set import InboundAttempt, OutboundAttempt
from interceptor.policy.verdict import Denial, Permit, Transport
from interceptor.workload import Endpoint, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.agent.enroller import Enrolled
    from interceptor.agent.node import Node
    from interceptor.policy.verdict import Verdict
    from interceptor.workload import Workload

MAX_CONNECTIONS = 10_000


class Views:
    """Read-only answers about one node; JSON values only."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def workload(self, enrolled: Enrolled) -> dict[str, Any]:
        """One workload, measured now."""
        problems = self._problems(enrolled)
        state = enrolled.state
        return {
            "name": enrolled.workload.name,
            "namespace": enrolled.workload.namespace,
            "service_account": enrolled.workload.service_account,
            "identity": str(enrolled.workload.identity),
            "addresses": [
                str(address) for address in enrolled.workload.addresses if not address.is_link_local
            ],
            "state": "degraded" if problems else "ready",
            "problems": problems,
            "connections": len(enrolled.proxy.context.live),
            "netns": state.reference.path
            or f"pid {state.reference.process.pid if state.reference.process else '-'}",
            "netns_inode": enrolled.netns.inode,
            "netns_cookie": enrolled.cookie,
            "pid": state.run.owner.pid if state.run else None,
        }

    async def workloads(self, _: Mapping[str, Any]) -> object:
        return [self.workload(enrolled) for enrolled in self._node.enroller.enrolled]

    async def connections(self, request: Mapping[str, Any]) -> object:
        limit = request.get("limit", 100)
        if not isinstance(limit, int) or not 0 < limit <= MAX_CONNECTIONS:
            raise UsageError(f"limit must be between 1 and {MAX_CONNECTIONS}")
        return list(self._node.records.recent.list(limit, trio.current_time()))

    async def certificates(self, _: Mapping[str, Any]) -> object:
        return [self._certificate(enrolled) for enrolled in self._node.enroller.enrolled]

    async def status(self, _: Mapping[str, Any]) -> object:
        node = self._node
        enrolled = node.enroller.enrolled
        missing = node.missing()
        attached = kernel_capture.is_attached(node.config.paths.bpf_dir)
        degraded = [str(e.workload.key) for e in enrolled if self._problems(e)]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "node": node.config.node,
            "trust_domain": str(node.config.trust_domain),
            "mode": node.config.mode.value,
            "mesh_cidrs": [str(cidr) for cidr in node.config.mesh_cidrs],
            "started_at": node.started_at.isoformat(timespec="seconds"),
            "ready": not missing,
            "waiting_for": missing,
            "programs_attached": attached,
            "workloads": len(enrolled),
            "degraded_workloads": degraded,
            "connections_open": sum(len(e.proxy.context.live) for e in enrolled),
            "handshakes_captured": node.capture.pending_flows(),
            "authority_not_after": node.signer.authority.not_after.isoformat(),
            "kernel_counters": {
                counter.name.lower(): value for counter, value in node.capture.counters().items()
            },
        }

    async def explain(self, request: Mapping[str, Any]) -> object:
        """Each step of the decision about one connection, with its evidence."""
        registry = self._node.registry.value
        source = registry.find(str(request.get("source", "")))
        host, separator, port = str(request.get("destination", "")).rpartition(":")
        if not separator or not port.isdecimal():
            raise UsageError("the destination must be NAME:PORT, ADDRESS:PORT or [IPV6]:PORT")
        steps: list[dict[str, object]] = []
        enrolled = self._node.enroller.get(source.key)
        assert enrolled is not None
        problems = self._problems(enrolled)
        _step(
            steps,
            "source",
            not problems,
            f"{source.key} is {source.identity}, " + (problems[0] if problems else "captured"),
        )
        try:
            destination = registry.find(host.strip("[]"))
        except EnrolmentError:
            destination = None
        address = (
            destination.addresses[0]
            if destination and not _is_address(host)
            else parse_address(host.strip("[]"))
        )
        endpoint = Endpoint(address, int(port))
        if address in source.addresses:
            _step(steps, "capture", True, f"{address} is the workload's own address: never captured")
            return _result(steps, "untouched", None)
        networks = [*self._node.config.mesh_cidrs]
        within = next((str(n) for n in networks if n.version == address.version and address in n), None)
        if within is None and destination is None:
            _step(steps, "capture", True, f"{address} is outside the mesh's CIDRs: not captured")
            return _result(steps, "untouched", None)
        _step(
            steps,
            "capture",
            True,
            f"{address} is inside {within}" if within else f"{address} is an enrolled workload's",
        )
        known = (
            f"{address} belongs to {destination.key}, {destination.identity}"
            if destination
            else f"nobody has {address}"
        )
        _step(steps, "registry", destination is not None, known)
        verdict = self._node.policy.value.decide_outbound(OutboundAttempt(source, endpoint, destination))
        _step(
            steps,
            "outbound policy",
            isinstance(verdict, Permit),
            _verdict_text(verdict, self._node.config.mode.value),
        )
        if isinstance(verdict, Permit) and destination is not None:
            verdict = self._explain_inbound(steps, verdict, source, destination, endpoint)
        return _result(steps, "permit" if isinstance(verdict, Permit) else "denial", verdict)

    def _explain_inbound(
        self,
        steps: list[dict[str, object]],
        permit: Permit,
        source: Workload,
        destination: Workload,
        endpoint: Endpoint,
    ) -> Verdict:
        encrypted = permit.transport is Transport.MUTUAL_TLS
        for workload in (source, destination) if encrypted else ():
            status = self._node.credentials.status(workload.key)
            valid = status is not None and status.svid is not None
            text = f"{workload.key}: " + (
                f"valid until {status.svid.not_after:%Y-%m-%dT%H:%M:%SZ}"
                if status and status.svid
                else "none"
            )
            _step(steps, "certificate", valid, text)
        family = [a for a in source.addresses if a.version == endpoint.address.version]
        attempt = InboundAttempt(
            destination,
            endpoint,
            family[0] if family else source.addresses[0],
            source.identity if encrypted else None,
        )
        verdict = self._node.policy.value.decide_inbound(attempt)
        _step(
            steps,
            "inbound policy",
            isinstance(verdict, Permit),
            _verdict_text(verdict, self._node.config.mode.value),
        )
        return verdict

    def _certificate(self, enrolled: Enrolled) -> dict[str, Any]:
        key = enrolled.workload.key
        status = self._node.credentials.status(key)
        svid = status.svid if status else None
        now = wall_clock()
        return {
            "workload": key.name,
            "namespace": key.namespace,
            "identity": str(enrolled.workload.identity),
            "serial_number": svid.serial_number if svid else None,
            "not_before": svid.not_before.isoformat() if svid else None,
            "not_after": svid.not_after.isoformat() if svid else None,
            "remaining_seconds": round((svid.not_after - now).total_seconds()) if svid else None,
            "remaining_fraction": round(remaining_fraction(svid.issued_at, svid.not_after, now), 3)
            if svid
            else None,
            "renew_at": status.renew_at.isoformat() if status and status.renew_at else None,
            "issued": status.renewals if status else 0,
            "state": "valid" if svid and svid.not_after > now else "missing" if svid is None else "expired",
            "last_error": status.last_error if status else None,
        }

    def _problems(self, enrolled: Enrolled) -> list[str]:
        problems = []
        try:
            if not self._node.capture.is_enrolled(enrolled.cookie):
                problems.append("the kernel does not capture it")
            if not kernel_capture.is_attached(self._node.config.paths.bpf_dir):
                problems.append("the capture programs are not attached")
            if not has_return_path(enrolled.netns):
                problems.append("the return path for client addresses is incomplete")
        except InterceptorError as error:
            problems.append(str(error))
        svid = enrolled.proxy.context.tls.value
        if svid is None:
            problems.append("it has no certificate")
        elif svid.svid.not_after <= wall_clock():
            problems.append("its certificate has expired")
        return problems


def _step(steps: list[dict[str, object]], name: str, passed: bool, evidence: str) -> None:
    steps.append({"step": name, "ok": passed, "evidence": evidence})


def _verdict_text(verdict: Verdict, mode: str) -> str:
    if isinstance(verdict, Denial):
        return f"denied: {verdict.reason}: {verdict.reason.explanation}"
    how = "mutual TLS" if verdict.transport is Transport.MUTUAL_TLS else "plaintext"
    return f"mode {mode}: permitted, by {how}"


def _result(steps: list[dict[str, object]], verdict: str, decision: Verdict | None) -> dict[str, object]:
    reason = decision.reason.value if isinstance(decision, Denial) else None
    return {"steps": steps, "verdict": verdict, "reason": reason}


def _is_address(text: str) -> bool:
    try:
        parse_address(text.strip("[]"))
    except InterceptorError:
        return False
    return True
