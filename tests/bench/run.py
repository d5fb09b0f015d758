"""`make bench`: the interceptor, Envoy and no mesh at all on the same work, in turn, on this machine.

Two workloads on one bridge, whose both ends one agent carries; the same through one Envoy process; the same without
anything.  See envoy.py for how that is made equal.  Everything is on: capture, policy, records, metrics.  Nothing is
pinned to a processor, the load is the same Python program for all (load.py).

Needs root, and what `make deps-bench` installs.  Ends with status 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import report
from contender import Contender
from envoy import envoy
from mesh import interceptor
from workloads import CONGESTION_CONTROL, SERVER_PORT, bridge, server, workload

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path("/run/interceptor-bench")
CONNECTIONS = 500  # one after the other, in each run


def main() -> None:
    arguments = _arguments()
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root, to make network namespaces and load BPF programs: use sudo")
    signal.signal(signal.SIGTERM, _end)
    try:
        rounds = _rounds(arguments)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except InterceptorError as error:
        raise SystemExit(f"bench: {error}") from error
    found = report.ratios(rounds)
    floors = report.floors(found)
    result = {
        "title": (
            f"Linux {platform.release()}, {len(os.sched_getaffinity(0))} processors, "
            f"TCP {arguments.congestion_control or CONGESTION_CONTROL.read_text().strip()}: medians of "
            f"{len(rounds)} alternating runs, {arguments.seconds:g} s of bulk, {arguments.round_trips} round "
            f"trips and {CONNECTIONS} connections each"
        ),
        "figures": report.figures(rounds),
        "ratios": found,
        "floors": floors,
        "rounds": rounds,
    }
    print(json.dumps(result, indent=2) if arguments.output == "json" else report.table(result))
    sys.exit(0 if all(floor["met"] for floor in floors) else 1)


def _rounds(arguments: argparse.Namespace) -> list[report.Round]:
    """The contenders in turn, as often as wanted, after a short round for caches and lazily made things."""
    with contenders(arguments.congestion_control) as entries:
        _progress("warming up")
        for entry in entries:
            measure(entry, 0.5, 500, 10)
        rounds = []
        for number in range(1, arguments.runs + 1):
            measured = {}
            for entry in entries:
                _progress(f"run {number} of {arguments.runs}: {entry.name}")
                measured[entry.name] = measure(entry, arguments.seconds, arguments.round_trips, CONNECTIONS)
            rounds.append(measured)
        _progress("")
    return rounds


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


def measure(entry: Contender, seconds: float, round_trips: int, connections: int) -> report.Figures:
    """One contender, one run of each kind of load."""
    target = (entry.address, entry.port)
    before = entry.cpu_seconds()
    bulk = entry.client.measure("bulk", *target, seconds)
    after_bulk = entry.cpu_seconds()
    ping = entry.client.measure("ping", *target, round_trips)
    after_ping = entry.cpu_seconds()
    connect = entry.client.measure("connect", *target, connections)
    after_connect = entry.cpu_seconds()
    measured = {
        "bulk_gbit_per_second": bulk["bytes"] * 8 / 1e9 / bulk["seconds"],
        "round_trip_median_us": ping["median"] * 1e6,
        "round_trip_p99_us": ping["p99"] * 1e6,
        "connections_per_second": connect["connections"] / connect["seconds"],
    }
    if entry.pid is None:
        return measured
    user, system = (late - early for early, late in zip(before, after_bulk, strict=True))
    gigabytes = bulk["bytes"] / 1e9
    return {
        **measured,
        "bulk_cpu_user_seconds_per_gb": user / gigabytes,
        "bulk_cpu_system_seconds_per_gb": system / gigabytes,
        "bulk_cpu_seconds_per_gb": (user + system) / gigabytes,
        "round_trip_cpu_us": (sum(after_ping) - sum(after_bulk)) * 1e6 / ping["round_trips"],
        "connection_cpu_us": (sum(after_connect) - sum(after_ping)) * 1e6 / connect["connections"],
    }


@contextmanager
def contenders(congestion_control: str | None = None) -> Iterator[list[Contender]]:
    """All three, ready; everything is removed at the end, whatever happens."""
    with ExitStack() as stack:
        stack.enter_context(_directory())
        stack.enter_context(bridge())
        pairs = []
        for number, name in enumerate(("mesh", "envoy", "direct")):
            client, served = (
                stack.enter_context(
                    workload(DIRECTORY / "netns", f"{name}-{role}", 2 * number + place, congestion_control)
                )
                for place, role in ((1, "client"), (2, "server"))
            )
            stack.enter_context(server(served))
            pairs.append((client, served))
        mesh_pair, envoy_pair, (client, served) = pairs
        entries = [
            stack.enter_context(interceptor(DIRECTORY, *mesh_pair)),
            stack.enter_context(envoy(DIRECTORY, *envoy_pair)),
            Contender(report.DIRECT, client, served, served.address, SERVER_PORT, None),
        ]
        stack.callback(_ignore_interrupts)  # the first of the steps back: they all have to be made
        yield entries


@contextmanager
def _directory() -> Iterator[None]:
    """Our directory, which only one benchmark at a time can have."""
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(DIRECTORY, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"bench: another benchmark is running ({DIRECTORY} is locked)") from None
    try:
        yield
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        os.close(handle)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare the interceptor with Envoy and with no mesh at all."
    )
    parser.add_argument("--runs", type=int, default=5, help="alternating runs, at least 1 (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each bulk flow (default: 4)")
    parser.add_argument(
        "--round-trips", type=int, default=5000, help="of each ping-pong flow (default: 5000)"
    )
    parser.add_argument(
        "--congestion-control", help="TCP's, for all workloads, as 'reno' (default: the host's)"
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.seconds <= 0 or arguments.round_trips < 1:
        parser.error("runs, seconds and round trips must be positive")
    return arguments


if __name__ == "__main__":
    main()
