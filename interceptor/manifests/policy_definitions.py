"""PeerAuthentication and AuthorizationPolicy of security.istio.io/v1, for clusters in which Istio has not put its own.

The schemas are ours, and open at every level: a field that we cannot enforce must reach our own parser, which refuses
the document and says why. Left to the API server, it would be pruned without a word, and the policy would mean something
else than what was written. That is also why they must not replace Istio's, which have more fields and versions.
"""

from typing import Any

from interceptor.manifests.foundation import Objects
from interceptor.manifests.names import labels

_GROUP = "security.istio.io"
_TEXT: dict[str, Any] = {"type": "string"}
_MODE: dict[str, Any] = {"type": "string", "enum": ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]}


def policy_definitions(version: str) -> Objects:
    """The two CustomResourceDefinitions."""
    return [
        _definition(
            "PeerAuthentication", "peerauthentications", "pa", "Mode", ".spec.mtls.mode", _peers(), version
        ),
        _definition(
            "AuthorizationPolicy",
            "authorizationpolicies",
            "ap",
            "Action",
            ".spec.action",
            _authorization(),
            version,
        ),
    ]


def _peers() -> dict[str, Any]:
    mtls = _open({"mode": _MODE}, "What is demanded of those who connect.")
    by_port = {
        "type": "object",
        "description": "The same for single ports of the selected workloads.",
        "additionalProperties": _open({"mode": _MODE}),
    }
    return _open({"selector": _selector(), "mtls": mtls, "portLevelMtls": by_port})


def _authorization() -> dict[str, Any]:
    names = (
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
    )
    source = _open({name: _list(_TEXT) for name in (*names, "ipBlocks", "notIpBlocks")})
    operation = _open({name: _list(_TEXT) for name in ("ports", "notPorts")})
    condition = _open({"key": _TEXT, "values": _list(_TEXT), "notValues": _list(_TEXT)})
    rule = _open(
        {
            "from": _list(_open({"source": source})),
            "to": _list(_open({"operation": operation})),
            "when": _list(condition),
        }
    )
    action = {"type": "string", "enum": ["ALLOW", "DENY", "AUDIT", "CUSTOM"]}
    return _open({"selector": _selector(), "action": action, "rules": _list(rule)})


def _selector() -> dict[str, Any]:
    by_label = {"type": "object", "additionalProperties": _TEXT}
    return _open({"matchLabels": by_label}, "The workloads that it is for; all of the namespace without it.")


def _open(properties: dict[str, Any], description: str = "") -> dict[str, Any]:
    """An object that may have other fields too, which are kept."""
    said = {"description": description} if description else {}
    return {"type": "object", **said, "x-kubernetes-preserve-unknown-fields": True, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _definition(
    kind: str, plural: str, short: str, column: str, path: str, spec: dict[str, Any], version: str
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "apiVersion": _TEXT,
            "kind": _TEXT,
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    served = {
        "name": "v1",
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": column, "type": "string", "jsonPath": path},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{_GROUP}", "labels": labels("policies", version)},
        "spec": {
            "group": _GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
            },
            "scope": "Namespaced",
            "versions": [served],
        },
    }
