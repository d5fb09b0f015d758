"""Short ways to write policies down in tests."""

from __future__ import annotations

import textwrap

from interceptor.network_policy.analysis import analyse
from interceptor.network_policy.mesh_view import MeshView
from interceptor.network_policy.parse import Manifests, parse_manifests


def policy(spec: str, name: str = "web", namespace: str = "shop") -> str:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
    indented = textwrap.indent(textwrap.dedent(spec).strip(), "  ")
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{indented}\n"


def namespace(name: str, **labels: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


def manifests(*documents: str) -> Manifests:
    return parse_manifests([("all.yaml", "---\n".join(documents))])


def found(*documents: str, enrol: tuple[str, ...] = ()) -> list[str]:
    """The findings in words: rule, effect, ports, peers."""
    read = manifests(*documents)
    findings = analyse(read.policies, MeshView.of(read.namespaces, enrol))
    return [
        f"{each.policy.name} {each.name} {each.effect}: {', '.join(map(str, each.ports))}"
        + "".join(f" | {peer}" for peer in each.peers)
        for each in findings
    ]
