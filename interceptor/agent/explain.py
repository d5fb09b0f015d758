"""`interceptor explain`: what would happen to one connection, step by step, each with its evidence.

The steps ask what the data plane asks, in its order: the same registry, the same policy, the certificates in use, and
the kernel for what is really captured and listened on.  Nothing is connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.explain_ends import (
    find_destination,
    find_source,
    preferred_address,
    routed,
    split_destination,
)
from interceptor.agent.explanation import Explanation
from interceptor.agent.health import problems_of
from interceptor.errors import EnrolmentError, utc
from interceptor.kernel.abi import INBOUND_TUNNEL_PORT
from interceptor.kernel.listening import is_listened_on
from interceptor.policy.policy_set import InboundAttempt, OutboundAttempt
from interceptor.policy.trace import explain_inbound, explain_outbound
from interceptor.policy.verdict import Denial, Reason, Transport
from interceptor.proxy.route import Way
from interceptor.workload import Workload

if TYPE_CHECKING:
    from interceptor.agent.explain_ends import Destination
    from interceptor.agent.node import Node
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.telemetry.recent import RecentConnections
    from interceptor.workload import Endpoint, IPAddress

_RECENT = 10_000  # more than are remembered
_WAYS = {
    Way.MESH: "which leads to pods of the mesh; the next one may get another of them",
    Way.OUTSIDE: "which leads out of the mesh",
    Way.NOBODY_NOW: "which has nobody who may serve it now",
    Way.NO_SUCH_PORT: "which has no such port",
}
_REASONS = {Way.NOBODY_NOW: Reason.UNKNOWN_DESTINATION, Way.NO_SUCH_PORT: Reason.DESTINATION_REFUSED}


async def explain(node: Node, source_text: str, destination_text: str) -> dict[str, object]:
    """What would happen if `source_text` (a workload, or any address) connected to `destination_text`.

    EnrolmentError for a source on another node: what is decided first is decided there.
    """
    host, port = split_destination(destination_text)
    source = find_source(node, source_text)
    if isinstance(source, Workload) and _is_elsewhere(node, source):
        raise EnrolmentError(f"{source.key} runs on node {source.node}: ask there")
    destination = find_destination(node, source, host, port)
    explanation = Explanation(
        str(source.key) if isinstance(source, Workload) else str(source), str(destination.endpoint)
    )
    if isinstance(source, Workload):
        await _from_workload(node, explanation, source, destination)
    else:
        await _from_outside(node, explanation, source, destination)
    _add_last_record(node.records.recent, explanation, destination)
    return explanation.to_dict()


async def _from_workload(
    node: Node, explanation: Explanation, source: Workload, destination: Destination
) -> None:
    problems = _problems(node, source)
    explanation.step(
        "source", f"{source.key} is {source.identity}; {problems or 'captured'}", passed=not problems
    )
    explanation.step("destination", destination.evidence)
    captured, evidence = _is_captured(node, source, destination)
    explanation.step("capture", evidence)
    if not captured:
        return
    route = node.locate(destination.endpoint, _same_family(source, destination.endpoint))
    if route.service:
        explanation.step("service", f"{destination.endpoint} is service {route.service}, {_WAYS[route.way]}")
    if route.way in _REASONS:
        explanation.deny("service", _REASONS[route.way])
        return
    destination = routed(node, destination, route)
    attempt = OutboundAttempt(
        source,
        destination.endpoint,
        destination.workload,
        node.now().timestamp(),
        route.way is Way.OUTSIDE,
    )
    trace = await trio.to_thread.run_sync(explain_outbound, node.policy.value, attempt)
    explanation.follow("outbound policy", trace)
    verdict = trace.verdict
    if isinstance(verdict, Denial) or destination.workload is None:
        return
    identity = None
    if verdict.transport is Transport.MUTUAL_TLS:
        identity = source.identity
        ours = [each for each in (source, destination.workload) if not _is_elsewhere(node, each)]
        if not all(_certificate(node, explanation, each) for each in ours):
            return
    await _arrive(node, explanation, destination, _same_family(source, destination.endpoint), identity)


async def _from_outside(
    node: Node, explanation: Explanation, source: IPAddress, destination: Destination
) -> None:
    explanation.step(
        "source",
        f"{source} belongs to no workload: it has no identity, and what it sends is plaintext",
    )
    explanation.step("destination", destination.evidence)
    if destination.workload is None:
        explanation.step("capture", "neither end is enrolled: the mesh does not see this connection")
        return
    if destination.endpoint.port == INBOUND_TUNNEL_PORT:
        explanation.deny("tunnel", Reason.PEER_WITHOUT_CERTIFICATE)
        return
    await _arrive(node, explanation, destination, source, None)


async def _arrive(
    node: Node,
    explanation: Explanation,
    destination: Destination,
    source: IPAddress,
    identity: SpiffeId | None,
) -> None:
    """The destination's half: its proxy, its policy, its application."""
    workload = destination.workload
    assert workload is not None
    if _is_elsewhere(node, workload):
        where = f"{workload.key} is on node {workload.node}: what its proxy decides can be asked there"
        explanation.step("inbound", where)
        return
    problems = _problems(node, workload)
    listener = "tunnel" if identity else "plaintext"
    explanation.step(
        "inbound capture",
        problems or f"what arrives at {workload.key} is steered to its proxy's {listener} listener",
        passed=not problems,
    )
    holder = node.registry.value.by_address(source)
    attempt = InboundAttempt(workload, destination.endpoint, source, identity, holder, node.now().timestamp())
    trace = await trio.to_thread.run_sync(explain_inbound, node.policy.value, attempt)
    explanation.follow("inbound policy", trace)
    if isinstance(trace.verdict, Denial):
        return
    enrolled = node.enroller.get(workload.key)
    if enrolled is not None and not is_listened_on(enrolled.netns, destination.endpoint):
        detail = f"nothing in {workload.key} listens on {destination.endpoint}"
        explanation.deny("application", Reason.DESTINATION_REFUSED, detail)
        return
    explanation.step(
        "application", f"a program in {workload.key} listens on port {destination.endpoint.port}"
    )


