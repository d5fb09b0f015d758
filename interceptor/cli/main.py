"""The command group, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from interceptor import __version__
from interceptor.cli.alert_rules import alert_rules
from interceptor.cli.ca import ca
from interceptor.cli.connections import connections
from interceptor.cli.context import Session
from interceptor.cli.demo import demo
from interceptor.cli.doctor import doctor
from interceptor.cli.explain import explain
from interceptor.cli.grafana_dashboard import grafana_dashboard
from interceptor.cli.kubernetes import kubernetes
from interceptor.cli.lifecycle import agent, down, up
from interceptor.cli.nouns import certificates, workloads
from interceptor.cli.policy import policies, policy
from interceptor.cli.status import status
from interceptor.cli.workload import enrol, run, withdraw
from interceptor.errors import InterceptorError

DEBUG_VARIABLE = "INTERCEPTOR_DEBUG"
_INTERRUPTED = 130  # as shells have it: 128 + SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="interceptor")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="INTERCEPTOR_CONFIG",
    help="Configuration file; also $INTERCEPTOR_CONFIG.  [default: /etc/interceptor/config.yaml if it is there]",
)
@click.pass_context
def group(context: click.Context, config_path: Path | None) -> None:
    """Transparent mutual TLS for the workloads of this Linux machine.

    \b
    Start with:
      interceptor doctor                          can this machine run it?
      interceptor demo                            the two-minute tour
      interceptor up                              start the agent
      interceptor run --service-account web -- nginx -g 'daemon off;'

    \b
    Exit status: 0 it worked; 1 it did not, one line says why and what to do; 2 wrong usage.
    """
    context.obj = Session(config_path)


for command in (
    doctor,
    demo,
    up,
    down,
    agent,
    run,
    enrol,
    withdraw,
    workloads,
    connections,
    certificates,
    status,
    explain,
    policies,
    policy,
    alert_rules,
    grafana_dashboard,
    ca,
    kubernetes,
):
    group.add_command(command)


def main() -> None:
    """Run a command; an expected error is one line, never a traceback."""
    sys.exit(run_command())


def run_command() -> int:
    """Run the command of `sys.argv`; its exit status."""
    try:
        return _invoke()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except InterceptorError as error:
        return _fail(str(error), error.exit_status)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        _discard_output()
        return 0
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        if isinstance(error, OSError):
            _discard_output()
        return _fail(_unexpected(error), 1)


def _invoke() -> int:
    # Not by `group.main`, which ends the process by itself when nobody reads its output.
    status = 0
    try:
        with group.make_context("interceptor", sys.argv[1:]) as context:
            group.invoke(context)
    except click.exceptions.Exit as end:
        status = end.exit_code
    sys.stdout.flush()  # now, while a failure can still be told
    return status


def _discard_output() -> None:
    # What is buffered still would otherwise fail once more, when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"the system refused: {where}{error.strerror}; set {DEBUG_VARIABLE}=1 to see where"
    text = " ".join(str(error).split())
    return f"internal error ({type(error).__name__}: {text}): set {DEBUG_VARIABLE}=1 to see where"


def _fail(message: str, status: int) -> int:
    click.echo(f"interceptor: {message}", err=True)
    return status
