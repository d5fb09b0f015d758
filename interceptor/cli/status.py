"""status: how the agent is, and with --node how each pod of the node is."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from interceptor.cli.context import pass_session
from interceptor.cli.output import coloured, output_option, print_data, print_table
from interceptor.cli.quantities import in_seconds, seconds_until
from interceptor.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.cli.context import Session

PODS = (
    Column("POD", lambda row: f"{row['namespace']}/{row['name']}"),
    Column("IDENTITY", lambda row: str(row["identity"] or "-").removeprefix("spiffe://")),
    Column("STATE", lambda row: str(row["state"])),
    Column("REASON", lambda row: str(row["reason"])),
    Column("SINCE", lambda row: _ago(row["since"]), is_number=True),
    Column("CERTIFICATE", lambda row: _until(row["certificate_not_after"]), is_number=True),
    Column("LISTENERS", lambda row: " ".join(map(str, _list(row["listeners"]))) or "-"),
)
_UNWELL = ("degraded", "waiting")


@click.command()
@click.option("--node", "is_node", is_flag=True, help="The pods of this node of a cluster, one by one.")
@output_option
@pass_session
def status(session: Session, is_node: bool, output: str) -> None:
    """Say how the agent is; exit status 1 unless it and every workload are well.

    \b
    Not well is also a certificate, of a workload, of the node or of the authority, that
    is past three quarters of its life and was not renewed, and an authority that refuses
    this node, as after it was removed or another joined with its name.

    \b
    With --node: each pod that the cluster's API shows on this node, how it stands to the
    mesh (enrolled, degraded, waiting, draining or outside) and why, since when, when its
    certificate ends, and which listeners are open in its network namespace.

    \b
    Examples:
      sudo interceptor status
      sudo interceptor status -o json
      sudo interceptor status --node
    """
    if is_node:
        _show_node(session.ask("node"), output)
        return
    answer = session.ask("status")
    if output == "table":
        for label, text in _status_lines(answer):
            click.echo(f"{label:<13}{text}")
    else:
        print_data(answer, output)
    if answer["state"] != "ready":
        sys.exit(1)


def _status_lines(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    started = -seconds_until(answer["started_at"], _now())
    counters = answer["kernel_counters"]
    captured = counters["captured_ipv4"] + counters["captured_ipv6"]
    refused = sum(value for name, value in counters.items() if name.startswith("refused_"))
    degraded = len(answer["degraded_workloads"])
    lines = [
        ("state", coloured(answer["state"])),
        *(("", f"waiting for: {line}") for line in answer["waiting_for"]),
        *(("", coloured("failure", line)) for line in answer["problems"]),
        (
            "node",
            f"{answer['node']}, pid {answer['pid']}, version {answer['version']}, up {in_seconds(started)}",
        ),
        ("trust domain", answer["trust_domain"]),
        ("mode", answer["mode"]),
        ("mesh", ", ".join(answer["mesh_cidrs"])),
        *(("", f"warning: {line}") for line in answer["policy_warnings"]),
        ("policies", f"{answer['policies']}"),
        ("workloads", f"{answer['workloads']}" + (f", {degraded} not well" if degraded else "")),
        ("connections", f"{answer['connections_open']} open, {captured} captured since the start"),
        *(("draining", _draining(each)) for each in answer["draining"]),
        ("authority", _authority(answer)),
        ("metrics", f"http://{answer['metrics_address']}/metrics"),
    ]
    if refused:
        lines.append(("kernel", f"{refused} refused (-o json shows why)"))
    return lines


def _draining(before: Mapping[str, Any]) -> str:
    """An agent that has handed over, and what it still has."""
    if before["until"] is None:
        return f"pid {before['pid']}, which has handed over just now"
    left = in_seconds(max(0.0, seconds_until(before["until"], _now())))
    return f"pid {before['pid']} has handed over and relays {before['connections']} connections, for at most {left}"


def _authority(answer: Mapping[str, Any]) -> str:
    authority, ends = answer["authority"], answer["authority_not_after"]
    where = f"at {authority['address']}" if authority["address"] else "embedded"
    valid = f", valid for {in_seconds(seconds_until(ends, _now()))}" if ends else ""
    age = authority["trust_bundle_age_seconds"]
    heard = "" if age is None else f", heard from {in_seconds(age)} ago"
    error = f"; {authority['last_error']}" if authority["last_error"] else ""
    return f"{where}{valid}{heard}{error}"


def _show_node(answer: Mapping[str, Any], output: str) -> None:
    pods = answer["pods"]
    if output == "table":
        print_table(PODS, pods, "the cluster's API shows no pod on this node")
        for line in answer["waiting_for"]:
            click.echo(f"waiting for: {line}")
        for row in pods:
            if row["state"] in _UNWELL:
                click.echo(f"{row['namespace']}/{row['name']}: {row['message']}")
    else:
        print_data(answer, output)
    if answer["waiting_for"] or any(row["state"] in _UNWELL for row in pods):
        sys.exit(1)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _ago(instant: object) -> str:
    return in_seconds(-seconds_until(instant, _now())) if isinstance(instant, str) else "-"


def _until(instant: object) -> str:
    return in_seconds(seconds_until(instant, _now())) if isinstance(instant, str) else "-"


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - what is shown to a person is relative to now
