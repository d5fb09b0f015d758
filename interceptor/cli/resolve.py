"""kubernetes resolve: where a connection of a pod to a service would lead."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import click
import trio

from interceptor.cli.cluster_access import access_options, read_cluster
from interceptor.cli.output import output_option, print_data, print_table
from interceptor.cli.table import Column
from interceptor.cluster.affinity import Affinity
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.membership import Standing, membership
from interceptor.cluster.names import addresses_of_name
from interceptor.cluster.resolution import Client, Outcome, Resolution
from interceptor.cluster.resolution import resolve as resolved
from interceptor.errors import ClusterError, InvalidInput, UsageError, quoted
from interceptor.kubernetes.client import ApiClient, ApiRefusal
from interceptor.kubernetes.listing import zone_of_node
from interceptor.kubernetes.resource import EVERYTHING
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.cluster.cluster import Cluster
    from interceptor.cluster.pod import Pod
    from interceptor.cluster.resolution import Candidate
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.kubernetes.access import ApiAccess

CONNECTIONS = 100
_PORT = re.compile(r"[0-9]{1,5}")
_SECONDS_BETWEEN = 1.0  # as the session affinity sees it
_randomness = random.SystemRandom()
COLUMNS = (
    Column("ADDRESS", lambda row: str(row["address"])),
    Column("POD", lambda row: str(row["pod"] or "-")),
    Column("STATE", lambda row: str(row["state"])),
    Column("IDENTITY", lambda row: str(row["identity"] or "-").removeprefix("spiffe://")),
    Column("NODE", lambda row: str(row["node"] or "-")),
    Column(f"OF {CONNECTIONS}", lambda row: str(row["connections"]), is_number=True),
)
_ANSWERS = {
    Outcome.POD: "it is a pod's own address",
    Outcome.SERVICE: "service {service} leads to one of these",
    Outcome.NO_CANDIDATE: "service {service} has no endpoint that may be used now: connections wait, then are refused",
    Outcome.NO_SUCH_PORT: "service {service} has not this port: connections are refused",
    Outcome.UNTOUCHED: "nothing of it is in the mesh: connections pass as they are",
}


@click.command()
@click.option("--from", "source", required=True, metavar="NAMESPACE/POD", help="The pod that connects.")
@click.argument("destination", metavar="DESTINATION:PORT")
@output_option
@access_options
def resolve(session: Session, access: ApiAccess, source: str, destination: str, output: str) -> None:
    """Say where a pod's connection would lead: to which pods, by a service's address or name.

    \b
    It reads the Kubernetes API and changes nothing. DESTINATION is an address, or a service's
    name as the pod would write it. OF 100 says how many of a hundred connections in a row
    would lead there, drawn by chance, with the service's session affinity. Needed are the
    rights to list pods, namespaces, services and endpointslices; with that to get nodes,
    zone hints are respected.

    \b
    Examples:
      interceptor kubernetes resolve --from shop/web-1 db:5432
      interceptor kubernetes resolve --from shop/web-1 10.96.0.17:80 -o json
    """
    key = _pod_key(source)
    cluster, pod, zone = trio.run(_read, session, access, key)
    trust_domain = session.config.trust_domain
    client = Client(pod.node or "", zone)
    answers = [
        _described(cluster, pod, endpoint, resolved(cluster, endpoint, client, trust_domain), trust_domain)
        for endpoint in _endpoints(cluster, destination, key.namespace)
    ]
    found = _pod_there(cluster, pod, trust_domain)
    if output != "table":
        print_data({"source": found, "destinations": answers}, output)
        return
    if found["state"] == Standing.OUTSIDE:
        click.echo(f"{key} is outside of the mesh, so its connections pass as they are; if it were in it:")
    for answer in answers:
        click.echo(f"{answer['destination']}: {answer['explanation']}")
        if answer["candidates"]:
            print_table(COLUMNS, answer["candidates"], "")


async def _read(session: Session, access: ApiAccess, key: ObjectKey) -> tuple[Cluster, Pod, str | None]:
    async with ApiClient(access) as client:
        cluster = await read_cluster(client, EVERYTHING)
        pod = cluster.pods.get(key)
        if pod is None:
            raise ClusterError(f"there is no pod {key}, see 'interceptor kubernetes inventory'")
        zone = None
        if pod.node is not None:
            try:
                zone = await zone_of_node(client, pod.node)
            except ApiRefusal as error:
                session.progress(f"zone hints are left out: {error}")
    for problem in cluster.problems():
        session.progress(f"cannot be read: {problem}")
    return cluster, pod, zone


def _pod_key(text: str) -> ObjectKey:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise UsageError(f"{quoted(text)} is no pod, expected NAMESPACE/POD such as shop/web-1")
    return ObjectKey(namespace, name)


def _endpoints(cluster: Cluster, text: str, namespace: str) -> list[Endpoint]:
    """An address and port, or all that a name stands for."""
    host, _, port = text.rpartition(":")
    try:
        return [Endpoint.parse(text)]
    except InvalidInput as error:
        if not host or not _PORT.fullmatch(port) or not host[0].isalpha():
            raise UsageError(str(error)) from None
    addresses = addresses_of_name(cluster, host, namespace)
    if not addresses:
        raise ClusterError(f"{quoted(host)} has no address now: no ready endpoint is behind it")
    return [Endpoint(address, int(port)) for address in addresses]


def _described(
    cluster: Cluster, pod: Pod, destination: Endpoint, found: Resolution, trust_domain: TrustDomain
) -> dict[str, Any]:
    service = str(found.service.head.key) if found.service else None
    shares = _shares(found, pod)
    return {
        "destination": str(destination),
        "outcome": found.outcome.value,
        "explanation": _ANSWERS[found.outcome].format(service=service),
        "service": service,
        "session_affinity_seconds": found.service.affinity_seconds if found.service else None,
        "candidates": [
            {
                "address": str(each.endpoint),
                **_pod_there(cluster, each.pod, trust_domain),
                "connections": shares.count(each),
            }
            for each in found.candidates
        ],
    }


def _pod_there(cluster: Cluster, pod: Pod | None, trust_domain: TrustDomain) -> dict[str, Any]:
    if pod is None:
        return {"pod": None, "uid": None, "node": None, "state": "outside", "identity": None}
    found = membership(cluster, pod, trust_domain)
    return {
        "pod": str(pod.head.key),
        "uid": pod.head.uid,
        "node": pod.node,
        "state": found.standing.value,
        "identity": str(found.identity) if found.identity else None,
    }


def _shares(found: Resolution, pod: Pod) -> list[Candidate]:
    if not found.candidates or not pod.addresses:
        return []
    affinity = Affinity()
    return [
        affinity.choose(found, pod.addresses[0], draw=_randomness.random(), now=number * _SECONDS_BETWEEN)
        for number in range(CONNECTIONS)
    ]
