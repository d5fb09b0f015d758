"""up, down, agent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.main import run_agent
from interceptor.agent.state import private_directory
from interceptor.agent.teardown import tear_down
from interceptor.cli.context import pass_session, read_config
from interceptor.errors import AgentError, KernelError

if TYPE_CHECKING:
    from interceptor.cli.context import Session

START_SECONDS = 60.0
DOWN_SECONDS = 120.0


def require_root(what: str) -> None:
    """Refuse early, before anything is half done."""
    if os.geteuid() != 0:
        raise KernelError(f"{what} needs root: use sudo")


@click.command()
@pass_session
def up(session: Session) -> None:
    """Start the agent in the background and wait until it is ready.

    \b
    It keeps its own certificate authority in /var/lib/interceptor. Workloads that an
    earlier agent had enrolled, and that still run, are taken over.

    \b
    Examples:
      sudo interceptor up
      sudo interceptor --config my.yaml up
    """
    require_root("interceptor up")
    config = session.config
    try:
        status = session.ask("status")
    except AgentError:
        pass
    else:
        click.echo(f"already up: pid {status['pid']}, {status['workloads']} workloads, mode {status['mode']}")
        return
    private_directory(config.paths.state_dir)
    log_path = config.paths.state_dir / "agent.log"
    started = time.monotonic()
    process = _start_agent(session, log_path)
    session.progress(f"starting the agent (pid {process.pid}, log {log_path})")
    status = _wait_until_ready(session, process, log_path)
    click.echo(
        f"ready after {time.monotonic() - started:.1f} s: node {status['node']}, trust domain {status['trust_domain']}, "
        f"mode {status['mode']}, {status['workloads']} workloads"
    )


@click.command()
@click.option(
    "--keep-state", is_flag=True, help="Keep the certificate authority, the connection records and the log."
)
@pass_session
def down(session: Session, keep_state: bool) -> None:
    """Withdraw every workload, stop the agent, and leave nothing behind.

    \b
    Commands that were started with 'interceptor run' are ended. It works without a
    running agent too, and may be repeated.

    \b
    Examples:
      sudo interceptor down
      sudo interceptor down --keep-state
    """
    require_root("interceptor down")
    try:
        answer = session.ask("down", seconds=DOWN_SECONDS)
    except AgentError as error:
        session.progress(f"no agent answers ({error}); removing what one left")
    else:
        for name in answer["withdrawn"]:
            session.progress(f"withdrew {name}")
    tear_down(session.config, keep_state=keep_state, progress=session.progress)
    click.echo("down: nothing is captured any more")


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file."
)
@pass_session
def agent(session: Session, config_path: Path | None) -> None:
    """Run the agent in the foreground, as systemd or a DaemonSet does.

    \b
    It ends on SIGTERM or SIGINT; enrolled workloads stay captured then, and their
    connections are refused until an agent is back ('interceptor down' ends that).

    \b
    Examples:
      sudo interceptor agent --config /etc/interceptor/config.yaml
    """
    config = session.config if config_path is None else read_config(config_path)
    run_agent(config, session.progress)


def _start_agent(session: Session, log_path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "interceptor"]
    if session.config_path is not None:
        command += ["--config", str(session.config_path.absolute())]
    with open(log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "agent"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


def _wait_until_ready(
    session: Session, process: subprocess.Popen[bytes], log_path: Path
) -> dict[str, object]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AgentError(
                _last_error(log_path) or f"the agent ended with status {process.returncode}: see {log_path}"
            )
        try:
            status: dict[str, object] = session.ask("status")
        except AgentError:
            status = {}
        if status.get("ready"):
            return status
        time.sleep(0.05)
    raise AgentError(f"the agent is not ready after {START_SECONDS:g} s: see {log_path}")


def _last_error(log_path: Path) -> str | None:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    prefix = "interceptor: "
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), None)
