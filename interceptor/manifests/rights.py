"""RBAC: exactly what is asked of the API, each with the reason.

A test lets the agent and the authority run against an API server that grants these rights and no others, and looks
for rights that nobody used.
"""

from typing import Any

from interceptor.manifests.foundation import Objects
from interceptor.manifests.names import AGENT, AUTHORITY, NODES, ROOTS, metadata
from interceptor.manifests.values import Values
from interceptor.manifests.yaml_text import Commented

_RBAC = "rbac.authorization.k8s.io"
_FOLLOW = ("list", "watch")


def rights(values: Values, version: str) -> Objects:
    """Roles and bindings of both service accounts."""
    return [
        *_granted(AGENT, "agent", values, version, _agent_in_cluster(values), _agent_in_namespace()),
        *_granted(
            AUTHORITY, "authority", values, version, _authority_in_cluster(), _authority_in_namespace()
        ),
    ]


def _agent_in_cluster(values: Values) -> list[Commented]:
    conditions = _rule(
        "How the node's pods stand, a condition in the status of each. Patch: merged into what others write there. RBAC "
        "cannot name one condition, nor the pods of one node: the ValidatingAdmissionPolicy does.",
        "",
        ("pods/status",),
        ("patch",),
    )
    return [
        *([conditions] if values.pod_conditions else []),
        _events("pods that entered the mesh, or could not"),
        _rule(
            "Which pods there are, with which addresses and accounts.",
            "",
            ("pods",),
            _FOLLOW,
        ),
        _rule("Which namespaces have the mesh's label.", "", ("namespaces",), _FOLLOW),
        _rule("A service by its addresses.", "", ("services",), _FOLLOW),
        _rule(
            "The pods to which a connection to a service leads.",
            "discovery.k8s.io",
            ("endpointslices",),
            _FOLLOW,
        ),
        _rule("The zone of the agent's own node, for topology hints.", "", ("nodes",), ("get",)),
        _rule(
            "Policies, which the agents enforce.",
            "security.istio.io",
            ("peerauthentications", "authorizationpolicies"),
            _FOLLOW,
        ),
    ]


def _agent_in_namespace() -> list[Commented]:
    return [
        _rule(
            "Whether the agent stops because its DaemonSet is being removed: then it leaves the node as it found it.",
            "apps",
            ("daemonsets",),
            ("get",),
            (AGENT,),
        )
    ]


def _authority_in_cluster() -> list[Commented]:
    policies = ("peerauthentications", "authorizationpolicies")
    return [
        _rule("Whether policies can be enforced.", "security.istio.io", policies, _FOLLOW),
        _rule(
            "That is told in their status. Get: the conditions that others have written there, as of a version;",
            "security.istio.io",
            policies,
            ("get",),
        ),
        _rule(
            "patch: ours beside them, if that is still the version.",
            "security.istio.io",
            tuple(f"{each}/status" for each in policies),
            ("patch",),
        ),
        _events("policies that cannot be enforced"),
        _rule(
            "A certificate is for a pod that is on the node that asks.",
            "",
            ("pods",),
            _FOLLOW,
        ),
        _rule("It is in the mesh by its namespace.", "", ("namespaces",), _FOLLOW),
        _rule(
            "Whether the token that a node shows is that of its agent's pod.",
            "authentication.k8s.io",
            ("tokenreviews",),
            ("create",),
        ),
    ]


def _authority_in_namespace() -> list[Commented]:
    return [
        _rule(
            "The authority's keys and state: followed, and replaced by a step,",
            "",
            ("secrets",),
            ("get", "update"),
            (AUTHORITY,),
        ),
        _rule(
            "after the first replica has made it (a right to create cannot name an object).",
            "",
            ("secrets",),
            ("create",),
        ),
        _rule(
            "The root by which agents recognise the authority, and what nodes have told during a rotation,",
            "",
            ("configmaps",),
            ("get", "update"),
            (ROOTS, NODES),
        ),
        _rule("both made when they are first needed.", "", ("configmaps",), ("create",)),
        _rule(
            "Which replica leads: the Lease is looked at and held,",
            "coordination.k8s.io",
            ("leases",),
            ("get", "update"),
            (AUTHORITY,),
        ),
        _rule("and made once.", "coordination.k8s.io", ("leases",), ("create",)),
    ]


def _events(what: str) -> Commented:
    return _rule(
        f"Events about {what}. Create: the first time; patch: count that it happens again.",
        "events.k8s.io",
        ("events",),
        ("create", "patch"),
    )


def _rule(
    why: str, group: str, resources: tuple[str, ...], verbs: tuple[str, ...], names: tuple[str, ...] = ()
) -> Commented:
    if verbs == _FOLLOW:
        why = f"{why} List: once; watch: each change from then on."
    rule: dict[str, Any] = {"apiGroups": [group], "resources": list(resources)}
    if names:
        rule["resourceNames"] = list(names)
    return Commented(why, {**rule, "verbs": list(verbs)})


def _granted(
    account: str,
    component: str,
    values: Values,
    version: str,
    in_cluster: list[Commented],
    in_namespace: list[Commented],
) -> Objects:
    """A role for the cluster and one for the namespace, bound to an account."""
    # Roles for the cluster bear the namespace's name: two installations must not change each other's.
    wide = f"{values.namespace}:{account}"
    roles = (("ClusterRole", wide, None, in_cluster), ("Role", account, values.namespace, in_namespace))
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": values.namespace}]
    objects: Objects = []
    for kind, name, namespace, rules in roles:
        head = metadata(name, component, version, namespace)
        objects.append({"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": head, "rules": rules})
        reference = {"apiGroup": _RBAC, "kind": kind, "name": name}
        binding = {"apiVersion": f"{_RBAC}/v1", "kind": f"{kind}Binding", "metadata": head}
        objects.append({**binding, "roleRef": reference, "subjects": subjects})
    return objects
