"""run, enrol, withdraw."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.cli.child import run_in_namespace
from interceptor.cli.context import pass_session, require_root
from interceptor.errors import AgentError, InvalidInput, UsageError
from interceptor.identity.spiffe_id import SERVICE_ACCOUNT, validate_name
from interceptor.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from interceptor.cli.context import Session

    Callback = Callable[[click.Context, click.Parameter, str | None], str | None]
    Command = Callable[..., Any]


def _valid(kind: str) -> Callback:
    """An option's callback: a name that cannot be right is wrong usage, found before anything is asked or done."""

    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        try:
            return None if value is None else validate_name(kind, value)
        except InvalidInput as error:
            raise UsageError(str(error)) from error

    return check


def _valid_labels(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    try:
        return dict(Labels.parse(texts))
    except InvalidInput as error:
        raise UsageError(str(error)) from error


def identity_options(command: Command) -> Command:
    """The options that say who a workload is."""
    for option in (
        click.option(
            "--label",
            "labels",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_valid_labels,
            help="A label by which policies select the workload; may be repeated.",
        ),
        click.option(
            "--name",
            callback=_valid("workload name"),
            help="Name of the workload.  [default: the service account's, numbered if it is taken]",
        ),
        click.option(
            "--namespace",
            default="default",
            show_default=True,
            callback=_valid("namespace"),
            help="Namespace of the workload.",
        ),
        click.option(
            "--service-account",
            required=True,
            callback=_valid(SERVICE_ACCOUNT),
            help="Service account: the last part of the workload's identity.",
        ),
    ):
        command = option(command)
    return command


@click.command(context_settings={"allow_interspersed_args": False})
@identity_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_session
def run(
    session: Session,
    service_account: str,
    namespace: str,
    name: str | None,
    labels: dict[str, str],
    command: tuple[str, ...],
) -> None:
    """Run a command as a workload: in a network namespace of its own, enrolled before its first instruction.

    \b
    It gets an IPv4 and an IPv6 address on the node's bridge, and sees the other
    workloads by name. It is withdrawn when the command ends; signals are passed on,
    and the exit status is the command's own.

    \b
    Examples:
      sudo interceptor run --service-account web -- nginx -g 'daemon off;'
      sudo interceptor run --service-account client -- curl http://web/
      sudo interceptor run --service-account db --label app=db -- runuser -u postgres -- postgres -D /srv/db
    """
    require_root("interceptor run")
    made = session.ask(
        "run",
        pid=os.getpid(),
        service_account=service_account,
        namespace=namespace,
        name=name,
        labels=labels,
    )
    key = f"{made['namespace']}/{made['name']}"
    try:
        status = run_in_namespace(command, Path(made["netns_path"]), Path(made["hosts_path"]))
    finally:
        _withdraw_at_the_end(session, key)
    sys.exit(status)


def _withdraw_at_the_end(session: Session, key: str) -> None:
    try:
        session.ask("withdraw", name=key, drain=True)
    except AgentError as error:
        if "is not enrolled" not in str(error) and "no workload is called" not in str(error):
            click.echo(f"interceptor: {key} was not withdrawn: {error}", err=True)


@click.command()
@click.option("--netns", help="Name (as 'ip netns' shows it) or path of a network namespace.")
@click.option(
    "--pid",
    type=click.IntRange(min=1),
    help="A process whose network namespace is meant, of a container for one.",
)
@identity_options
@pass_session
def enrol(
    session: Session,
    netns: str | None,
    pid: int | None,
    service_account: str,
    namespace: str,
    name: str | None,
    labels: dict[str, str],
) -> None:
    """Take an existing network namespace or container into the mesh, without restarting it.

    \b
    Connections that it has to other workloads already were made without mutual TLS:
    in STRICT mode they are reset.

    \b
    Examples:
      sudo interceptor enrol --netns blue --service-account web
      sudo interceptor enrol --pid 4711 --service-account db --namespace shop --name db-1
    """
    if (netns is None) == (pid is None):
        raise UsageError("give either --netns or --pid: what is to be enrolled")
    require_root("interceptor enrol")
    if netns is not None and "/" in netns:
        netns = str(Path(netns).absolute())
    made = session.ask(
        "enrol",
        netns=netns,
        pid=pid,
        service_account=service_account,
        namespace=namespace,
        name=name,
        labels=labels,
    )
    click.echo(
        f"enrolled {made['namespace']}/{made['name']} as {made['identity']} ({', '.join(made['addresses'])})"
    )


@click.command()
@click.argument("name")
@pass_session
def withdraw(session: Session, name: str) -> None:
    """Take a workload out of the mesh; its network namespace is left as it was before.

    \b
    NAME is a workload's name, or NAMESPACE/NAME. Its open connections are reset.

    \b
    Examples:
      sudo interceptor withdraw web
      sudo interceptor withdraw shop/db-1
    """
    require_root("interceptor withdraw")
    answer = session.ask("withdraw", name=name)
    click.echo(f"withdrew {answer['withdrawn']}")
