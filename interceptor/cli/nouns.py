"""workloads, certificates: what is there, measured by the agent at this moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from interceptor.cli.context import pass_session
from interceptor.cli.output import output_option, print_data, print_table
from interceptor.cli.quantities import in_seconds, seconds_until
from interceptor.cli.table import Column

if TYPE_CHECKING:
    from interceptor.cli.context import Session

WORKLOADS = (
    Column("WORKLOAD", lambda row: f"{row['namespace']}/{row['name']}"),
    Column("IDENTITY", lambda row: str(row["identity"]).removeprefix("spiffe://")),
    Column("ADDRESSES", lambda row: " ".join(_list(row["addresses"]))),
    Column("STATE", lambda row: str(row["state"])),
    Column("OPEN", lambda row: str(row["connections"]), is_number=True),
    Column("PID", lambda row: str(row["pid"] or "-"), is_number=True),
)
CERTIFICATES = (
    Column("WORKLOAD", lambda row: f"{row['namespace']}/{row['workload']}"),
    Column("IDENTITY", lambda row: str(row["identity"]).removeprefix("spiffe://")),
    Column("STATE", lambda row: str(row["state"])),
    Column("EXPIRES IN", lambda row: _duration(row["remaining_seconds"]), is_number=True),
    Column("LEFT", lambda row: _percent(row["remaining_fraction"]), is_number=True),
    Column("RENEWED IN", lambda row: _until(row["renew_at"]), is_number=True),
    Column("ISSUED", lambda row: str(row["issued"]), is_number=True),
    Column("SERIAL", lambda row: str(row["serial_number"] or "-")[-8:]),
)


@click.command()
@output_option
@pass_session
def workloads(session: Session, output: str) -> None:
    """List the workloads of this machine, each looked at now.

    \b
    STATE is ready, degraded (something is wrong with it: the lines below the table say
    what), or cut_off (all its connections are refused). OPEN counts its connections.
    PID is the process of 'interceptor run'.

    \b
    Examples:
      sudo interceptor workloads
      sudo interceptor workloads -o json
    """
    rows = session.ask("workloads")
    if output != "table":
        print_data(rows, output)
        return
    print_table(WORKLOADS, rows, "no workload is enrolled: see 'interceptor run --help'")
    for row in rows:
        for problem in row["problems"]:
            click.echo(f"{row['namespace']}/{row['name']}: {problem}")


@click.command()
@output_option
@pass_session
def certificates(session: Session, output: str) -> None:
    """List the workloads' certificates: until when they are valid, and when they are renewed.

    \b
    Each is renewed, with a new key, when half to three fifths of its life have passed.
    STATE is valid, late (three quarters have passed, and it was not renewed), expired,
    revoked or missing; below the table stands what went wrong last. LEFT is what remains of the life.
    SERIAL shows the last eight digits, -o json all of them. No key is ever shown.

    \b
    Examples:
      sudo interceptor certificates
      sudo interceptor certificates -o yaml
    """
    rows = session.ask("certificates")
    if output != "table":
        print_data(rows, output)
        return
    print_table(CERTIFICATES, rows, "no workload is enrolled, so there is no certificate")
    for row in rows:
        if row["last_error"]:
            click.echo(f"{row['namespace']}/{row['workload']}: the last renewal failed: {row['last_error']}")


def _list(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _duration(seconds: object) -> str:
    return in_seconds(float(seconds)) if isinstance(seconds, int | float) else "-"


def _percent(fraction: object) -> str:
    return f"{fraction:.0%}" if isinstance(fraction, int | float) else "-"


def _until(instant: object) -> str:
    return in_seconds(seconds_until(instant, _now())) if isinstance(instant, str) else "-"


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - what is shown to a person is relative to now
