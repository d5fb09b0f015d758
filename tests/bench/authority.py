"""`make bench`, the authority's part: how fast `interceptor ca serve` issues, and how soon a workload has its first.

The service and the nodes that ask are two processes, over TLS on loopback, with the client that agents use; everything
is on: admission, replay window, audit. The service's processor time is counted too, since on a busy machine it says
more than the clock.

Needs root (for `interceptor up`). Ends with status 1 when the floor is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from contender import cpu_seconds
from workloads import BRIDGE, ENDS_WITH_US, IPV4, IPV6, bridge, workload

from interceptor import admin

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = (sys.executable, "-m", "interceptor")
LOAD = Path(__file__).with_name("authority_load.py")
FLOOR = 500.0  # certificates for each second of one processor
START_SECONDS = 60.0
NODES = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the service."""

    name: str
    nodes: int
    at_once: int  # of each node
    workloads: int


LOADS = (
    Load("one request after the other", 1, 1, 1000),
    Load("steadily, 8 nodes", NODES, 1, 4000),
    Load("1,000 workloads at once, 8 nodes", NODES, 8, 1000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the certificate authority.")
    parser.add_argument("--runs", type=int, default=3, help="of each load, at least 1 (default: 3)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("runs must be positive")
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root, for 'interceptor up': use sudo")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="interceptor-bench-") as name:
        result = measure(Path(name), arguments.runs)
    print(json.dumps(result, indent=2) if arguments.output == "json" else table(result))
    sys.exit(0 if result["floor"]["met"] else 1)


def measure(directory: Path, runs: int) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {load.name: [] for load in LOADS}
    for number in range(runs):
        for load in LOADS:
            rounds[load.name].append(issue(directory / f"{number}-{load.nodes}-{load.at_once}", load))
    figures = {
        name: {key: median(one[key] for one in measured) for key in measured[0]}
        for name, measured in rounds.items()
    }
    best = figures[LOADS[1].name]["per_cpu_second"]
    return {
        "title": (
            f"Linux {platform.release()}, {len(os.sched_getaffinity(0))} processors: medians of {runs} runs of one "
            "'interceptor ca serve' process"
        ),
        "issuing": figures,
        "first_certificate": first_certificate(directory / "up"),
        "floor": {
            "floor": f"steadily at least {FLOOR:.0f} certificates per second of one processor",
            "found": best,
            "met": best >= FLOOR,
        },
    }


def issue(directory: Path, load: Load) -> dict[str, float]:
    """One run of one load on an authority of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = ("--dir", str(directory))
    command("ca", "init", *place)
    tokens = [
        json.loads(
            command(
                "ca",
                "token",
                "create",
                *place,
                "--node",
                f"node-{n}",
                "--allow",
                "ns/bench/sa/*",
                "-o",
                "json",
            )
        )["token"]
        for n in range(load.nodes)
    ]
    with process(*PROGRAM, "ca", "serve", *place, "--listen", address, stderr=subprocess.PIPE) as service:
        assert service.stderr is not None
        if not service.stderr.readline().startswith("serving"):
            raise SystemExit(f"bench: 'interceptor ca serve' does not start: {service.stderr.read().strip()}")
        arguments = (address, str(load.workloads), str(load.at_once))
        with process(
            sys.executable, str(LOAD), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as nodes:
            assert nodes.stdin is not None
            assert nodes.stdout is not None
            print(*tokens, file=nodes.stdin, flush=True)
            for _ in range(2):
                if nodes.stdout.readline() != "ready\n":
                    raise SystemExit("bench: the nodes that ask do not start")
                before = cpu_seconds(service.pid)
                print(file=nodes.stdin, flush=True)
            measured = json.loads(nodes.stdout.readline())
            spent = sum(cpu_seconds(service.pid)) - sum(before)
    return {
        "per_second": measured["certificates"] / measured["seconds"],
        "per_cpu_second": measured["certificates"] / spent,
        "p50_ms": measured["p50"] * 1e3,
        "p99_ms": measured["p99"] * 1e3,
        "seconds": measured["seconds"],
    }


def first_certificate(directory: Path) -> dict[str, float]:
    """From `interceptor up` with nothing there yet, to the first workload's certificate."""
    directory.mkdir(mode=0o700)
    config = directory / "config.yaml"
    config.write_text(
        f'bridge: {{name: {BRIDGE}x, ipv4: {IPV4}, ipv6: "{IPV6}"}}\n'
        f'mesh: {{cidrs: ["{IPV4.network}", "{IPV6.network}"]}}\n'
        'metrics: {address: "127.0.0.1:15124"}\n'
        f"paths: {{state: {directory}/state, run: {directory}/run, bpf: /sys/fs/bpf/interceptor-bench}}\n",
        encoding="utf-8",
    )
    ours = ("--config", str(config))
    with ExitStack() as stack:
        stack.enter_context(bridge())
        first = stack.enter_context(workload(directory / "netns", "authority-first", 1, None))
        stack.callback(command, *ours, "down")
        began = time.monotonic()
        command(*ours, "up")
        up = time.monotonic() - began
        command(*ours, "enrol", "--netns", str(first.netns), "--service-account", "first")
        while not _has_certificate(directory / "run" / "admin.sock"):
            if time.monotonic() - began > START_SECONDS:
                raise SystemExit("bench: the first workload gets no certificate")
            time.sleep(0.005)
        return {"up_seconds": up, "certificate_seconds": time.monotonic() - began}


def _has_certificate(admin_socket: Path) -> bool:
    return any(one["serial_number"] for one in admin.ask(admin_socket, "certificates"))


def command(*arguments: str) -> str:
    result = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"bench: 'interceptor {' '.join(arguments[:2])}' failed: {result.stderr.strip()}")
    return result.stdout


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*ENDS_WITH_US, *arguments], text=True, start_new_session=True, **options
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def table(result: dict[str, Any]) -> str:
    columns = (
        ("per_second", "certificates/s", 0),
        ("per_cpu_second", "/s of one processor", 0),
        ("p50_ms", "p50, ms", 1),
        ("p99_ms", "p99, ms", 1),
        ("seconds", "all after, s", 2),
    )
    width = max(len(name) for name in result["issuing"])
    lines = [result["title"], "", "  ".join([" " * width, *(title for _, title, _ in columns)])]
    for name, figures in result["issuing"].items():
        cells = [f"{figures[key]:>{len(title)}.{digits}f}" for key, title, digits in columns]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    first, floor = result["first_certificate"], result["floor"]
    up, certificate = first["up_seconds"], first["certificate_seconds"]
    verdict = "pass" if floor["met"] else "FAIL"
    return "\n".join(
        [
            *lines,
            "",
            f"from 'interceptor up' to ready {up:.1f} s, to the first certificate {certificate:.1f} s",
            "",
            f"{verdict}: {floor['floor']} ({floor['found']:.0f})",
        ]
    )


if __name__ == "__main__":
    main()
