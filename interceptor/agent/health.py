"""What is wrong with an enrolled workload, or with the node: asked of the kernel and of the proxy at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.agent.clock import wall_clock
from interceptor.errors import InterceptorError, PeerRejected, utc
from interceptor.identity.certificates import fingerprint
from interceptor.identity.rotation import is_late
from interceptor.identity.trust_bundle import serial_numbers
from interceptor.kernel.capture import is_attached
from interceptor.kernel.return_path import has_return_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.agent.members import Enrolled
    from interceptor.agent.node import Node


def problems_of(node: Node, enrolled: Enrolled) -> list[str]:
    """Everything that keeps one workload from being protected and served; empty when nothing does."""
    return [*_capture_problems(node, enrolled), *_certificate_problems(node, enrolled)]


def capture_problem(node: Node, enrolled: Enrolled) -> str | None:
    """What of the capture of one workload is not as it must be; None when all of it is."""
    return next(iter(_capture_problems(node, enrolled)), None)


def authority_problems(node: Node) -> list[str]:
    """What of the node's own certificate and of the authorities above is past three quarters of its life, and a refusal."""
    now, found = wall_clock(), []
    own = node.credentials.node
    if own is not None and own.certificate is not None:
        svid = own.certificate
        if is_late(svid.issued_at, svid.not_after, now):
            why = own.last_error or "no renewal was tried yet"
            found.append(f"the node's own certificate, until {utc(svid.not_after)}, was not renewed: {why}")
    if node.follower.clock_skew is not None:
        found.append(f"clocks differ, nothing can be renewed: {node.follower.clock_skew}")
    if node.follower.refusal is not None:
        found.append(f"the authority refuses this node: {node.follower.refusal}")
    found += _keeping_problems(node)
    intermediates = {each for svid in node.credentials.svids() for each in svid.chain[1:]}
    for kind, remedy, authorities in (
        ("intermediate", "put the root key back, or 'interceptor ca rotate intermediate'", intermediates),
        ("root", "begin with 'interceptor ca rotate prepare'", set(node.follower.own_roots())),
    ):
        found += [
            f"the authority's {kind} certificate {fingerprint(each)[:16]} ends at {utc(each.not_valid_after_utc)}: "
            f"{remedy}"
            for each in authorities
            if is_late(each.not_valid_before_utc, each.not_valid_after_utc, now)
        ]
    return found


def _keeping_problems(node: Node) -> Iterator[str]:
    """What a restart, or a boot, would lose."""
    unkept, no_return = node.follower.unkept, node.follower.access.problem
    if unkept is not None:
        yield f"a restart would lose what this node believes now, a rotation waits for it: {unkept}"
    if no_return is not None:
        yield f"this node could not come back by itself after a boot: {no_return}"


def revocation_of(enrolled: Enrolled) -> str | None:
    """Why nobody believes the certificate that a workload uses; None when it is not revoked, or there is none."""
    contexts = enrolled.proxy.context.tls.value
    if contexts is None:
        return None
    try:
        contexts.bundles.require_not_revoked(contexts.svid.spiffe_id, serial_numbers(contexts.svid.chain))
    except PeerRejected as error:
        return str(error)
    return None


def _capture_problems(node: Node, enrolled: Enrolled) -> list[str]:
    try:
        return [*_read_from_the_kernel(node, enrolled)]
    except (InterceptorError, OSError) as error:
        return [f"its state in the kernel cannot be read: {error}"]


def _read_from_the_kernel(node: Node, enrolled: Enrolled) -> Iterator[str]:
    if not is_attached(node.config.paths.bpf_dir):
        yield "the capture programs are not attached: restart the agent"
    if not node.capture.is_enrolled(enrolled.cookie):
        yield "the kernel does not capture its connections: withdraw and enrol it again"
    if not has_return_path(enrolled.netns):
        yield (
            "rules, routes or sysctls in its network namespace were changed, applications' answers get lost: "
            "withdraw and enrol it again"
        )


def _certificate_problems(node: Node, enrolled: Enrolled) -> Iterator[str]:
    contexts = enrolled.proxy.context.tls.value
    if contexts is None:
        status = node.credentials.status(enrolled.workload.key)
        why = status.last_error if status and status.last_error else "see 'interceptor certificates'"
        yield f"it has no certificate: {why}"
        return
    svid, now = contexts.svid, wall_clock()
    if svid.not_after <= now:
        yield "its certificate has expired: see 'interceptor certificates'"
    elif svid.not_before > now:
        yield f"its certificate is not valid before {utc(svid.not_before)}, by this node's clock it is {utc(now)}: set it"
    elif is_late(svid.issued_at, svid.not_after, now):
        status = node.credentials.status(enrolled.workload.key)
        why = status.last_error if status and status.last_error else "see 'interceptor certificates'"
        yield f"its certificate is past three quarters of its life and was not renewed: {why}"
    if (revocation := revocation_of(enrolled)) is not None:
        yield f"all its connections are refused: {revocation}"
