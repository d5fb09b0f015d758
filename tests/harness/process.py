"""Programs that tests start: run to the end, or kept until the end of the test; none outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from interceptor.agent.reference import process_start
from tests.harness.patience import patient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CLI = Path(sys.executable).with_name("interceptor")  # as installed into the virtual environment
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a program that ended left: exit status (negative: the signal that killed it), output, time taken."""

    command: tuple[str, ...]
    status: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    seconds: float

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")

    def check(self) -> Self:
        """Itself, if the status is 0; an AssertionError with everything that was printed otherwise."""
        if self.status != 0:
            raise AssertionError(
                f"{' '.join(self.command)}: status {self.status}\n{self.stdout[-4000:]}\n{self.stderr[-4000:]}"
            )
        return self


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 60,
    input_bytes: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run a program to its end; AssertionError after `timeout` seconds.  `env` is added to our environment."""
    words = tuple(map(str, command))
    started = time.monotonic()
    try:
        done = subprocess.run(
            words,
            input=input_bytes,
            capture_output=True,
            timeout=patient(timeout),
            check=False,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(
            f"{' '.join(words)}: not done after {timeout:g} s\n{error.stdout}\n{error.stderr}"
        ) from error
    return Result(words, done.returncode, done.stdout, done.stderr, time.monotonic() - started)


class Program:
    """A program that runs beside the test, in a session of its own; its output goes to two files."""

    def __init__(
        self,
        command: Sequence[str | Path],
        output: Path,
        journal: Journal,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it; `output` is the stem of the two files."""
        self.command = tuple(map(str, command))
        self.stdout_path = output.with_name(output.name + ".out")
        self.stderr_path = output.with_name(output.name + ".err")
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        journal.add(self.process.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What it has written to standard output until now."""
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to standard error until now."""
        return self.stderr_path.read_text(errors="replace")

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        try:
            return self.process.wait(patient(timeout))
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self!r} still runs after {timeout:g} s\n{self.output_tail()}") from error

    def wait_for_output(self, text: str, timeout: float = 20) -> None:
        """Until `text` appears in its standard output or error."""
        self.wait_until(lambda: text in self.stdout or text in self.stderr, f"prints {text!r}", timeout)

    def wait_until(self, condition: Callable[[], object], what: str, timeout: float = 20) -> None:
        """Until `condition` holds; an AssertionError with its output if it ends before that, or takes too long."""

        def checked() -> object:
            holds = condition()
            if not holds and self.process.poll() is not None:
                raise AssertionError(f"{self!r} ended before it {what}\n{self.output_tail()}")
            return holds

        try:
            wait_until(checked, f"{self!r} {what}", timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.output_tail()}") from error

    def signal(self, number: int) -> None:
        """Send a signal to it and to whatever it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> int:
        """Ask it to end, make it after a while; returns its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        return self.process.wait(_STOP_SECONDS)

    def output_tail(self) -> str:
        """The end of what it printed, for a failure's message."""
        return f"stdout: {self.stdout[-3000:]}\nstderr: {self.stderr[-3000:]}"

    def __repr__(self) -> str:
        return f"<{' '.join(self.command)[-120:]} pid={self.pid}>"


class Journal:
    """A file of started processes (pid and start time), so that a later run can end what a killed one left."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pid: int) -> None:
        start = process_start(pid)
        if start is not None:
            with self._path.open("a") as file:
                file.write(f"{pid} {start}\n")

    def kill_survivors(self) -> int:
        """End every process in it that is still the same one; returns how many there were."""
        if not self._path.exists():
            return 0
        killed = 0
        for line in self._path.read_text().splitlines():
            pid, start = map(int, line.split())
            if process_start(pid) == start:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed


def wait_until(
    condition: Callable[[], object], what: str, timeout: float = 20, *, poll: float = 0.01
) -> None:
    """Until `condition` holds; TimeoutError says `what` was waited for."""
    deadline = time.monotonic() + patient(timeout)
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(poll)


def read_line(fd: int, timeout: float) -> str:
    """One line from a pipe; what came until end of file or `timeout` if there is none."""
    deadline = time.monotonic() + patient(timeout)
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(fd, 1) if ready else b""
        if not data:
            break
        line += data
    return line.decode(errors="replace")


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie."""
    return process_start(pid) is not None


def has_let_go(pid: int) -> bool:
    """Whether a process has ended with all its threads.

    The first one may be gone while others still are on their way out, and the last of them closes the files: until
    then, its listeners take connections in.
    """
    try:
        threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return True
    return not any(is_alive(thread) for thread in threads)
