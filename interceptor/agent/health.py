"""What is wrong with an enrolled workload: asked of the kernel and of its proxy at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.agent.clock import wall_clock
from interceptor.errors import InterceptorError
from interceptor.kernel.capture import is_attached
from interceptor.kernel.return_path import has_return_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.agent.enroller import Enrolled
    from interceptor.agent.node import Node


def problems_of(node: Node, enrolled: Enrolled) -> list[str]:
    """Everything that keeps one workload from being protected and served; empty when nothing does."""
    try:
        found = [*_capture_problems(node, enrolled)]
    except (InterceptorError, OSError) as error:
        found = [f"its state in the kernel cannot be read: {error}"]
    return [*found, *_certificate_problems(enrolled)]


def _capture_problems(node: Node, enrolled: Enrolled) -> Iterator[str]:
    if not is_attached(node.config.paths.bpf_dir):
        yield "the capture programs are not attached: restart the agent"
    if not node.capture.is_enrolled(enrolled.cookie):
        yield "the kernel does not capture its connections: withdraw and enrol it again"
    if not has_return_path(enrolled.netns):
        yield (
            "rules, routes or sysctls in its network namespace were changed, applications' answers get lost: "
            "withdraw and enrol it again"
        )


def _certificate_problems(enrolled: Enrolled) -> Iterator[str]:
    contexts = enrolled.proxy.context.tls.value
    if contexts is None:
        yield "it has no certificate: see 'interceptor certificates'"
    elif contexts.svid.not_after <= wall_clock():
        yield "its certificate has expired: see 'interceptor certificates'"
