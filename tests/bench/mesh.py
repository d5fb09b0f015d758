"""The interceptor as a contender: one agent with its defaults carries both ends, everything switched on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from contender import Contender
from workloads import BRIDGE, ENDS_WITH_US, IPV4, IPV6, SERVER_PORT

from interceptor import admin
from interceptor.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workloads import Workload

METRICS_PORT = 15124
START_SECONDS, STOP_SECONDS = 60.0, 30.0
CIPHER = "TLS_AES_128_GCM_SHA256"


def _config(directory: Path) -> str:
    # The agent makes no bridge, since it is not asked to 'run' anything, but 'down' would remove one of this name.
    return f"""\
bridge: {{name: {BRIDGE}x, ipv4: {IPV4}, ipv6: "{IPV6}"}}
mesh: {{cidrs: ["{IPV4.network}", "{IPV6.network}"]}}
metrics: {{address: "127.0.0.1:{METRICS_PORT}"}}
paths: {{state: {directory}/state, run: {directory}/run, bpf: /sys/fs/bpf/interceptor-bench}}
"""


@contextmanager
def interceptor(directory: Path, client: Workload, server: Workload) -> Iterator[Contender]:
    """Start an agent and enrol both workloads; withdraws them and leaves nothing behind."""
    config = directory / "config.yaml"
    config.write_text(_config(directory), encoding="utf-8")

    program = [sys.executable, "-m", "interceptor", "--config", str(config)]

    def command(*arguments: str) -> None:
        result = subprocess.run([*program, *arguments], capture_output=True, text=True)
        if result.returncode != 0:
            raise SystemExit(f"bench: 'interceptor {arguments[0]}' failed: {result.stderr.strip()}")

    command("down")  # whatever a run that was killed left behind
    with (
        (directory / "agent.log").open("wb") as log,
        # A session of its own, so that a Ctrl-C is for us to handle.
        subprocess.Popen(
            [*ENDS_WITH_US, *program, "agent"], stdout=log, stderr=log, start_new_session=True
        ) as agent,
    ):
        try:
            _wait_until_ready(agent, directory)
            for workload in (client, server):
                command("enrol", "--netns", str(workload.netns), "--service-account", workload.name)
            yield Contender("interceptor", client, server, server.address, SERVER_PORT, agent.pid)
            _check(directory / "state" / "connections.jsonl")
        finally:
            agent.terminate()
            with suppress(subprocess.TimeoutExpired):
                agent.wait(STOP_SECONDS)
            agent.kill()
            agent.wait()
            command("down")


def _wait_until_ready(agent: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while agent.poll() is None and time.monotonic() < deadline:
        try:
            if admin.ask(directory / "run" / "admin.sock", "status")["ready"]:
                return
        except AgentError:
            time.sleep(0.05)
    log = (directory / "agent.log").read_text(encoding="utf-8", errors="replace")
    raise SystemExit(f"bench: the agent does not start: {log.strip()}")


def _check(records: Path) -> None:
    """That what was measured was really carried: recorded on both sides, and encrypted as Envoy's was."""
    last = {}
    with records.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            last[record["direction"]] = record["tls_cipher"]
    if last != {"outbound": CIPHER, "inbound": CIPHER}:
        raise SystemExit(f"bench: the interceptor's connection records show the ciphers {last}, not {CIPHER}")
