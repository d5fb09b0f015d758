"""ca token, ca nodes, ca node: who may join, who has, and what each may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interceptor.agent.clock import wall_clock
from interceptor.authority.admission import AllowPattern
from interceptor.authority.tokens import Token
from interceptor.authority_store.membership import MAX_TOKEN_LIFE, MIN_TOKEN_LIFE
from interceptor.cli.ca.opening import duration, said, with_any_store, with_audited_store, with_store
from interceptor.cli.output import output_option, print_data, print_table
from interceptor.cli.quantities import in_seconds, seconds_until
from interceptor.cli.table import Column
from interceptor.errors import UsageError
from interceptor.identity.node_id import validate_node_name

if TYPE_CHECKING:
    from interceptor.authority.node_record import NodeRecord
    from interceptor.authority.tokens import TokenRecord
    from interceptor.authority_service.command_audit import CommandAudit
    from interceptor.authority_store import AuthorityStore

TOKENS = (
    Column("ID", lambda row: str(row["id"])),
    Column("NODE", lambda row: str(row["node"])),
    Column("STATE", lambda row: str(row["state"])),
    Column("EXPIRES IN", lambda row: _until(row["expires_at"]), is_number=True),
    Column("ALLOWED", lambda row: _joined(row["allowed"])),
)
NODES = (
    Column("NODE", lambda row: str(row["node"])),
    Column("STATE", lambda row: str(row["state"])),
    Column("WORKLOADS", lambda row: str(row["workloads"]), is_number=True),
    Column("REPORTED", lambda row: _ago(row["reported_at"]), is_number=True),
    Column("JOINED", lambda row: _ago(row["joined_at"]), is_number=True),
    Column("ALLOWED", lambda row: _joined(row["allowed"])),
)
ALLOW = click.option(
    "--allow",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Identities that the node may ask for, ns/<namespace or *>/sa/<account, * or prefix*>; can be repeated.",
)


@click.group()
def token() -> None:
    """Make and list the tokens with which nodes join.

    \b
    Examples:
      sudo interceptor ca token create --node node-b --allow 'ns/*/sa/*'
      sudo interceptor ca token list
    """


@token.command("create")
@click.option("--node", "name", required=True, help="Name of the node, as 'node' in its configuration.")
@click.option(
    "--ttl",
    default="10m",
    show_default=True,
    help="How long the node may take to join.",
)
@ALLOW
@output_option
@with_audited_store
def create(
    store: AuthorityStore, audit: CommandAudit, name: str, ttl: str, patterns: tuple[str, ...], output: str
) -> None:
    """Make a token that lets one node in, once; it is shown now and never again.

    \b
    Examples:
      sudo interceptor ca token create --node node-b --allow 'ns/*/sa/*'
      sudo interceptor ca token create --node db-1 --allow ns/shop/sa/db --ttl 1h -o json
    """
    now, life = wall_clock(), duration(ttl, MIN_TOKEN_LIFE, MAX_TOKEN_LIFE)
    said(validate_node_name, name)
    allowed = _patterns(patterns)
    with audit.noting("token create", node=name, ttl=ttl, allowed=patterns) as result:
        text = store.create_token(name, life, allowed, now)
        result["id"] = Token.parse(text).id
    if output != "table":
        expires_at = (now + life).isoformat()
        print_data(
            {"token": text, "id": Token.parse(text).id, "node": name, "expires_at": expires_at}, output
        )
        return
    click.echo(text)
    click.echo(
        f"\nWithin {in_seconds(life.total_seconds())}, on {name}, with authority.address in its config.yaml:\n"
        f"  echo {text} | sudo interceptor up --join-token-file -",
        err=True,
    )


@token.command("list")
@output_option
@with_store
def list_tokens(store: AuthorityStore, output: str) -> None:
    """List the tokens of the last month: unused, used or expired. No secret is shown.

    \b
    Examples:
      sudo interceptor ca token list
      sudo interceptor ca token list -o json
    """
    rows = [_token_row(record) for record in store.tokens()]
    if output == "table":
        print_table(TOKENS, rows, "there is no token: see 'interceptor ca token create --help'")
    else:
        print_data(rows, output)


@click.command()
@output_option
@with_any_store
def nodes(store: AuthorityStore, output: str) -> None:
    """List the nodes that have joined, what each may ask for, and when it reported last.

    STATE is current when the node uses the trust bundle of now, behind when it uses another, silent
    when it has not reported yet, or revoked.

    \b
    Examples:
      sudo interceptor ca nodes
      sudo interceptor ca nodes -o json
    """
    current = store.trust_document().bundle_hash
    rows = [_node_row(record, current) for record in store.nodes()]
    if output == "table":
        print_table(NODES, rows, "no node has joined: see 'interceptor ca token create --help'")
    else:
        print_data(rows, output)


@click.group()
def node() -> None:
    """Change what a node may ask for, or remove it.

    \b
    Examples:
      sudo interceptor ca node allow node-b --allow ns/shop/sa/web
      sudo interceptor ca node remove node-b
    """


@node.command("allow")
@click.argument("name")
@ALLOW
@with_audited_store
def allow(store: AuthorityStore, audit: CommandAudit, name: str, patterns: tuple[str, ...]) -> None:
    """Replace what a node may ask for; certificates that it has are valid until they end.

    \b
    Examples:
      sudo interceptor ca node allow node-b --allow ns/shop/sa/web --allow 'ns/shop/sa/job-*'
    """
    allowed = _patterns(patterns)
    with audit.noting("node allow", node=name, allowed=patterns):
        store.set_allowed(name, allowed)
    click.echo(f"{name} may ask for {', '.join(patterns)}")


@node.command("remove")
@click.argument("name")
@with_audited_store
def remove(store: AuthorityStore, audit: CommandAudit, name: str) -> None:
    """Forget a node that is gone: it can ask for nothing more, and no rotation waits for it.

    One that was taken over by somebody is revoked besides: 'interceptor ca revoke'.

    \b
    Examples:
      sudo interceptor ca node remove node-b
    """
    with audit.noting("node remove", node=name):
        store.remove_node(name)
    click.echo(f"{name} removed")


def _patterns(texts: tuple[str, ...]) -> tuple[AllowPattern, ...]:
    if not texts:
        raise UsageError(
            "a node that is allowed nothing can do nothing: give --allow, such as --allow 'ns/*/sa/*'"
        )
    return tuple(said(AllowPattern.parse, text) for text in texts)


def _token_row(record: TokenRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "node": record.node,
        "state": record.state(wall_clock()),
        "created_at": record.created_at.isoformat(),
        "expires_at": record.expires_at.isoformat(),
        "used_at": record.used_at.isoformat() if record.used_at else None,
        "allowed": [str(pattern) for pattern in record.allowed],
    }


def _node_row(record: NodeRecord, bundle_hash: str) -> dict[str, Any]:
    report = record.report
    return {
        "node": record.name,
        "state": _state(record, bundle_hash),
        "workloads": len(report.workloads) if report else 0,
        "reported_at": record.reported_at.isoformat() if record.reported_at else None,
        "joined_at": record.joined_at.isoformat(),
        "allowed": [str(pattern) for pattern in record.allowed],
        "bundle_hash": report.bundle_hash if report else None,
        "issuers": list(report.issuers) if report else [],
    }


def _state(record: NodeRecord, bundle_hash: str) -> str:
    if record.revoked:
        return "revoked"
    if record.report is None:
        return "silent"
    return "current" if record.report.bundle_hash == bundle_hash else "behind"


def _until(instant: object) -> str:
    return in_seconds(seconds_until(str(instant), wall_clock()))


def _ago(instant: object) -> str:
    return "never" if instant is None else f"{in_seconds(-seconds_until(str(instant), wall_clock()))} ago"


def _joined(values: object) -> str:
    return " ".join(values) if isinstance(values, list) else ""
