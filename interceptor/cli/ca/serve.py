"""ca serve: let the nodes of other machines reach the authority."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.authority_process import ServedAuthority, run_authority
from interceptor.authority.return_tokens import MAX_PERIOD
from interceptor.cli.ca.opening import duration, place_options, said
from interceptor.cli.ca.shared import (
    AGENTS_OPTION,
    AUDIT_VARIABLE,
    IN_POD,
    SECRET_OPTION,
    access_of_pod,
    secret_key,
    service_account,
)
from interceptor.config.values import parse_listen_address
from interceptor.errors import UsageError
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.kubernetes.access import as_said
from interceptor.shared_authority.names import SharedAuthority

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.workload import Endpoint

DEFAULT_ADDRESS = "127.0.0.1:15012"
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
    envvar=AUDIT_VARIABLE,
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
@AGENTS_OPTION
@SECRET_OPTION
@click.option(
    "--trust-domain",
    help="Whose authority it is that is made in --secret.  [default: trustDomain of the configuration]",
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
    secret: str | None,
    trust_domain: str | None,
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
    and for --agents the right to create tokenreviews: nodes join by the tokens of that account's
    pods (audience interceptor-ca).

    With --secret, any number of replicas serve the same authority: its state is in that Secret,
    made by the first of them, and --dir, in memory, is where each works. What comes with
    'interceptor kubernetes manifests' is this.

    \b
    Examples:
      sudo interceptor ca serve --listen 10.0.0.1:15012
      sudo interceptor ca serve --listen '[fd00::1]:15012' --passphrase-file /root/pass
      interceptor ca serve --dir /var/lib/authority --kubernetes pod --agents mesh/agent
    """
    api = _access(api_server, kubernetes_token_file, kubernetes_ca_file)
    account = None if agents is None else service_account(agents)
    if account is not None and api is None:
        raise UsageError("--agents asks the Kubernetes API about tokens: give --kubernetes too")
    shared = _shared(secret, account, trust_domain, session)
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
            shared,
        ),
        session.progress,
    )


def _shared(
    secret: str | None, agents: ObjectKey | None, trust_domain: str | None, session: Session
) -> SharedAuthority | None:
    if secret is None:
        if trust_domain is not None:
            raise UsageError("--trust-domain is for --secret; an authority in a directory knows its own")
        return None
    if agents is None:
        raise UsageError(
            "an authority in a Secret lets nodes join by their agents' tokens: give --agents too"
        )
    domain = session.config.trust_domain if trust_domain is None else said(TrustDomain.parse, trust_domain)
    return SharedAuthority(domain, secret_key(secret))


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


def _access(server: str | None, token_file: Path | None, ca_file: Path | None) -> ApiAccess | None:
    if server is not None and server != IN_POD:
        return as_said(server, token_file, ca_file)
    if token_file is not None or ca_file is not None:
        raise UsageError(
            "--kubernetes-token-file and --kubernetes-ca-file belong to --kubernetes URL, give it too"
        )
    if server is None:
        return None
    return access_of_pod()
