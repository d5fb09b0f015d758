"""ca serve: let the nodes of other machines reach the authority."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.authority_process import ServedAuthority, run_authority
from interceptor.cli.ca.opening import place_options
from interceptor.config.values import parse_listen_address
from interceptor.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.workload import Endpoint

DEFAULT_ADDRESS = "127.0.0.1:15012"


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
@place_options
def serve(
    session: Session, directory: Path, passphrase: bytes | None, address: str, audit_path: Path | None
) -> None:
    """Serve the authority to nodes over HTTPS, in the foreground, until SIGTERM or SIGINT.

    Nodes prove who they are by their own certificate, got with a token: 'ca token create'. The
    root key need not be there, except when the intermediate is past half its life.

    \b
    Examples:
      sudo interceptor ca serve --listen 10.0.0.1:15012
      sudo interceptor ca serve --listen '[fd00::1]:15012' --passphrase-file /root/pass
    """
    run_authority(
        ServedAuthority(directory, passphrase, _listen_address(address), audit_path), session.progress
    )


def _listen_address(text: str) -> Endpoint:
    try:
        return parse_listen_address(text)
    except InvalidInput as error:
        raise UsageError(str(error)) from None
