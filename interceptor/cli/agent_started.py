"""kubernetes agent-started: whether the agent of this very container has the node."""

from __future__ import annotations

import os
from pathlib import Path

import click

from interceptor.cli.context import Session, pass_session
from interceptor.errors import AgentError

_OURS = Path("/proc/self/ns/mnt")


@click.command("agent-started")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file."
)
@pass_session
def agent_started(session: Session, config_path: Path | None) -> None:
    """Say whether the agent of this container has the node; exit status 1 if it does not, or not yet.

    \b
    The DaemonSet's startup probe asks it, inside the container. While the agent of an
    earlier pod has the node, that one answers on the metrics port for both. Whether the
    agent is ready is asked there, afterwards.

    \b
    Examples:
      interceptor kubernetes agent-started --config /etc/interceptor/config.yaml
    """
    session = session if config_path is None else Session(config_path)
    status = session.ask("status")
    if not _is_in_this_container(status["pid"]):
        raise AgentError(
            f"agent {status['pid']} has this node, of another pod: this one is to take over from it"
        )
    click.echo(f"agent {status['pid']} of this container has this node")


def _is_in_this_container(pid: int) -> bool:
    """Whether a process has our mounts: containers have each their own."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino == _OURS.stat().st_ino
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise AgentError(
            f"what container agent {pid} is in cannot be seen ({why}): the pod needs hostPID"
        ) from error
