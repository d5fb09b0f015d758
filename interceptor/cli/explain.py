"""explain: every step of the decision about one connection."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from interceptor.agent.explain_ends import split_destination
from interceptor.cli.context import pass_session
from interceptor.cli.output import coloured, line_width, output_option, print_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.cli.context import Session

_STEP_WIDTH = 15  # of the longest name of a step
_EVIDENCE = 2 + 2 + 2 + _STEP_WIDTH + 2  # where it begins: behind the mark and the step
_VERDICTS = {
    "mutual_tls": "permitted, by mutual TLS",
    "none": "permitted, in plaintext",
    None: "permitted",
}


@click.command()
@click.argument("source", required=False)
@click.argument("destination", metavar="DESTINATION:PORT", required=False)
@click.option("--connection", metavar="ID", help="A connection that was made, by its id, instead of both.")
@output_option
@pass_session
def explain(
    session: Session, source: str | None, destination: str | None, connection: str | None, output: str
) -> None:
    """Say what would happen if SOURCE connected to DESTINATION:PORT, and why; nothing is connected.

    \b
    SOURCE is a workload (NAME or NAMESPACE/NAME) or any address, also one outside the
    mesh. DESTINATION is a name as the source would use it, or an address; an IPv6
    address in brackets. The ids of connections are in 'interceptor connections -o json'.

    \b
    Examples:
      sudo interceptor explain client web:80
      sudo interceptor explain shop/client 10.215.0.2:5432
      sudo interceptor explain 192.0.2.1 [fd15:8::2]:80
      sudo interceptor explain client web:80 -o json
      sudo interceptor explain --connection 5f2d09ab5e2ee3d1
    """
    if connection is None and source is not None and destination is not None:
        split_destination(destination)  # refused here, before an agent is needed
        answer = session.ask("explain", source=source, destination=destination)
    elif connection is not None and source is None and destination is None:
        answer = session.ask("explain", connection=connection)
    else:
        raise click.UsageError("give either SOURCE and DESTINATION:PORT, or --connection ID")
    if output != "table":
        print_data(answer, output)
        return
    for line in explanation_lines(answer, line_width()):
        click.echo(line)


def explanation_lines(answer: Mapping[str, Any], width: int) -> Iterator[str]:
    """An explanation as text; long evidence goes on in its own column."""
    yield f"{answer['source']} -> {answer['destination']}"
    for step in answer["steps"]:
        mark = coloured("ok" if step["ok"] else "no")
        first, *more = textwrap.wrap(step["evidence"], width - _EVIDENCE, break_on_hyphens=False) or [""]
        yield f"  {mark}  {step['step']:<{_STEP_WIDTH}}  {first}"
        yield from (" " * _EVIDENCE + line for line in more)
    yield f"  => {_verdict(answer)}"


def _verdict(answer: Mapping[str, Any]) -> str:
    match answer["verdict"]:
        case "permit":
            return coloured("permit", _VERDICTS[answer["transport"]])
        case "denial":
            return coloured("denial", f"denied, {answer['reason']}")
        case _:
            return "not the mesh's business: left as it is"