def _same_family(source: Workload, endpoint: Endpoint) -> IPAddress:
    return preferred_address(endpoint.address, [each for each in source.addresses if not each.is_link_local])


def _is_captured(node: Node, source: Workload, destination: Destination) -> tuple[bool, str]:
    """Whether connect(2) is redirected to the proxy, and why; the same rules as `connect_ipv4` in bpf/outbound.c."""
    address = destination.endpoint.address
    if address.is_loopback or address in source.addresses:
        return False, f"{address} is the workload itself: connections within a workload are left alone"
    network = next((each for each in node.config.mesh_cidrs if address in each), None)
    if network is not None:
        return True, f"{address} is inside {network}, which is the mesh's"
    if destination.workload is not None:
        return True, f"{address} is outside the mesh's CIDRs, but an enrolled workload has it"
    policies = node.policy.value
    if policies.pending:
        return True, f"{address} is outside the mesh's CIDRs, but nobody knows what the policies say of it"
    restricting = policies.egress.restricting(source.namespace, source.labels)
    if restricting:
        names = ", ".join(sorted(str(policy.head.name) for policy in restricting))
        return True, f"{address} is outside the mesh's CIDRs, but {names} holds wherever TCP connects to"
    return (
        False,
        f"{address} is outside the mesh's CIDRs, and no EgressPolicy restricts {source.key}: reached as if there were no mesh",
    )


def _certificate(node: Node, explanation: Explanation, workload: Workload) -> bool:
    status = node.credentials.status(workload.key)
    svid = status.svid if status else None
    if svid is None or svid.not_after <= wall_clock():
        detail = f"{workload.key} has none" if svid is None else f"that of {workload.key} has expired"
        explanation.deny("certificate", Reason.CERTIFICATE_MISSING, detail)
        return False
    explanation.step("certificate", f"{workload.key} has one, valid until {utc(svid.not_after)}")
    return True


def _is_elsewhere(node: Node, workload: Workload) -> bool:
    return node.registry.value.is_remote(workload.addresses[0])


def _problems(node: Node, workload: Workload) -> str:
    enrolled = node.enroller.get(workload.key)
    return "; ".join(problems_of(node, enrolled)) if enrolled else "it is being withdrawn"


def _add_last_record(recent: RecentConnections, explanation: Explanation, destination: Destination) -> None:
    """The last such connection that really was made, if one is remembered."""
    for record in recent.list(_RECENT, trio.current_time()):
        source = f"{record['source_namespace']}/{record['source_workload']}"
        address = str(record["source_address"]).rpartition(":")[0].strip("[]")
        if (
            explanation.source in (source, address)
            and record["destination_address"] == explanation.destination
        ):
            outcome = record["reason"] or f"permitted, {record['tls_version'] or 'plaintext'}"
            explanation.step(
                "last seen", f"at {record['time']}: {outcome}", passed=record["verdict"] == "permit"
            )
            return
