"""up, down, agent.

The agent's modules are imported inside the commands: they take longer to load than a reading command takes in all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from interceptor.cli.context import Session, pass_session, require_root
from interceptor.errors import AgentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

MAX_TOKEN_CHARACTERS = 20 * 1024  # those of pods are long
START_SECONDS = 300.0  # compiling alone takes a minute on an emulated processor that others use too
TELL_SECONDS = 5.0  # who waits for longer is told what for
DOWN_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d |Traceback|\s"
)  # of the log proper; the others are for whoever waits
_ERROR = "interceptor: "


def _token_options(command: F) -> F:
    command = click.option(
        "--join-token-file",
        type=click.File("r"),
        metavar="FILE",
        help="File with a token of 'interceptor ca token create'; - is standard input.",
    )(command)
    return click.option(
        "--join-token", metavar="TOKEN", help="The token itself; who may list processes can see it."
    )(command)


@click.command()
@_token_options
@click.option(
    "--take-over", is_flag=True, help="Start another agent, and let the one that runs hand over to it."
)
@pass_session
def up(session: Session, join_token: str | None, join_token_file: TextIO | None, take_over: bool) -> None:
    """Start the agent in the background and wait until it is ready.

    \b
    It keeps its own certificate authority in /var/lib/interceptor, unless the
    configuration names another (authority.address): the first start then needs a token,
    and so does the first one after a boot. Workloads that an earlier agent had enrolled,
    and that still run, are taken over. When an agent is running already, nothing is done,
    unless --take-over is given: then a new one, of another version or configuration
    perhaps, is handed the node by it without a connection being lost. The old one ends
    when what was open there has ended, or after limits.drainTime.

    \b
    Examples:
      sudo interceptor up
      sudo interceptor up --take-over
      sudo interceptor --config my.yaml up
      sudo interceptor up --join-token-file token.txt
    """
    require_root("interceptor up")
    token = _token(session, join_token, join_token_file)
    try:
        status = session.ask("status")
    except AgentError:
        pass
    else:
        if take_over:
            _replace(session, status, token)
            return
        if token is not None:
            raise AgentError(
                f"the agent runs already (pid {status['pid']}) and will not look at the token: end it with 'kill "
                f"{status['pid']}', its workloads stay captured meanwhile, and start it again with the token"
            )
        click.echo(f"already up: pid {status['pid']}, {_summary(status)}")
        return
    started = time.monotonic()
    status = _start(session, token)
    click.echo(f"ready after {time.monotonic() - started:.1f} s: {_summary(status)}")
    for problem in status["problems"]:
        session.progress(f"warning: {problem}")


def _replace(session: Session, before: dict[str, Any], token: str | None) -> None:
    started = time.monotonic()
    status = _start(session, token, before=before["pid"])
    click.echo(
        f"ready after {time.monotonic() - started:.1f} s: pid {status['pid']} took over from pid {before['pid']}, "
        f"{_summary(status)}"
    )
    for problem in status["problems"]:
        session.progress(f"warning: {problem}")


@click.command()
@click.option(
    "--keep-state", is_flag=True, help="Keep the certificate authority, the connection records and the log."
)
@click.option("--remove-audit", is_flag=True, help="Remove the audit trail too (paths.audit).")
@pass_session
def down(session: Session, keep_state: bool, remove_audit: bool) -> None:
    """Withdraw every workload, stop the agent, and leave nothing behind but the audit trail.

    \b
    Commands that were started with 'interceptor run' are ended. It works without a
    running agent too, and may be repeated. The audit trail (audit.jsonl and the
    rotated audit.jsonl.1 to .8 in the state directory) stays where it is, unless
    --remove-audit is given.

    \b
    Examples:
      sudo interceptor down
      sudo interceptor down --keep-state
      sudo interceptor down --remove-audit
    """
    from interceptor.agent.teardown import tear_down, wait_for_end

    require_root("interceptor down")
    if keep_state and remove_audit:
        raise UsageError("--keep-state keeps the audit trail too, give one of it and --remove-audit")
    try:
        answer = session.ask("down", seconds=DOWN_SECONDS)
    except AgentError as error:
        session.progress(f"no agent answers ({error}); removing what one left")
    else:
        for name in answer["withdrawn"]:
            session.progress(f"withdrew {name}")
        wait_for_end(answer["pid"])
    tear_down(session.config, keep_state=keep_state, remove_audit=remove_audit, progress=session.progress)
    click.echo("down: nothing is captured any more")


@click.command()
@_token_options
@click.option(
    "--take-over",
    is_flag=True,
    help="Let an agent that serves this node hand over, instead of refusing to start.",
)
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file."
)
@pass_session
def agent(
    session: Session,
    join_token: str | None,
    join_token_file: TextIO | None,
    take_over: bool,
    config_path: Path | None,
) -> None:
    """Run the agent in the foreground, as systemd or a DaemonSet does.

    \b
    It ends on SIGTERM or SIGINT; enrolled workloads stay captured then, and their
    connections are refused until an agent is back ('interceptor down' ends that).
    In a cluster it withdraws everything when its DaemonSet or namespace is being
    removed. Its log goes to standard error. With --take-over an agent that runs already
    goes on until this one is ready, and then hands the node over.

    \b
    Examples:
      sudo interceptor agent --config /etc/interceptor/config.yaml
    """
    from interceptor.agent.main import run_agent
    from interceptor.agent.teardown import tear_down

    session = session if config_path is None else Session(config_path)
    token = _token(session, join_token, join_token_file)
    if run_agent(session.config, session.progress, token=token, take_over=take_over):
        tear_down(session.config, keep_state=False, remove_audit=True, progress=session.progress)


def _token(session: Session, text: str | None, file: TextIO | None) -> str | None:
    """The token to join with, if one is given; UsageError when it cannot be one, or there is nobody to join."""
    if text is not None and file is not None:
        raise UsageError("give a token either by --join-token or by --join-token-file")
    if file is not None:
        text = file.read(MAX_TOKEN_CHARACTERS + 1)
    if text is None:
        return None
    if session.config.authority_address is None:
        raise UsageError(
            "a token is for an authority elsewhere, and the configuration names none: set authority.address"
        )
    if not text.strip() or len(text) > MAX_TOKEN_CHARACTERS:
        raise UsageError("what is given is no token: copy all that 'interceptor ca token create' printed")
    return text.strip()


def _summary(status: dict[str, Any]) -> str:
    number = status["workloads"]
    return (
        f"node {status['node']}, trust domain {status['trust_domain']}, mode {status['mode']}, "
        f"{number} workload{'' if number == 1 else 's'}"
    )


def _start(session: Session, token: str | None, *, before: int | None = None) -> dict[str, Any]:
    """Start the agent and tell what it does, until it is ready; its status then.  It takes over from agent `before`."""
    from interceptor.agent.state import private_directory

    private_directory(session.config.paths.state_dir)
    log_path = session.config.paths.state_dir / "agent.log"
    with open(log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        position = log.tell()
        process = _spawn(session, log.fileno(), token, take_over=before is not None)
    session.progress(f"starting the agent (pid {process.pid}, log {log_path})")
    try:
        return _wait_until_ready(session, process, log_path, position, before)
    except KeyboardInterrupt:
        # Whoever interrupts the start does not want it; workloads of the last agent stay captured.
        process.terminate()
        process.wait()
        raise


def _wait_until_ready(
    session: Session,
    process: subprocess.Popen[bytes],
    log_path: Path,
    position: int,
    before: int | None = None,
) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    reported, status, waits_since, told = 0, None, time.monotonic(), ""
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        lines = _lines_for_people(log_path, position)
        for line in lines[reported:]:
            if not line.startswith(_ERROR):
                session.progress(f"  {line}")
        reported = len(lines)
        if has_ended:
            raise AgentError(_why_it_ended(lines, process.returncode, log_path))
        status = _status(session)
        if status is not None and before is not None and status["pid"] == before:
            status = None  # it has not handed over yet
        if status is not None and status["ready"]:
            return status
        if time.monotonic() - waits_since > TELL_SECONDS and (waiting := _what_it_waits_for(status)) not in (
            "",
            told,
        ):
            session.progress(f"  not ready yet{waiting}")
            waits_since, told = time.monotonic(), waiting
        time.sleep(_POLL_SECONDS)
    raise AgentError(
        f"the agent runs and is not ready after {START_SECONDS:g} s{_what_it_waits_for(status)}: see {log_path}"
    )


def _what_it_waits_for(status: dict[str, Any] | None) -> str:
    """What keeps an agent from being ready, as far as it says so: for the end of a message."""
    if status is None:
        return ""
    found = [*status["waiting_for"], status["authority"]["last_error"]]
    return "".join(f", {each}" for each in found if each)


def _spawn(session: Session, log_fd: int, token: str | None, *, take_over: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "interceptor"]
    if session.config_path is not None:
        command += ["--config", str(session.config_path.absolute())]
    command += ["agent"] if token is None else ["agent", "--join-token-file", "-"]
    command += ["--take-over"] if take_over else []
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        stdin=subprocess.DEVNULL if token is None else subprocess.PIPE,
        stdout=log_fd,
        stderr=log_fd,
        start_new_session=True,
        cwd="/",
    )
    if process.stdin is not None and token is not None:
        # By a pipe: a command line is for everybody to see. One that ended at once says why in its log.
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(token.encode())
    return process


def _status(session: Session) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = session.ask("status")
    except AgentError:
        return None
    return answer


def _lines_for_people(log_path: Path, position: int) -> list[str]:
    """The complete lines that this start has written to the log, without those of the log proper."""
    with log_path.open("rb") as file:
        file.seek(position)
        text = file.read().decode(errors="replace")
    complete = text[: text.rfind("\n") + 1]
    return [line for line in complete.splitlines() if line and not _LOG_LINE.match(line)]


def _why_it_ended(lines: list[str], status: int, log_path: Path) -> str:
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return errors[-1] if errors else f"the agent ended with status {status}: see {log_path}"
