"""kubernetes inventory: which pods would be in the mesh, as whom, and why others would not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click
import trio

from interceptor.cli.cluster_access import NODE_VARIABLE, access_options, read_cluster
from interceptor.cli.output import json_text, output_option, print_data, print_table
from interceptor.cli.table import Column
from interceptor.cluster.membership import Standing, membership
from interceptor.cluster.workloads import workloads_by_uid
from interceptor.errors import UsageError
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import NAMESPACES, PODS, pods_of_node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.cli.context import Session
    from interceptor.cluster.cluster import Cluster
    from interceptor.cluster.membership import Membership
    from interceptor.cluster.pod import Pod
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.kubernetes.resource import Resource
    from interceptor.workload import Workload

Row = dict[str, Any]
COLUMNS = (
    Column("POD", lambda row: f"{row['namespace']}/{row['name']}"),
    Column("STATE", lambda row: str(row["state"])),
    Column("IDENTITY", lambda row: str(row["identity"] or "-").removeprefix("spiffe://")),
    Column("ADDRESSES", lambda row: _listed(row["addresses"]) or "-"),
    Column("NODE", lambda row: str(row["node"] or "-")),
)


@click.command()
@click.option(
    "--node",
    envvar=NODE_VARIABLE,
    metavar="NAME",
    help=f"Only the pods of this node; also ${NODE_VARIABLE}.  [default: those of all nodes]",
)
@click.option("--watch", "-w", is_flag=True, help="Go on: print a line for each change, until interrupted.")
@output_option
@access_options
def inventory(session: Session, access: ApiAccess, node: str | None, watch: bool, output: str) -> None:
    """List the cluster's pods as the mesh sees them: who is in it, as whom, and why others are not.

    \b
    It reads the Kubernetes API and changes nothing. STATE is enrolled, draining (being
    deleted), waiting (not everything about it is known yet), or outside; below the table
    stands why. Needed are the rights to list and watch pods and namespaces.

    \b
    Examples:
      kubectl proxy & interceptor kubernetes inventory --server http://127.0.0.1:8001
      interceptor kubernetes inventory --node worker-1 --watch       in a pod
    """
    if watch and output == "yaml":
        raise UsageError("--watch prints tables or JSON lines, leave -o yaml out")
    resources = (NAMESPACES, PODS if node is None else pods_of_node(node))
    if watch:
        try:
            trio.run(_follow, session, access, resources, output)
        except BaseExceptionGroup as group:
            raise _first(group) from None
    else:
        cluster = trio.run(_read, access, resources)
        _print(cluster, session.config.trust_domain, output)


async def _read(access: ApiAccess, resources: tuple[Resource, ...]) -> Cluster:
    async with ApiClient(access) as client:
        return await read_cluster(client, resources)


def _print(cluster: Cluster, trust_domain: TrustDomain, output: str) -> None:
    rows = described(cluster, trust_domain)
    if output != "table":
        print_data(rows, output)
        return
    print_table(COLUMNS, rows, "there is no pod that has not ended")
    for row in rows:
        if row["state"] != Standing.ENROLLED:
            click.echo(f"{row['namespace']}/{row['name']}: {row['explanation']}")
    for problem in cluster.problems():
        click.echo(f"cannot be read: {problem}")


def described(cluster: Cluster, trust_domain: TrustDomain) -> list[Row]:
    """A row for each pod, by namespace and name."""
    pods = sorted(cluster.pods.objects.values(), key=lambda pod: pod.head.key)
    workloads = workloads_by_uid(cluster, trust_domain)
    return [_row(pod, membership(cluster, pod, trust_domain), workloads.get(pod.head.uid)) for pod in pods]


def _row(pod: Pod, found: Membership, workload: Workload | None) -> Row:
    addresses = pod.addresses if workload is None else workload.addresses
    return {
        "namespace": pod.head.key.namespace,
        "name": pod.head.key.name,
        "uid": pod.head.uid,
        "state": found.standing.value,
        "reason": found.why.value,
        "explanation": found.why.explanation,
        "identity": str(found.identity) if found.identity else None,
        "addresses": [str(address) for address in addresses],
        "node": pod.node,
    }


async def _follow(session: Session, access: ApiAccess, resources: tuple[Resource, ...], output: str) -> None:
    trust_domain = session.config.trust_domain
    logging.getLogger("interceptor").addHandler(logging.NullHandler())  # what it would say is told below
    async with ApiClient(access) as client, trio.open_nursery() as nursery:
        watch = ClusterWatch(client, resources)
        nursery.start_soon(watch.run)
        shown: dict[str, Row] = {}
        told: list[str] = []
        while True:
            for problem in watch.problems:
                if problem not in told:
                    session.progress(problem)
            told = watch.problems
            if not watch.waiting_for:
                rows = {row["uid"]: row for row in described(watch.cluster, trust_domain)}
                for line in changes(shown, rows, output):
                    click.echo(line)
                shown = rows
            await watch.wait_changed()


def changes(before: Mapping[str, Row], after: Mapping[str, Row], output: str) -> list[str]:
    """A line for each pod that is new, another, or gone."""
    gone = [{**row, "state": "gone", "reason": "gone", "explanation": "it is no longer there"}
            for uid, row in before.items() if uid not in after]  # fmt: skip
    rows = [*gone, *(row for uid, row in after.items() if before.get(uid) != row)]
    return [json_text(row, indent=None) if output == "json" else _line(row) for row in rows]


def _line(row: Row) -> str:
    identity = f" as {row['identity']}" if row["identity"] else ""
    return f"{row['namespace']}/{row['name']} is {row['state']}{identity}: {row['explanation']}"


def _listed(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else ""


def _first(error: BaseException) -> BaseException:
    """What happened first: an interruption, or that nobody reads any more."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
