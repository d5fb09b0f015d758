"""ca serve: let the nodes of other machines reach the authority."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.authority_process import ServedAuthority, run_authority
from interceptor.authority.return_tokens import MAX_PERIOD
from interceptor.cli.ca.opening import duration, place_options, said
from interceptor.cluster.head import ObjectKey
from interceptor.config.values import parse_listen_address
from interceptor.errors import InvalidInput, UsageError, quoted
from interceptor.identity.spiffe_id import SERVICE_ACCOUNT, validate_name
from interceptor.kubernetes.access import as_said, in_pod

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.workload import Endpoint

DEFAULT_ADDRESS = "127.0.0.1:15012"
IN_POD = "pod"
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--listen",
    "address",
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where nodes connect to; they are told by authority.address.",
)
@click.option(
    "--audit",
    "audit_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for a line about each certificate and each refusal.  [default: audit.jsonl in the directory]",
)
@click.option(
    "--kubernetes",
    "api_server",
    metavar="URL|pod",
    help="Issue only for pods that this Kubernetes API shows on the node that asks; 'pod': the API as in a pod.",
)
@click.option(
    "--kubernetes-token-file",
    type=_FILE,
    help="File with the bearer token for it; read anew at each request.",
)
@click.option(
    "--kubernetes-ca-file", type=_FILE, help="PEM file with the CA that its certificate comes from."
)
@click.option(
    "--agents",
    metavar="NAMESPACE/SERVICEACCOUNT",
    help="Let nodes join by the tokens of this service account's pods (audience interceptor-ca).",
)
@click.option(
    "--metrics",
    "metrics_address",
    metavar="ADDRESS:PORT",
    help="Where Prometheus scrapes the authority's own metrics, on loopback.  [default: nowhere]",
)
@click.option("--metrics-public", is_flag=True, help="Let --metrics be an address that others reach.")
@click.option(
    "--return-period",
    default="96h",
    show_default=True,
    help="How long a node may be away, switched off, and come back by itself; 0s: it needs a new token each time.",
)
@place_options
def serve(
    session: Session,
    directory: Path,
    passphrase: bytes | None,
    address: str,
    audit_path: Path | None,
    api_server: str | None,
    kubernetes_token_file: Path | None,
    kubernetes_ca_file: Path | None,
    agents: str | None,
    return_period: str,
    metrics_address: str | None,
    metrics_public: bool,
) -> None:
    """Serve the authority to nodes over HTTPS, in the foreground, until SIGTERM or SIGINT.

    Nodes prove who they are by their own certificate, got with a token: 'ca token create'. The
    root key need not be there, except when the intermediate is past half its life.

    With --kubernetes, a node must bear the name that it has in the cluster, and gets a
    certificate only while the API shows a pod in the mesh, with that service account, on it:
    beside what its token allowed. That needs the right to list and watch pods and namespaces,
    and for --agents the right to create tokenreviews.

    \b
    Examples:
      sudo interceptor ca serve --listen 10.0.0.1:15012
      sudo interceptor ca serve --listen '[fd00::1]:15012' --passphrase-file /root/pass
      interceptor ca serve --dir /var/lib/authority --kubernetes pod --agents mesh/agent
    """
    api = _access(api_server, kubernetes_token_file, kubernetes_ca_file)
    account = None if agents is None else _service_account(agents)
    if account is not None and api is None:
        raise UsageError("--agents asks the Kubernetes API about tokens: give --kubernetes too")
    run_authority(
        ServedAuthority(
            directory,
            passphrase,
            _listen_address(address),
            audit_path,
            api,
            account,
            duration(return_period, timedelta(0), MAX_PERIOD),
            _metrics_address(metrics_address, is_public=metrics_public),
        ),
        session.progress,
    )


def _listen_address(text: str) -> Endpoint:
    return said(parse_listen_address, text)


def _metrics_address(text: str | None, *, is_public: bool) -> Endpoint | None:
    if text is None:
        return None
    endpoint = _listen_address(text)
    if not endpoint.address.is_loopback and not is_public:
        raise UsageError(
            f"{endpoint} can be reached by others, and what is there needs no certificate: give an address such as "
            "127.0.0.1:15022, or --metrics-public too"
        )
    return endpoint


def _service_account(text: str) -> ObjectKey:
    namespace, slash, name = text.partition("/")
    if not slash:
        raise UsageError(f"{quoted(text)} is not a service account, expected NAMESPACE/SERVICEACCOUNT")
    try:
        return ObjectKey(validate_name("namespace", namespace), validate_name(SERVICE_ACCOUNT, name))
    except InvalidInput as error:
        raise UsageError(str(error)) from None


def _access(server: str | None, token_file: Path | None, ca_file: Path | None) -> ApiAccess | None:
    if server is not None and server != IN_POD:
        return as_said(server, token_file, ca_file)
    if token_file is not None or ca_file is not None:
        raise UsageError(
            "--kubernetes-token-file and --kubernetes-ca-file belong to --kubernetes URL, give it too"
        )
    if server is None:
        return None
    found = in_pod(os.environ)
    if found is None:
        raise UsageError("this is no pod: give the URL of the API server with --kubernetes")
    return found
