"""Where the demo plays: an agent of its own, with files, addresses and ports of its own, and programs under it.

Whatever happens, `close` takes all of it away again.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import yaml

from interceptor.cli.context import Session
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = "/usr/bin/python3"  # the distribution's, not one of a virtual environment: a program like any other
WAIT_SECONDS = 60.0  # an emulated processor that others use too needs thirty to start a program
_END_SECONDS = 5.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.02


class DemoFailed(InterceptorError):  # noqa: N818 - an outcome: what was claimed does not hold here
    """A claim of the demo does not hold, or a step of it failed."""


class Stage:
    """One performance, as a context manager."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="interceptor-demo-"))
        self._undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
        number = os.getpid()
        self.bridge = f"idemo{number}"
        self.bpf_dir = Path(f"/sys/fs/bpf/interceptor-demo-{number}")
        config = self.directory / "config.yaml"
        config.write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        self.session = Session(config)
        self._is_up = False
        self._running: subprocess.Popen[str] | None = None

    def _settings(self) -> dict[str, object]:
        return {
            "node": "demo",
            "mesh": {"cidrs": ["10.214.0.0/16", "fd14:8::/64"]},
            "bridge": {"name": self.bridge, "ipv4": "10.214.0.1/16", "ipv6": "fd14:8::1/64"},
            "paths": {
                "state": str(self.directory / "state"),
                "run": str(self.directory / "run"),
                "bpf": str(self.bpf_dir),
            },
            "metrics": {"address": f"127.0.0.1:{_free_port()}"},
        }

    def __enter__(self) -> Self:
        # The end of a terminal or of a service is an interruption like any other: clean up.
        for number in _ENDING:
            self._undo.callback(signal.signal, number, signal.signal(number, _interrupt))
        return self

    def __exit__(self, *_: object) -> None:
        # Now nothing may keep us from it; it takes a second or two.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        with self._undo:
            if self._running is not None:
                self._running.communicate()  # an agent that is still starting could not be taken down
            if self._is_up:
                self.interceptor("down", "--remove-audit", tell=_silent)

    def interceptor(self, command: str, *options: str, tell: Callable[[str], None]) -> None:
        """Run `interceptor COMMAND` to its end; each line of it is told.  DemoFailed with its last one if it fails."""
        self._is_up = True  # even half a start is something to take down
        last = ""
        self._running = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            self._command(command, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who then end it in order
        )
        assert self._running.stdout is not None
        for line in self._running.stdout:
            last = line.rstrip()
            tell(last)
        status = self._running.wait()
        self._running = None
        if status != 0:
            raise DemoFailed(f"'interceptor {command}' failed: {last.removeprefix('interceptor: ')}")
        self._is_up = command != "down"

    def start_workload(self, service_account: str, *command: str) -> Program:
        """Start a program with `interceptor run`."""
        program = Program(
            [*self._command("run"), "--service-account", service_account, "--", *command], self.directory
        )
        self._undo.callback(program.end)
        return program

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "interceptor", "--config", str(self.session.config_path), *arguments]


class Program:
    """A program in the background, fed and read through pipes."""

    def __init__(self, command: list[str], directory: Path) -> None:
        served = directory / "www"
        served.mkdir(exist_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=served,
            env=plain_environment(directory),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._received = ""

    def read_until(self, text: str) -> str:
        """What it printed up to `text`, which is not returned; DemoFailed when it ends or is silent before."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text not in self._received:
            data = os.read(self._output.fileno(), 65536) if self._is_readable() else None
            if data == b"" or time.monotonic() > deadline:
                said = self._received.strip().splitlines()
                raise DemoFailed(
                    f"a program of the demo did not get on: {said[-1] if said else 'it said nothing'}"
                )
            self._received += (data or b"").decode(errors="replace")
        before, _, self._received = self._received.partition(text)
        return before

    def read_available(self) -> str:
        """What it has printed since."""
        while self._is_readable() and (data := os.read(self._output.fileno(), 65536)):
            self._received += data.decode(errors="replace")
        before, self._received = self._received, ""
        return before

    def type(self, command: str) -> tuple[int, list[str]]:
        """For a shell: run a command line; its exit status and its lines."""
        self._input.write(f"{command}; echo end-of-command $?.\n".encode())
        self._input.flush()
        lines = self.read_until("end-of-command ").splitlines()
        return int(self.read_until(".\n")), lines

    def end(self) -> None:
        """Make sure that it has ended."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        with suppress(BrokenPipeError):
            self._input.close()

    def _is_readable(self) -> bool:
        return bool(select.select([self._output], [], [], _POLL_SECONDS)[0])


def plain_environment(home: Path) -> dict[str, str]:
    """The environment, without what would send curl elsewhere: proxies and its configuration file."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "HOME": str(home), "CURL_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def run_outside(command: str, home: Path) -> tuple[int, list[str]]:
    """Run a command line on the host, outside the mesh; its exit status and its lines."""
    finished = subprocess.run(  # noqa: S603 - a command of the demo's own
        shlex.split(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=WAIT_SECONDS,
        env=plain_environment(home),
        check=False,
    )
    return finished.returncode, finished.stdout.splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _silent(_line: str) -> None:
    """For what need not be seen."""
