"""Network namespaces, links, addresses, ports."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.netns import link_has_ipv6
from interceptor.kernel.preflight.finding import failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.preflight.finding import Finding
    from interceptor.kernel.preflight.subject import Subject

# Inside namespaces of our own: they cannot be anybody else's.
_HOST_IPV4, _GUEST_IPV4 = IPv4Interface("10.215.0.1/24"), IPv4Interface("10.215.0.2/24")
_HOST_IPV6, _GUEST_IPV6 = IPv6Interface("fd15:8::1/64"), IPv6Interface("fd15:8::2/64")
_CONTAINER_REMEDY = (
    "use a kernel with CONFIG_NET_NS, CONFIG_VETH and CONFIG_BRIDGE; in a container, run it privileged"
)


def check_links(subject: Subject) -> Iterator[Finding]:
    """What 'interceptor run' makes: a namespace joined to a bridge by a veth pair, here inside a second namespace."""
    with ExitStack() as undo:
        try:
            host, guest = (_namespace(subject, role, undo) for role in ("host", "guest"))
            with host.entered():
                netlink.ensure_bridge("doctor0", _HOST_IPV4, _HOST_IPV6)
                netlink.attach_to_bridge(
                    "doctor0", guest, "doctor1", (_GUEST_IPV4, _GUEST_IPV6), (_HOST_IPV4.ip, _HOST_IPV6.ip)
                )
            has_ipv6 = guest.has_ipv6()
        except (KernelError, EnrolmentError) as error:
            yield failure(str(error).replace(f"{subject.scratch}/", ""), _CONTAINER_REMEDY)
            return
    yield ok("network namespaces, veth pairs and bridges can be made")
    yield _judge_ipv6(in_namespaces=has_ipv6, on_links=link_has_ipv6("default"))


def _namespace(subject: Subject, role: str, undo: ExitStack) -> kernel_netns.NetworkNamespace:
    path = subject.scratch / f"netns-{role}"
    made = undo.enter_context(kernel_netns.create_named(path))
    undo.callback(kernel_netns.remove_named, path)
    return made


def _judge_ipv6(*, in_namespaces: bool, on_links: bool) -> Finding:
    if not in_namespaces:
        return warning(
            "no IPv6: workloads get IPv4 addresses only", "boot without ipv6.disable=1, if it is wanted"
        )
    if not on_links:
        return warning(
            "IPv6 is switched off for new links: the bridge gets an IPv4 address only",
            "sysctl net.ipv6.conf.default.disable_ipv6=0, if it is wanted",
        )
    return ok("IPv6 is there")


def check_addresses(subject: Subject) -> Iterator[Finding]:
    """The bridge's subnets must be free: the host would lose its way to whoever else has them."""
    bridge = subject.config.bridge
    try:
        present = [(each, socket.if_indextoname(each.link_index)) for each in netlink.addresses()]
    except (KernelError, OSError) as error:
        yield failure(f"this host's addresses cannot be listed ({error})", "use a kernel with CONFIG_INET")
        return
    for wanted in (bridge.ipv4, bridge.ipv6):
        for each, link in present:
            theirs = ip_interface(f"{each.address}/{each.prefix_length}")
            is_ours = link == bridge.name or each.scope == "link" or each.address.version != wanted.version
            if not is_ours and wanted.network.overlaps(theirs.network):
                yield failure(
                    f"{wanted.network} of bridge {bridge.name} overlaps with {theirs} on {link}",
                    f"choose another bridge.ipv{wanted.version}, and mesh.cidrs to match",
                )
                return
    yield ok(f"{bridge.ipv4.network} and {bridge.ipv6.network} are free")


def check_metrics_port(subject: Subject) -> Iterator[Finding]:
    """The metrics port: free, or held by our own agent."""
    endpoint = subject.config.metrics_address
    family = netlink.family_of(endpoint.address)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(endpoint.address), endpoint.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and subject.own_agent:
            yield ok(f"{endpoint} is held by the agent that is running")
            return
        yield failure(
            f"{endpoint} cannot be listened on ({error.strerror})", "set metrics.address to a free one"
        )
        return
    yield ok(f"{endpoint} is free")
