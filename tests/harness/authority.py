"""An authority beside the nodes of a fabric, used as an operator does: by its commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.harness.process import CLI, Program, Result, run, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.fabric import Fabric, FabricNode

PORT = 15012


class Authority:
    """`interceptor ca serve` in the fabric's namespace; `directory` is where it keeps everything."""

    def __init__(self, fabric: Fabric) -> None:
        """Make it; `start` serves it."""
        self._fabric = fabric
        home = fabric.slot.directory / "ca"
        home.mkdir(mode=0o700)
        self.directory = home / "authority"
        self.address = f"{fabric.authority_address}:{PORT}"
        self._program: Program | None = None
        self._starts = 0
        self.cli("init").check()

    def cli(self, *command: str) -> Result:
        """Run `interceptor ca <command>` on it; the result is not checked."""
        return run([CLI, "ca", *command, "--dir", self.directory], timeout=30)

    def command(self) -> list[str | Path]:
        """The command line that serves it."""
        return [CLI, "ca", "serve", "--dir", self.directory, "--listen", self.address]

    def start(self) -> None:
        """Serve, in the background; returns when nodes can connect."""
        self._starts += 1
        self._program = self._fabric.spawn(*self.command(), stem=f"ca-{self._starts}")
        self._program.wait_for_output(self.address)

    def stop(self) -> None:
        """End the service: an outage begins."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def let_in(self, node: FabricNode) -> None:
        """Have a node join with a token, and start its agent."""
        what = ("--node", node.name, "--allow", "ns/*/sa/*", "-o", "json")
        token = json.loads(self.cli("token", "create", *what).check().stdout)
        node.write_config({**node.config, "authority": {"address": self.address}})
        node.cli("up", "--join-token-file", "-", input_bytes=token["token"].encode(), timeout=90).check()
        node.slot.journal.add(node.agent_pid)

    def rotation(self) -> dict[str, Any]:
        """As `interceptor ca rotate status -o json`."""
        found: dict[str, Any] = json.loads(self.cli("rotate", "status", "-o", "json").check().stdout)
        return found

    def rotate(self, step: str, *, timeout: float = 30) -> None:
        """Take a step of a rotation as soon as it is permitted."""
        refusals: list[str] = []

        def permitted() -> bool:
            result = self.cli("rotate", step)
            refusals.append(result.stderr)
            return result.status == 0

        try:
            wait_until(permitted, f"ca rotate {step} is permitted", timeout, poll=0.2)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {refusals[-1]}") from None
