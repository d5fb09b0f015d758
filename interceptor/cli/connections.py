"""connections: the open ones and the last finished ones, and a live view of them."""

from __future__ import annotations

import json
import select
import sys
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import click

from interceptor.cli.context import pass_session
from interceptor.cli.output import (
    cell_style,
    line_width,
    output_option,
    print_data,
    print_table,
    yaml_text,
)
from interceptor.cli.quantities import in_bytes, in_milliseconds
from interceptor.cli.table import Column, Table
from interceptor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.cli.context import Session

MAX_LIMIT = 10_000
FOLLOW_SECONDS = 0.3
FOLLOW_ROWS = 200  # asked for each time; more only when more than these are new


def _time(row: Mapping[str, object]) -> str:
    return str(row["time"])[11:19]


def _side(row: Mapping[str, object]) -> str:
    return "out" if row["direction"] == "outbound" else "in"


def _source(row: Mapping[str, object]) -> str:
    return _end(row, "source", with_port=False)


def _destination(row: Mapping[str, object]) -> str:
    return _end(row, "destination", with_port=True)


def _end(row: Mapping[str, object], end: str, *, with_port: bool) -> str:
    """Workload, or else the proven identity, or else the address."""
    address = str(row[f"{end}_address"] or "-")
    if row[f"{end}_workload"]:
        name = f"{row[f'{end}_namespace']}/{row[f'{end}_workload']}"
    elif row[f"{end}_identity"]:
        name = str(row[f"{end}_identity"])
    else:
        return address if with_port else address.rpartition(":")[0] or address
    return f"{name}:{address.rpartition(':')[2]}" if with_port else name


def _security(row: Mapping[str, object]) -> str:
    if row["tls_version"]:
        return str(row["tls_version"])
    return "plaintext" if row["connection_security_policy"] == "none" else "-"


def _bytes(key: str) -> Callable[[Mapping[str, object]], str]:
    def show(row: Mapping[str, object]) -> str:
        count = row[key]
        return in_bytes(count) if isinstance(count, int) else "-"

    return show


def _duration(row: Mapping[str, object]) -> str:
    milliseconds = row["duration_ms"]
    return in_milliseconds(milliseconds) if isinstance(milliseconds, int | float) else "-"


def _result(row: Mapping[str, object]) -> str:
    if row["verdict"] == "denial":
        return str(row["reason"])
    return "open" if row["state"] == "open" else str(row["verdict"] or "-")


COLUMNS = (
    Column("TIME", _time, width=8),
    Column("SIDE", _side, width=4),
    Column("SOURCE", _source, width=16),
    Column("DESTINATION", _destination, width=20),
    Column("SECURITY", _security, width=9),
    Column("SENT", _bytes("bytes_sent"), is_number=True, width=8),
    Column("RECEIVED", _bytes("bytes_received"), is_number=True, width=8),
    Column("LASTED", _duration, is_number=True, width=7),
    Column("RESULT", _result, width=13),
)


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="At most so many."
)
@click.option("--open", "only_open", is_flag=True, help="Only those that are open now.")
@click.option(
    "--denied", "only_denied", is_flag=True, help="Only those that were refused, or cut off by policy."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on, and print each connection when it ends (--open: begins)."
)
@output_option
@pass_session
def connections(
    session: Session, limit: int, only_open: bool, only_denied: bool, follow: bool, output: str
) -> None:
    """List connections, open ones first, the newest first.

    \b
    SIDE is the side that this machine saw: 'out' is the source's, 'in' the destination's;
    a connection between two workloads of this machine has a line for each. SENT is from
    source to destination. RESULT is permit, open, or the reason of a denial. Times are
    UTC. The file of records (see -o json for its keys) has all of them, also older ones.

    \b
    Examples:
      sudo interceptor connections --limit 50
      sudo interceptor connections --denied
      sudo interceptor connections --follow
      sudo interceptor connections --follow -o json | jq .destination_identity
    """
    if only_open and only_denied:
        raise UsageError("--open and --denied exclude each other: a denied connection is closed")
    wanted: dict[str, Any] = {"state": "open"} if only_open else {"verdict": "denial"} if only_denied else {}
    if follow:
        _follow(session, wanted or {"state": "closed"}, limit, output)
        return
    rows = session.ask("connections", limit=limit, **wanted)
    if output == "table":
        print_table(COLUMNS, rows, "no such connection is remembered")
    else:
        print_data(rows, output)


def _follow(session: Session, wanted: Mapping[str, Any], limit: int, output: str) -> None:
    """Print what there is, oldest first, and then what comes, until interrupted."""
    table = Table(COLUMNS, line_width=line_width(), style=cell_style())
    show: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "table": table.row,
        "json": json.dumps,
        "yaml": lambda row: f"---\n{yaml_text(row)}".rstrip(),
    }
    if output == "table":
        click.echo(table.heading())
    rows = session.ask("connections", limit=FOLLOW_ROWS, **wanted)
    new = rows[:limit][::-1]
    while True:
        for row in new:
            click.echo(show[output](row))
        seen = {row["id"] for row in rows}
        _pause()
        rows = session.ask("connections", limit=FOLLOW_ROWS, **wanted)
        new = not_yet_shown(rows, seen)
        if len(new) == FOLLOW_ROWS:
            rows = session.ask("connections", limit=MAX_LIMIT, **wanted)
            new = not_yet_shown(rows, seen)


def not_yet_shown(rows: list[Mapping[str, Any]], seen: set[str]) -> list[Mapping[str, Any]]:
    """Of rows with the newest first, those before the first that was seen; the oldest of them first."""
    return list(takewhile(lambda row: row["id"] not in seen, rows))[::-1]


def _pause() -> None:
    """Wait a moment; BrokenPipeError as soon as nobody reads any more, which no write would tell while it is quiet."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors are told in any case
    if output.poll(FOLLOW_SECONDS * 1000):
        raise BrokenPipeError
