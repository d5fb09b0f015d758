"""policies, and policy check, simulate, apply: look, and look before you leap."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.admin import AnsweredError
from interceptor.agent.clock import wall_clock
from interceptor.agent.policy_keeper import mesh_of
from interceptor.agent.policy_requests import read_policy_file
from interceptor.cli.context import pass_session, require_root
from interceptor.cli.output import coloured, output_option, print_data, print_table
from interceptor.cli.table import Column
from interceptor.errors import AgentError, PolicyError
from interceptor.policy.lint import warnings
from interceptor.policy.parse import parse_policies

if TYPE_CHECKING:
    from interceptor.cli.context import Session
    from interceptor.policy.documents import Document

DOCUMENTS = (
    Column("KIND", lambda row: str(row["kind"])),
    Column("NAME", lambda row: f"{row['namespace']}/{row['name']}"),
    Column("SELECTOR", lambda row: str(row["selector"] or "all")),
    Column("EFFECT", lambda row: str(row["effect"])),
    Column("WORKLOADS", lambda row: str(row["workloads"]), is_number=True),
    Column("USED", lambda row: "-" if row["used"] is None else str(row["used"]), is_number=True),
)
CHANGES = (
    Column("DIRECTION", lambda row: str(row["direction"])),
    Column("SOURCE", lambda row: str(row["source"])),
    Column("DESTINATION", lambda row: str(row["destination"])),
    Column("NOW", lambda row: _shown(row["before"])),
    Column("THEN", lambda row: _shown(row["after"])),
    Column("OPEN", lambda row: str(row["open"]), is_number=True),
    Column("RECENT", lambda row: str(row["recent"]), is_number=True),
    Column("POLICY", lambda row: str(row["policy"] or "-")),
)
_files = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@output_option
@pass_session
def policies(session: Session, output: str) -> None:
    """List the policy documents in force, and what is wrong with the files; exit status 1 if anything is.

    \b
    The documents are Istio's PeerAuthentication and AuthorizationPolicy, and
    LegacyException and EgressPolicy (see the README), in paths.policies (by default
    /etc/interceptor/policies). A change of the files is in force within a second.
    WORKLOADS counts whom a document selects, USED how often an exception was used
    since the agent was started.

    \b
    Examples:
      sudo interceptor policies
      sudo interceptor policies -o json
    """
    answer = session.ask("policies")
    if output != "table":
        print_data(answer, output)
    else:
        nothing = f"there are no policies in {answer['directory']}: mode {answer['mode']} is all that holds"
        if answer["state"] == "ready" or answer["documents"]:
            print_table(DOCUMENTS, answer["documents"], nothing)
        for warning in answer["warnings"]:
            click.echo(f"{coloured('warning')}: {warning}")
        if answer["error"]:
            kept = "everything is denied" if answer["state"] == "pending" else "those above stay in force"
            click.echo(coloured("failure", f"refused, {kept}: {answer['error']}"))
    if answer["state"] != "ready":
        sys.exit(1)


@click.group()
def policy() -> None:
    """Check policy files, see what they would change, and put them in force.

    \b
    Examples:
      interceptor policy check strict.yaml
      sudo interceptor policy simulate strict.yaml
      sudo interceptor policy apply strict.yaml
    """


@policy.command()
@_files
@pass_session
def check(session: Session, files: tuple[Path, ...]) -> None:
    """Say whether FILES are valid policy documents; needs no agent.

    \b
    If an agent runs, they are also checked together with the other files in
    paths.policies, and warnings tell of selectors and principals that match nobody.

    \b
    Examples:
      interceptor policy check shop.yaml
      interceptor policy check /etc/interceptor/policies/*.yaml
    """
    documents = _parsed(session, files)
    try:
        answer = session.ask("policy_check", files=_absolute(files))
    except AnsweredError:
        raise  # together with the files that are there, they are not
    except AgentError as error:
        root = session.config.policy.root_namespace
        for warning in warnings(documents, root, wall_clock(), None):
            click.echo(f"{coloured('warning')}: {warning}")
        click.echo(f"{len(documents)} documents are valid; nobody was asked whom they select: {error}")
        return
    for warning in answer["warnings"]:
        click.echo(f"{coloured('warning')}: {warning}")
    click.echo(f"{len(documents)} documents are valid")


@policy.command()
@_files
@output_option
@pass_session
def simulate(session: Session, files: tuple[Path, ...], output: str) -> None:
    """Say which verdicts would change if FILES were in paths.policies; changes nothing.

    \b
    Files of the same name are replaced, the others stay as they are. Asked about are the
    connections that are open, and those of the last hour, also if the agent was restarted
    meanwhile; if they were too many to be remembered, that is said.

    \b
    Examples:
      sudo interceptor policy simulate strict.yaml
      sudo interceptor policy simulate strict.yaml -o json
    """
    _parsed(session, files)
    answer = session.ask("policy_simulate", files=_absolute(files))
    if output != "table":
        print_data(answer, output)
        return
    nothing = f"no verdict would change, of {answer['connections']} connections"
    print_table(CHANGES, answer["changes"], nothing)
    if answer["not_remembered_before"]:
        click.echo(
            f"{coloured('warning')}: so many different connections were made that those before "
            f"{answer['not_remembered_before']} are not remembered, and were not asked about"
        )


@policy.command()
@_files
@click.option("--force", is_flag=True, help="Also if this cuts off somebody who came in plaintext lately.")
@pass_session
def apply(session: Session, files: tuple[Path, ...], force: bool) -> None:
    """Put FILES into paths.policies and in force, all or none; open connections are asked again.

    \b
    Refused while it would cut off somebody who came in plaintext within the last hour:
    they are named, and can be enrolled, excepted (LegacyException), or cut off (--force).

    \b
    Examples:
      sudo interceptor policy apply strict.yaml
      sudo interceptor policy apply strict.yaml --force
    """
    require_root("interceptor policy apply")
    _parsed(session, files)
    answer = session.ask("policy_apply", files=_absolute(files), force=force, by=_whoami())
    for warning in answer["warnings"]:
        click.echo(f"{coloured('warning')}: {warning}")
    for peer in answer["cut_off"]:
        click.echo(f"cut off: {peer}")
    click.echo(
        f"{answer['documents']} documents are in force, {answer['connections_closed']} connections were closed"
    )


def _parsed(session: Session, files: tuple[Path, ...]) -> tuple[Document, ...]:
    """The documents of the files; what is wrong is told of each file under the name by which it was given."""
    texts = [(str(path), read_policy_file(path)) for path in files]
    try:
        return parse_policies(texts, mesh_of(session.config))
    except PolicyError as error:
        for problem in error.problems[1:]:
            click.echo(f"interceptor: {problem}", err=True)
        raise PolicyError(error.problems[0]) from None


def _absolute(files: tuple[Path, ...]) -> list[str]:
    return [str(path.absolute()) for path in files]


def _whoami() -> str:
    """Who asks, for the audit trail: what the environment says beside the user id is a hint only."""
    sudo = os.environ.get("SUDO_USER")
    return f"uid {os.getuid()}" + (f" (sudo by {sudo})" if sudo else "")


def _shown(word: object) -> str:
    return {"mutual_tls": "mutual TLS", "none": "plaintext"}.get(str(word), str(word))
