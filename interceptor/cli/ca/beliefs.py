"""ca revoke, ca federate, ca alias and their opposites: what nodes are to believe from now on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.clock import wall_clock
from interceptor.cli.ca.opening import said, with_any_audited_store, with_any_store
from interceptor.cli.output import output_option, print_data, print_table
from interceptor.cli.table import Column
from interceptor.errors import InvalidInput, StateError, utc
from interceptor.identity.certificates import fingerprint
from interceptor.identity.federation import read_foreign_roots
from interceptor.identity.revocation import Revocation, require_whole, revocation_target
from interceptor.identity.spiffe_id import TrustDomain

if TYPE_CHECKING:
    from interceptor.authority_service.command_audit import CommandAudit
    from interceptor.authority_store import AuthorityStore

MAX_BUNDLE_BYTES = 256 * 1024
REVOCATIONS = (
    Column("KIND", lambda row: str(row["kind"])),
    Column("REVOKED", lambda row: str(row["value"])),
    Column("AT", lambda row: str(row["revoked_at"])),
    Column("WHY", lambda row: str(row["why"]) or "-"),
)


@click.command()
@click.argument("target", metavar="IDENTITY|SERIAL")
@click.option("--why", default="", help="One line for those who ask later.")
@with_any_audited_store
def revoke(store: AuthorityStore, audit: CommandAudit, target: str, why: str) -> None:
    """Let nobody believe an identity, or one certificate, any more.

    Within seconds every node refuses new connections of it and closes those that are open. A
    node's identity is spiffe://<trust domain>/node/<name>; it can then ask for nothing, while
    certificates of its workloads are valid until they end, or are revoked too. A serial number
    must be whole: 'interceptor certificates -o json' shows it.

    \b
    Examples:
      sudo interceptor ca revoke spiffe://cluster.local/ns/shop/sa/web --why 'key copied'
      sudo interceptor ca revoke 3b1f6c6a0e5d4f7790aa41d2c8f05e135f3a09c1
      sudo interceptor ca revoke spiffe://cluster.local/node/node-b
    """
    kind, value = said(revocation_target, target)
    said(require_whole, kind, value)
    said(Revocation, kind, value, wall_clock(), why)
    with audit.noting("revoke", protects=True, kind=kind.value, value=value, why=why):
        store.revoke(kind, value, why, wall_clock())
    click.echo(f"{kind} {value} is revoked")


@click.command()
@click.argument("target", metavar="IDENTITY|SERIAL")
@with_any_audited_store
def unrevoke(store: AuthorityStore, audit: CommandAudit, target: str) -> None:
    """Take a revocation back.

    \b
    Examples:
      sudo interceptor ca unrevoke spiffe://cluster.local/ns/shop/sa/web
      sudo interceptor ca unrevoke 3b1f6c6a0e5d4f7790aa41d2c8f05e135f3a09c1
    """
    kind, value = said(revocation_target, target)
    with audit.noting("unrevoke", kind=kind.value, value=value):
        store.unrevoke(value)
    click.echo(f"{kind} {value} is not revoked any more")


@click.command()
@output_option
@with_any_store
def revocations(store: AuthorityStore, output: str) -> None:
    """List what is revoked, since when and why.

    \b
    Examples:
      sudo interceptor ca revocations
      sudo interceptor ca revocations -o json
    """
    rows = [
        {
            "kind": entry.kind.value,
            "value": entry.value,
            "revoked_at": utc(entry.revoked_at),
            "why": entry.why,
        }
        for entry in store.revocations()
    ]
    if output == "table":
        print_table(REVOCATIONS, rows, "nothing is revoked")
    else:
        print_data(rows, output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--trust-domain", help="Whose roots they are.  [default: what the certificates made by interceptor say]"
)
@with_any_audited_store
def federate(store: AuthorityStore, audit: CommandAudit, file: Path, trust_domain: str | None) -> None:
    """Believe in the roots of another trust domain, for identities of that domain only.

    FILE holds its root certificates in PEM, as 'ca bundle' prints them there. They replace those
    that it had before: repeat this when the other side rotates.

    \b
    Examples:
      sudo interceptor ca federate other.example.pem
    """
    given = None if trust_domain is None else said(TrustDomain.parse, trust_domain)
    try:
        bundle = read_foreign_roots(_read(file), given, wall_clock())
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from None
    roots = [fingerprint(root) for root in bundle.roots]
    with audit.noting("federate", trust_domain=bundle.trust_domain.name, roots=roots):
        store.federate(bundle)
    click.echo(f"identities of {bundle.trust_domain} are believed, by {len(bundle.roots)} root certificates")


@click.command()
@click.argument("trust_domain")
@with_any_audited_store
def unfederate(store: AuthorityStore, audit: CommandAudit, trust_domain: str) -> None:
    """Stop believing in another trust domain.

    \b
    Examples:
      sudo interceptor ca unfederate other.example
    """
    domain = said(TrustDomain.parse, trust_domain)
    with audit.noting("unfederate", trust_domain=domain.name):
        store.unfederate(domain)
    click.echo(f"identities of {trust_domain} are not believed any more")


@click.command()
@click.argument("trust_domain")
@with_any_audited_store
def alias(store: AuthorityStore, audit: CommandAudit, trust_domain: str) -> None:
    """Let identities of another trust domain count as those of ours, as while it is renamed.

    They are believed by that domain's roots if it is federated, else by our own.

    \b
    Examples:
      sudo interceptor ca alias old.example
    """
    domain = said(TrustDomain.parse, trust_domain)
    with audit.noting("alias", trust_domain=domain.name):
        store.add_alias(domain)
    click.echo(f"identities of {domain} count as those of {store.trust_domain}")


@click.command()
@click.argument("trust_domain")
@with_any_audited_store
def unalias(store: AuthorityStore, audit: CommandAudit, trust_domain: str) -> None:
    """Take an alias back.

    \b
    Examples:
      sudo interceptor ca unalias old.example
    """
    domain = said(TrustDomain.parse, trust_domain)
    with audit.noting("unalias", trust_domain=domain.name):
        store.remove_alias(domain)
    click.echo(f"identities of {domain} do not count as those of {store.trust_domain} any more")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise StateError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > MAX_BUNDLE_BYTES:
        raise InvalidInput(f"{file} has more than {MAX_BUNDLE_BYTES} bytes, it is no trust bundle")
    return data
