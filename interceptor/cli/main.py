"""The command group, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from interceptor import __version__
from interceptor.cli.context import Session
from interceptor.cli.lifecycle import agent, down, up
from interceptor.cli.workload import enrol, run, withdraw
from interceptor.errors import InterceptorError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="interceptor")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="INTERCEPTOR_CONFIG",
    help="Configuration file.  [default: /etc/interceptor/config.yaml if it is there]",
)
@click.pass_context
def group(context: click.Context, config_path: Path | None) -> None:
    """Transparent mutual TLS for the workloads of this Linux machine.

    \b
    Start with:
      interceptor doctor                          can this machine run it?
      interceptor up                              start the agent
      interceptor run --service-account web -- nginx -g 'daemon off;'
      interceptor demo                            the two-minute tour
    """
    context.obj = Session(config_path)


for command in (up, down, agent, run, enrol, withdraw):
    group.add_command(command)


def main() -> None:
    """Run a command; an expected error is one line, never a traceback."""
    try:
        status = group.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort:
        status = 130
    except InterceptorError as error:
        click.echo(f"interceptor: {error}", err=True)
        status = error.exit_status
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)
