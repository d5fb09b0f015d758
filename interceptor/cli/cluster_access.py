"""What the commands about a cluster have in common: how its API is reached, and what is read from it."""

from __future__ import annotations

import os
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.cli.context import pass_session
from interceptor.cluster.cluster import Cluster
from interceptor.errors import UsageError
from interceptor.kubernetes.access import as_said, in_pod
from interceptor.kubernetes.listing import list_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.cli.context import Session
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.resource import Resource

NODE_VARIABLE = "NODE_NAME"  # what the DaemonSet's pods are told by `fieldRef: spec.nodeName`

_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option(
        "--server",
        metavar="URL",
        help="The API server, such as http://127.0.0.1:8001 of 'kubectl proxy'.  [default: as in a pod]",
    ),
    click.option(
        "--token-file", type=_FILE, help="File with the bearer token to show; read anew at each request."
    ),
    click.option(
        "--ca-file", type=_FILE, help="PEM file with the CA that the server's certificate comes from."
    ),
)


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which API is meant: the command gets `session` and `access`."""

    def with_access(
        session: Session,
        /,
        server: str | None,
        token_file: Path | None,
        ca_file: Path | None,
        **arguments: object,
    ) -> None:
        command(session=session, access=_access(server, token_file, ca_file), **arguments)

    update_wrapper(with_access, command)
    decorated: Callable[..., None] = pass_session(with_access)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


async def read_cluster(client: ApiClient, resources: Iterable[Resource]) -> Cluster:
    """What there is of these kinds now; ClusterError."""
    cluster = Cluster()
    for resource in resources:
        cluster = cluster.apply(await list_all(client, resource))
    return cluster


def _access(server: str | None, token_file: Path | None, ca_file: Path | None) -> ApiAccess:
    if server is not None:
        return as_said(server, token_file, ca_file)
    if token_file is not None or ca_file is not None:
        raise UsageError("--token-file and --ca-file belong to --server, give it too")
    found = in_pod(os.environ)
    if found is None:
        raise UsageError(
            "this is no pod, so the API server must be named: run 'kubectl proxy' and give --server http://127.0.0.1:8001"
        )
    return found
