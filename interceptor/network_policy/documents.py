"""Companion policies as the documents that `kubectl apply` takes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from interceptor.network_policy.analysis import Finding
from interceptor.network_policy.model import TCP, TUNNEL_PORT, BlockPeer, NetworkPolicy, Peer, Side
from interceptor.network_policy.selector import Requirement, Selector

_LABELS: Final = {"app.kubernetes.io/managed-by": "interceptor"}
_PEERS_KEY: Final = {Side.INGRESS: "from", Side.EGRESS: "to"}


def network_policy_document(policy: NetworkPolicy, name: str, findings: Iterable[Finding]) -> dict[str, Any]:
    """A NetworkPolicy for the pods of `policy` that lets the findings' peers through to 15008, and nothing else.

    It has only those sides that `policy` restricts already, so no pod becomes isolated by it.
    """
    rules: dict[Side, list[dict[str, Any]]] = {}
    for finding in findings:
        rule: dict[str, Any] = {"ports": [{"protocol": TCP, "port": TUNNEL_PORT}]}
        if finding.peers:
            rule = {_PEERS_KEY[finding.side]: [_peer(peer) for peer in finding.peers], **rule}
        listed = rules.setdefault(finding.side, [])
        if rule not in listed:
            listed.append(rule)
    spec = {
        "podSelector": _selector(policy.pods),
        "policyTypes": [side.value.capitalize() for side in rules],
        **{side.value: listed for side, listed in rules.items()},
    }
    return _document("networking.k8s.io/v1", "NetworkPolicy", policy.namespace, name, spec)


def authorization_document(
    namespace: str, name: str, labels: Mapping[str, str], ports: Iterable[int]
) -> dict[str, Any]:
    """An AuthorizationPolicy that denies whoever has an identity every port but these."""
    rule = {
        "from": [{"source": {"principals": ["*"]}}],
        "to": [{"operation": {"notPorts": [str(port) for port in ports]}}],
    }
    selector = {"selector": {"matchLabels": dict(labels)}} if labels else {}
    spec = {**selector, "action": "DENY", "rules": [rule]}
    return _document("security.istio.io/v1", "AuthorizationPolicy", namespace, name, spec)


def _document(version: str, kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": dict(_LABELS)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _peer(peer: Peer) -> dict[str, Any]:
    if isinstance(peer, BlockPeer):
        excepted = {"except": [str(each) for each in peer.excepted]} if peer.excepted else {}
        return {"ipBlock": {"cidr": str(peer.network), **excepted}}
    pods = {"podSelector": _selector(peer.pods)} if peer.pods.requirements or peer.namespaces is None else {}
    return pods if peer.namespaces is None else {"namespaceSelector": _selector(peer.namespaces), **pods}


def _selector(selector: Selector) -> dict[str, Any]:
    labels = selector.as_labels()
    if labels is not None:
        return {"matchLabels": labels} if labels else {}
    listed = sorted(selector.requirements, key=lambda each: (each.key, each.operator, sorted(each.values)))
    return {"matchExpressions": [_expression(each) for each in listed]}


def _expression(requirement: Requirement) -> dict[str, Any]:
    values = {"values": sorted(requirement.values)} if requirement.values else {}
    return {"key": requirement.key, "operator": requirement.operator.value, **values}
