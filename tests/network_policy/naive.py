"""NetworkPolicies as a CNI plugin decides them, packet by packet, from the documents themselves: slow and obvious."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

TUNNEL = 15008


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: dict[str, str]
    address: str
    ports: dict[str, int] = field(default_factory=dict)  # those with names


Namespaces = dict[str, dict[str, str]]


def passes(
    documents: list[dict[str, Any]],
    namespaces: Namespaces,
    source: Pod,
    target: Pod,
    port: int,
    ends: tuple[str, ...] = ("Egress", "Ingress"),
) -> bool:
    """Whether a TCP packet from pod to pod passes the NetworkPolicies of both ends, or of one."""
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    pods = {"Egress": (source, target), "Ingress": (target, source)}
    return all(_passes_end(policies, namespaces, end, *pods[end], target, port) for end in ends)


def is_denied(documents: list[dict[str, Any]], target: Pod, port: int) -> bool:
    """Whether an AuthorizationPolicy denies this port to whoever has an identity."""
    for document in documents:
        if document["kind"] != "AuthorizationPolicy" or document["metadata"]["namespace"] != target.namespace:
            continue
        spec = document["spec"]
        assert spec["action"] == "DENY"
        (rule,) = spec["rules"]
        assert rule["from"] == [{"source": {"principals": ["*"]}}]
        wanted = spec.get("selector", {}).get("matchLabels", {})
        if wanted.items() <= target.labels.items():
            (to,) = rule["to"]
            if str(port) not in to["operation"]["notPorts"]:
                return True
    return False


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_fulfils(each, labels) for each in selector.get("matchExpressions", []))


def _fulfils(requirement: dict[str, Any], labels: dict[str, str]) -> bool:
    key, values = requirement["key"], requirement.get("values", [])
    match requirement["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case operator:
            assert operator == "DoesNotExist"
            return key not in labels


def _passes_end(
    policies: list[dict[str, Any]],
    namespaces: Namespaces,
    kind: str,
    pod: Pod,
    peer: Pod,
    target: Pod,
    port: int,
) -> bool:
    mine = [
        each
        for each in policies
        if each["metadata"]["namespace"] == pod.namespace
        and kind in each["spec"]["policyTypes"]
        and selects(each["spec"]["podSelector"], pod.labels)
    ]
    if not mine:
        return True
    peers_key = "from" if kind == "Ingress" else "to"
    return any(
        _port_matches(rule, target, port) and _peer_matches(rule.get(peers_key), namespaces, pod, peer)
        for policy in mine
        for rule in policy["spec"].get(kind.lower(), [])
    )


def _port_matches(rule: dict[str, Any], target: Pod, port: int) -> bool:
    if not rule.get("ports"):
        return True
    for entry in rule["ports"]:
        if entry.get("protocol", "TCP") != "TCP":
            continue
        wanted = entry.get("port")
        if isinstance(wanted, str):
            wanted = target.ports.get(wanted)
            if wanted == port:
                return True
        elif wanted is None or wanted <= port <= entry.get("endPort", wanted):
            return True
    return False


def _peer_matches(peers: list[dict[str, Any]] | None, namespaces: Namespaces, pod: Pod, peer: Pod) -> bool:
    if not peers:
        return True
    for each in peers:
        if "ipBlock" in each:
            address, block = ip_address(peer.address), each["ipBlock"]
            inside = address in ip_network(block["cidr"])
            if inside and not any(address in ip_network(hole) for hole in block.get("except", [])):
                return True
            continue
        in_namespace = (
            selects(each["namespaceSelector"], namespaces[peer.namespace])
            if "namespaceSelector" in each
            else peer.namespace == pod.namespace
        )
        if in_namespace and selects(each.get("podSelector", {}), peer.labels):
            return True
    return False
