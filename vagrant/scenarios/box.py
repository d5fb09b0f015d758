"""One node, as the scenarios use it: run commands in it as root, fetch files, cut its power."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.parent
LAB = HERE / "lab"
# How long something may take, at most, before it counts as never: a wait ends when what is waited for is there.
# Everything takes a multiple of its usual time on an emulated processor, and again beside other work.
COMMAND_SECONDS, BOOT_SECONDS = 600.0, 1800.0
INSTALL_SECONDS = 2700.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command did."""

    command: str
    status: int
    output: str

    def check(self) -> str:
        """The output of a command that must have worked."""
        assert self.status == 0, f"{self.command!r} ended with status {self.status}:\n{self.output}"
        return self.output


def in_lab(*command: str | Path, timeout: float = COMMAND_SECONDS, data: bytes | None = None) -> Answer:
    """Run a command beside the nodes, where their networks are."""
    result = subprocess.run(
        [LAB, "enter", *command],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    return Answer(shlex.join(map(str, command)), result.returncode, result.stdout.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Box:
    """A node that is up: its name in the Vagrantfile, its address on the private network, how ssh reaches it."""

    name: str
    address: str
    ssh_config: Path

    def run(self, script: str, *, timeout: float = COMMAND_SECONDS) -> Answer:
        """Run a shell script in it as root, in the project's directory."""
        wrapped = f"cd /home/vagrant/interceptor && {script}"
        command = shlex.join(["sudo", "--set-home", "bash", "-euo", "pipefail", "-c", wrapped])
        return in_lab("ssh", "-F", self.ssh_config, self.name, command, timeout=timeout)

    def check(self, script: str, *, timeout: float = COMMAND_SECONDS) -> str:
        """`run`, and it must work; its output."""
        return self.run(script, timeout=timeout).check()

    def write(self, path: str, content: str | bytes, *, mode: str = "0644") -> None:
        """Make a file, or replace it."""
        data = content.encode() if isinstance(content, str) else content
        command = f"sudo install -m {mode} /dev/stdin {path}"
        in_lab("ssh", "-F", self.ssh_config, self.name, command, data=data).check()

    def wait_for(self, script: str, *, timeout: float = BOOT_SECONDS) -> str:
        """Repeat a script until it works; its output then."""
        deadline = time.monotonic() + timeout
        while True:
            answer = self.run(script)
            if answer.status == 0 or time.monotonic() > deadline:
                return answer.check()
            time.sleep(_POLL_SECONDS)

    def boot_id(self) -> str:
        """Different after each boot."""
        return self.check("cat /proc/sys/kernel/random/boot_id").strip()

    def wait_for_boot_after(self, boot_id: str) -> None:
        """Wait until the next boot has come so far that commands can be run."""
        self.wait_for(f"test $(cat /proc/sys/kernel/random/boot_id) != {boot_id}")

    def reboot(self) -> None:
        """As an administrator does it."""
        before = self.boot_id()
        self.run("systemctl reboot")
        self.wait_for_boot_after(before)

    def cut_power(self) -> None:
        """As a thunderstorm does it; what was not synced to the disk is lost."""
        before = self.boot_id()
        for verb in ("destroy", "start"):
            in_lab("virsh", "--connect", "qemu:///system", verb, f"vagrant_{self.name}").check()
        self.wait_for_boot_after(before)

    def link(self, state: str) -> None:
        """Set the cable of the private network 'up' or 'down'."""
        domain = f"vagrant_{self.name}"
        table = in_lab("virsh", "--connect", "qemu:///system", "domiflist", domain).check()
        rows = [line.split() for line in table.splitlines()]
        [target] = [row[0] for row in rows if len(row) == 5 and row[2] == "vagrant0"]
        in_lab("virsh", "--connect", "qemu:///system", "domif-setlink", domain, target, state).check()


@dataclass(slots=True)
class Script:
    """A long script that runs in a box while the scenarios go on elsewhere: parts, each with a status of its own."""

    process: subprocess.Popen[str]
    parts: tuple[str, ...]
    log: Path

    @classmethod
    def start(cls, box: Box, parts: dict[str, str], log: Path) -> Script:
        """Start the parts one after the other, each of them also when the one before has failed."""
        script = "; ".join(
            f"s=0; ( {part} ) || s=$?; echo; echo '=== {name}' $s" for name, part in parts.items()
        )
        wrapped = f"cd /home/vagrant/interceptor && {script}"
        command = shlex.join(["sudo", "--set-home", "bash", "-c", wrapped])
        file = log.open("w")
        process = subprocess.Popen(
            [LAB, "enter", "ssh", "-F", box.ssh_config, box.name, command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
        file.close()
        return cls(process, tuple(parts), log)

    def wait(self, name: str, timeout: float = INSTALL_SECONDS) -> Answer:
        """The answer of one part, when it is there."""
        deadline = time.monotonic() + timeout
        while True:
            has_ended = self.process.poll() is not None
            found = re.search(rf"^=== {name} (\d+)$", self.log.read_text(errors="replace"), re.MULTILINE)
            if found or has_ended or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        text = self.log.read_text(errors="replace")
        assert found, f"{name!r} did not end within {timeout} s: {text[-2000:]}"
        before = text[: found.start()]
        last = max((before.rfind(f"=== {part} ") for part in self.parts), default=-1)
        return Answer(name, int(found[1]), before[max(last, 0) :])

    def stop(self) -> None:
        """Whatever it is at."""
        self.process.kill()
        self.process.wait()
