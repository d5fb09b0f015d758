"""What is compared: two workloads, the address that the client connects to, and the process between them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from workloads import Workload

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way between a client and a server."""

    name: str
    client: Workload
    server: Workload
    address: IPv4Address  # as the client connects, seen from its own namespace
    port: int
    pid: int | None  # of the proxy, if there is one

    def cpu_seconds(self) -> tuple[float, float]:
        """The CPU time of the proxy with all its threads so far: user, system."""
        return (0.0, 0.0) if self.pid is None else cpu_seconds(self.pid)


def cpu_seconds(pid: int) -> tuple[float, float]:
    """The CPU time of a process with all its threads so far: user, system."""
    # After the command, which may contain anything, come fields 3 and on (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS
