"""An authority that is in a Secret of a cluster: how a command says so, and how it changes it."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from interceptor.agent.authority_process import AUDIT_FILE
from interceptor.agent.clock import wall_clock
from interceptor.authority_service.audit import KEPT_FILES, MAX_FILE_BYTES
from interceptor.authority_service.cluster_nodes import nodes_for_a_step
from interceptor.authority_service.command_audit import command_line
from interceptor.authority_service.shared_state import SharedState, prepare_scratch
from interceptor.cli.ca.operator import operator
from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.errors import ClusterError, InvalidInput, UsageError, quoted
from interceptor.identity.spiffe_id import SERVICE_ACCOUNT, TrustDomain, is_subdomain, validate_name
from interceptor.kubernetes.access import as_said, in_pod
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.listing import list_all
from interceptor.kubernetes.resource import pods_of_account
from interceptor.line_file import LineFile
from interceptor.pod_admission.agent_nodes import agent_nodes
from interceptor.shared_authority.names import SharedAuthority

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.authority_store import AuthorityStore
    from interceptor.kubernetes.access import ApiAccess

IN_POD = "pod"
SECRET_VARIABLE = "INTERCEPTOR_CA_SECRET"  # noqa: S105 -- the name of a variable
AGENTS_VARIABLE = "INTERCEPTOR_CA_AGENTS"
AUDIT_VARIABLE = "INTERCEPTOR_CA_AUDIT"  # where a replica writes it, for the commands that run beside it

SECRET_OPTION = click.option(
    "--secret",
    metavar="NAMESPACE/NAME",
    envvar=SECRET_VARIABLE,
    help=f"The Secret that the authority of a cluster is in, instead of a directory; also ${SECRET_VARIABLE}.",
)
AGENTS_OPTION = click.option(
    "--agents",
    metavar="NAMESPACE/SERVICEACCOUNT",
    envvar=AGENTS_VARIABLE,
    help=f"The service account of the nodes' agents there; also ${AGENTS_VARIABLE}.",
)


def secret_key(text: str) -> ObjectKey:
    """A Secret by its option; UsageError."""
    namespace, slash, name = text.partition("/")
    if not slash or not is_subdomain(namespace) or not is_subdomain(name):
        raise UsageError(f"{quoted(text)} is not a Secret, expected NAMESPACE/NAME")
    return ObjectKey(namespace, name)


def service_account(text: str) -> ObjectKey:
    """A service account by its option; UsageError."""
    namespace, slash, name = text.partition("/")
    if not slash:
        raise UsageError(f"{quoted(text)} is not a service account, expected NAMESPACE/SERVICEACCOUNT")
    try:
        return ObjectKey(validate_name("namespace", namespace), validate_name(SERVICE_ACCOUNT, name))
    except InvalidInput as error:
        raise UsageError(str(error)) from None


def access_of_pod() -> ApiAccess:
    """The access that a pod is given; UsageError outside of one."""
    found = in_pod(os.environ)
    if found is None:
        raise UsageError("this is no pod: give the URL of the API server with --kubernetes")
    return found


def access_said(server: str | None) -> ApiAccess:
    """The access of a command: as in a pod, or by 'kubectl proxy' on this machine."""
    return access_of_pod() if server in (None, IN_POD) else as_said(server, None, None)


def change_shared(
    command: Callable[[AuthorityStore], None],
    access: ApiAccess,
    secret: ObjectKey,
    agents: ObjectKey,
    home: Path,
    passphrase: bytes | None,
) -> None:
    """Run a command on the authority in a Secret; what it prints appears once what it did is in force."""
    printed, status = trio.run(_step, command, access, secret, agents, home, passphrase)
    click.echo(printed, nl=False)
    if status:
        sys.exit(status)


async def _step(
    command: Callable[[AuthorityStore], None],
    access: ApiAccess,
    secret: ObjectKey,
    agents: ObjectKey,
    home: Path,
    passphrase: bytes | None,
) -> tuple[str, int]:
    prepare_scratch(home)
    names = SharedAuthority(TrustDomain("any"), secret)
    audit = Path(os.environ.get(AUDIT_VARIABLE) or home / AUDIT_FILE)
    async with ApiClient(access) as client:
        pods = Cluster().apply(await list_all(client, pods_of_account(agents.namespace, agents.name)))
        know = await nodes_for_a_step(client, names.nodes, agent_nodes(pods, agents), wall_clock())

        has_run = False

        def change(store: AuthorityStore) -> tuple[str, int]:
            nonlocal has_run
            has_run = True
            know(store)
            # Noted as on a host, before and after the change of the copy. Made again, it is noted again.
            store.keep_audit_path(audit)
            with redirect_stdout(io.StringIO()) as out:
                status = _run(command, store)
            return out.getvalue(), status

        try:
            return await SharedState(client, secret, home, passphrase).step(change, wall_clock())
        except ClusterError as error:
            if has_run:
                _note_failure(audit, error)
            raise


def _note_failure(audit: Path, error: ClusterError) -> None:
    """What was noted as done was done to the copy alone."""
    line = command_line(
        "command_not_in_force", "in a Secret", operator(), {"error": str(error)}, wall_clock()
    )
    with suppress(OSError):
        LineFile(audit, MAX_FILE_BYTES, keep=KEPT_FILES).write([line])


def _run(command: Callable[[AuthorityStore], None], store: AuthorityStore) -> int:
    """The exit status of a command that says something else than success in what it prints."""
    try:
        command(store)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
