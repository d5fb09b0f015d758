"""kubernetes policies: the cluster's policies, as they would be enforced, and which cannot be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.policy_keeper import mesh_of
from interceptor.agent.policy_requests import effect
from interceptor.cli.cluster_access import access_options, read_cluster
from interceptor.cli.output import coloured, output_option, print_data, print_table
from interceptor.cli.table import Column
from interceptor.cluster.workloads import workloads_by_uid
from interceptor.errors import PolicyError
from interceptor.kubernetes.client import ApiClient, ApiRefusal
from interceptor.kubernetes.listing import list_all
from interceptor.kubernetes.resource import NAMESPACES, PODS, POLICIES
from interceptor.policy.lint import Inventory, warnings
from interceptor.policy.parse import parse_file

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.cluster.cluster import Cluster
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.policy.documents import Document

_NOT_FOUND = 404
COLUMNS = (
    Column("KIND", lambda row: str(row["kind"])),
    Column("NAME", lambda row: f"{row['namespace']}/{row['name']}"),
    Column("SELECTOR", lambda row: str(row["selector"] or "all")),
    Column("EFFECT", lambda row: str(row["effect"])),
    Column("WORKLOADS", lambda row: str(row["workloads"]), is_number=True),
)


@click.command()
@output_option
@access_options
def policies(session: Session, access: ApiAccess, output: str) -> None:
    """List the cluster's policies as they would be enforced; exit status 1 if one cannot be.

    \b
    The policies are Istio's PeerAuthentication and AuthorizationPolicy. It reads the
    Kubernetes API and changes nothing. WORKLOADS counts the enrolled pods that a policy
    selects. What asks for more than a layer-4 proxy can do is refused: until it is changed,
    a mesh that is given these policies takes none of them.

    \b
    Examples:
      kubectl proxy & interceptor kubernetes policies --server http://127.0.0.1:8001
      interceptor kubernetes policies -o json       in a pod
    """
    cluster = trio.run(_read, session, access)
    answer = _described(session, cluster)
    if output != "table":
        print_data(answer, output)
    else:
        if answer["documents"] or not answer["refused"]:
            print_table(COLUMNS, answer["documents"], "there are no policies that can be enforced")
        for warning in answer["warnings"]:
            click.echo(f"{coloured('warning')}: {warning}")
        for problem in answer["refused"]:
            click.echo(coloured("failure", f"refused: {problem}"))
    if answer["refused"]:
        sys.exit(1)


async def _read(session: Session, access: ApiAccess) -> Cluster:
    async with ApiClient(access) as client:
        cluster = await read_cluster(client, (NAMESPACES, PODS))
        for resource in POLICIES:
            try:
                cluster = cluster.apply(await list_all(client, resource))
            except ApiRefusal as error:
                if error.status != _NOT_FOUND:
                    raise
                session.progress(f"the cluster has no resource definition for {resource.path}")
    return cluster


def _described(session: Session, cluster: Cluster) -> dict[str, Any]:
    root = session.config.policy.root_namespace
    documents: list[Document] = []
    refused = cluster.problems(resource.kind for resource in POLICIES)
    for each in cluster.policy_objects():
        try:
            documents += parse_file(each.place, each.text, mesh_of(session.config))
        except PolicyError as error:
            refused += error.problems
    workloads = tuple(workloads_by_uid(cluster, session.config.trust_domain).values())
    inventory = Inventory(workloads, root)
    return {
        "documents": [
            {
                "kind": document.head.name.kind.value,
                "namespace": document.head.name.namespace,
                "name": document.head.name.name,
                "selector": str(document.head.selector) or None,
                "effect": effect(document),
                "workloads": inventory.selected_by(document),
            }
            for document in documents
        ],
        "warnings": list(warnings(documents, root, wall_clock(), inventory)),
        "refused": refused,
    }
