"""What of the registry becomes known here: others' workloads, where this node captures."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from interceptor.agent.remote_workloads import remote_workloads
from interceptor.authority.reports import RegisteredWorkload
from interceptor.identity.spiffe_id import TrustDomain

DOMAIN = TrustDomain("cluster.local")
CIDRS = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"))


def registered(name: str, node: str, *addresses: str) -> RegisteredWorkload:
    return RegisteredWorkload("shop", name, "account", tuple(map(ip_address, addresses)), node, {})


def known(*entries: RegisteredWorkload) -> tuple[list[tuple[str, ...]], list[str]]:
    workloads, warnings = remote_workloads(entries, node="node-a", trust_domain=DOMAIN, cidrs=CIDRS)
    return [(w.name, w.node, *map(str, w.addresses)) for w in workloads], list(warnings)


def test_workloads_of_other_nodes_are_known_with_the_identity_of_our_trust_domain() -> None:
    entry = registered("web", "node-b", "10.1.0.2", "fd00:1::2", "fe80::1")
    assert known(entry) == ([("web", "node-b", "10.1.0.2", "fd00:1::2")], [])
    ((workload,), _) = remote_workloads([entry], node="node-a", trust_domain=DOMAIN, cidrs=CIDRS)
    assert str(workload.identity) == "spiffe://cluster.local/ns/shop/sa/account"


def test_our_own_workloads_come_back_from_the_authority_and_are_not_others() -> None:
    assert known(registered("web", "node-a", "10.1.0.2")) == ([], [])


def test_addresses_that_are_not_captured_here_are_ignored_with_a_warning() -> None:
    workloads, warnings = known(
        registered("web", "node-b", "10.1.0.2", "192.0.2.1"), registered("db", "node-b", "192.0.2.2")
    )
    assert workloads == [("web", "node-b", "10.1.0.2")]
    assert warnings == [
        "shop/web on node node-b has addresses outside mesh.cidrs, which are ignored: 192.0.2.1",
        "shop/db on node node-b has addresses outside mesh.cidrs, which are ignored: 192.0.2.2",
    ]
