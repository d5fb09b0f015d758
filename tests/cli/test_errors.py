"""No command ever shows a traceback: wrong usage is exit status 2, whatever else does not work is 1 and one line."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from interceptor.cli.main import group, run_command
from tests.harness.process import CLI, Result, run

if TYPE_CHECKING:
    from collections.abc import Iterator

READING = ("workloads", "connections", "certificates", "status", "explain a b:1")
CHANGING = (
    "up",
    "down",
    "agent",
    "demo",
    "run --service-account web true",
    "enrol --service-account web --netns web",
    "withdraw web",
)
NOBODY = 65534
# Presses Ctrl-C when the first module of another package is about to be imported.
INTERRUPTED_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

before = signal.getsignal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
import interceptor.cli
assert signal.getsignal(signal.SIGINT) is before
"""


@pytest.fixture
def config() -> Iterator[Path]:
    """A configuration that everybody may read, of an agent that does not run."""
    directory = Path(tempfile.mkdtemp(prefix="itest-cli-", dir="/tmp"))
    directory.chmod(0o755)
    path = directory / "config.yaml"
    paths = {"state": str(directory / "state"), "run": str(directory / "run"), "bpf": "/sys/fs/bpf/itest-cli"}
    path.write_text(yaml.safe_dump({"paths": paths}))
    yield path
    shutil.rmtree(directory)


def cli(*arguments: str) -> Result:
    """Run the command line in this process: what it does not catch fails the test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["interceptor", *arguments])
        try:
            status = run_command()
        except SystemExit as end:
            status = int(end.code or 0)
    return Result(arguments, status, stdout.getvalue().encode(), stderr.getvalue().encode(), 0)


def as_nobody(*arguments: str) -> Result:
    """Run the command line as a user without rights; what it imports later must be readable for root alone."""
    code = (
        "import os, sys\n"
        "import interceptor.cli, interceptor.agent.main, interceptor.agent.teardown, interceptor.kernel.preflight\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"sys.argv = ['interceptor', *{list(arguments)!r}]\n"
        "interceptor.cli.main()\n"
    )
    return run([sys.executable, "-c", code], cwd=Path("/"))


def assert_one_line(result: Result, status: int) -> str:
    """One line for a person, on standard error, and nothing else."""
    assert result.status == status, result
    assert result.stdout == ""
    assert result.stderr.startswith("interceptor: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "--nonsense status",
        "up --nonsense",
        "run --service-account web --nonsense true",
        "run --service-account web",
        "run true",
        "enrol --service-account web --pid 0",
        "connections --limit 0",
        "connections --limit many",
        "workloads -o xml",
        "explain web",
        "withdraw",
    ],
)
def test_wrong_usage_is_exit_status_2_and_shows_how_it_goes(arguments: str) -> None:
    result = cli(*arguments.split())
    assert result.status == 2
    assert result.stderr.startswith("Usage: interceptor")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--service-account", "Web", "true"), "service account 'Web' is not a valid name"),
        (
            ("run", "--service-account", "w", "--namespace", "a.b", "true"),
            "namespace 'a.b' is not a valid name",
        ),
        (("run", "--service-account", "w", "--name", "-x", "true"), "workload name '-x' is not a valid name"),
        (("enrol", "--service-account", "", "--pid", "1"), "service account is empty"),
        (("enrol", "--service-account", "w\nx", "--pid", "1"), r"service account 'w\nx' is not a valid name"),
        (("enrol", "--service-account", "w"), "give either --netns or --pid"),
        (("enrol", "--service-account", "w", "--pid", "1", "--netns", "x"), "give either --netns or --pid"),
        (("explain", "web", "web"), "'web' is not a destination"),
        (("explain", "web", ":80"), "':80' is not a destination"),
        (("explain", "web", "web:0"), "'web:0' is not a destination"),
        (("explain", "web", "web:65536"), "'web:65536' is not a destination"),
        (("explain", "web", "web:" + "9" * 5000), "is not a destination"),
        (("explain", "web", "fd00::1:80"), "put an IPv6 address in brackets"),
        (("connections", "--open", "--denied"), "--open and --denied exclude each other"),
    ],
)
def test_value_that_cannot_be_right_is_one_line_and_exit_status_2(
    config: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in assert_one_line(cli("--config", str(config), *arguments), 2)


@pytest.mark.parametrize("command", READING)
def test_reading_without_an_agent_says_how_to_start_one(config: Path, command: str) -> None:
    message = assert_one_line(cli("--config", str(config), *command.split()), 1)
    assert "no agent is running" in message
    assert "interceptor up" in message


def test_agent_that_died_is_told_from_one_that_never_was(config: Path) -> None:
    run_dir = config.parent / "run"
    run_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / "admin.sock"))
    assert "the agent has died" in assert_one_line(cli("--config", str(config), "status"), 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
@pytest.mark.parametrize("command", CHANGING)
def test_changing_something_without_root_is_refused_first(config: Path, command: str) -> None:
    message = assert_one_line(as_nobody("--config", str(config), *command.split()), 1)
    assert "root" in message
    assert "use sudo" in message
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
@pytest.mark.parametrize("command", READING)
def test_reading_without_root_says_that_the_socket_is_roots(config: Path, command: str) -> None:
    run_dir = config.parent / "run"
    run_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "admin.sock"))
        listener.listen()
        message = assert_one_line(as_nobody("--config", str(config), *command.split()), 1)
    assert "may be opened by root only: use sudo" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: give an existing file with --config"),
        (b"mesh: {cidr: []}", "unknown key 'mesh.cidr', did you mean 'mesh.cidrs'?"),
        (b"mesh: {cidrs: [10.0.0.0/33]}", "mesh.cidrs"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"a: [", ":1: "),
    ],
)
@pytest.mark.parametrize("command", ["up", "status", "doctor"])
def test_configuration_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str, command: str
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("INTERCEPTOR_CONFIG", str(path))
    assert message in assert_one_line(cli(command), 1)


def test_output_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run([CLI, "--help"], stdout=output, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run([CLI, "--help"], stdout=output, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0].startswith("interceptor: the system refused: No space left")


def test_fault_of_ours_is_one_line_unless_somebody_debugs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr(group, "make_context", fail)
    monkeypatch.delenv("INTERCEPTOR_DEBUG", raising=False)
    assert run_command() == 1
    assert capsys.readouterr().err == (
        r"interceptor: internal error (KeyError: 'two\nlines'): set INTERCEPTOR_DEBUG=1 to see where" + "\n"
    )
    monkeypatch.setenv("INTERCEPTOR_DEBUG", "1")
    assert run_command() == 1
    assert "Traceback" in capsys.readouterr().err


def test_group_without_a_command_shows_its_help() -> None:
    result = CliRunner().invoke(group, [])
    assert "Start with:" in result.output


def test_interrupt_before_the_commands_are_loaded_shows_no_traceback() -> None:
    result = run([sys.executable, "-c", INTERRUPTED_IMPORT])
    assert (result.status, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_interrupts_that_are_ignored_stay_ignored() -> None:
    result = run(
        [sys.executable, "-c", "import signal; signal.signal(2, signal.SIG_IGN)" + INTERRUPTED_IMPORT]
    )
    assert (result.status, result.stderr) == (0, "")
