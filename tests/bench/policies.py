"""`make bench`, policies: how long a decision takes, a reload, and asking ten thousand open connections again.

Each policy has ten rules, each rule an identity, a port and a network. A reload is what the agent does, from the change of
the files until the set is in force, beside a ping-pong over loopback that stands for traffic. Needs no root. Ends with
status 1 when a limit is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import trio

from interceptor.agent.audit import Audit
from interceptor.agent.clock import wall_clock
from interceptor.agent.policy_files import PolicyFiles, collection_paused
from interceptor.agent.policy_keeper import PolicyKeeper
from interceptor.config import parse_config
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Permit
from interceptor.proxy.connections import LiveConnections
from interceptor.proxy.redecide import redecide
from interceptor.proxy.snapshot import Snapshot
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.telemetry.metrics import Metrics
from interceptor.workload import Direction, Endpoint, Workload, WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.policy.documents import Document
    from interceptor.proxy.context import WorkloadContext
    from interceptor.proxy.recording import Recorder

SIZES = (10, 1_000, 10_000)
RULES = 10
PER_FILE = 100
RELOADS = {"in 100 files": 100, "in one file": 10_000}  # documents of each file
PING_SECONDS = 0.001
DECISIONS = 20_000
CONNECTIONS = 10_000
RELOAD_AIM_SECONDS = 2.0
ROOT = "istio-system"
SHOP = Workload(
    WorkloadKey("shop", "web"),
    SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web"),
    (ip_address("10.0.0.2"),),
    "node-1",
    Labels({"app": "web", "tier": "front", "version": "v1"}),
)
OTHER = Workload(
    WorkloadKey("other", "one"),
    SpiffeId.parse("spiffe://cluster.local/ns/other/sa/one"),
    (ip_address("172.16.0.1"),),
    "node-2",
)


@dataclass(frozen=True)
class Limit:
    """What must hold, in the unit of the figure."""

    text: str
    value: float
    most: float

    @property
    def met(self) -> bool:
        return self.value <= self.most


def policy(number: int, choice: random.Random) -> str:
    """One AuthorizationPolicy; all of them apply to the workload that is asked about, the worst there is."""
    rules = [
        {
            "from": [{"source": {"principals": [f"cluster.local/ns/n{number}/sa/s{rule}"],
                                 "ipBlocks": [f"10.{choice.randrange(256)}.0.0/16"]}}],
            "to": [{"operation": {"ports": [str(1 + choice.randrange(60000))]}}],
        }
        for rule in range(RULES)
    ]  # fmt: skip
    return json.dumps(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{number}", "namespace": "shop" if number % 2 else ROOT},
            "spec": {
                "action": "DENY" if number % 3 else "ALLOW",
                "rules": rules if number else [{"from": [{"source": {"namespaces": ["other"]}}]}],
            },
        }
    )


def source(**fields: list[str]) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


# What DENY rules of one namespace may have in common, so that the keys of one field do not tell them apart. None of them
# matches a connection of shop/front, which therefore has to be held against all.
SHAPES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "notNamespaces [shop, another]": lambda n, r: source(notNamespaces=["shop", f"n{n}x{r}"]),
    "notNamespaces [bank, shop]": lambda n, r: source(notNamespaces=["bank", "shop"]),
    "notIpBlocks of many lengths": lambda n, r: source(
        notIpBlocks=[f"10.9.0.0/{16 + r % 8}", f"10.{n % 256}.{n // 256}.0/24"]
    ),
    "notPorts [80, another]": lambda n, r: {"to": [{"operation": {"notPorts": ["80", str(1000 + n)]}}]},
    "two sources that exclude": lambda n, r: {
        "from": [
            {"source": {"notNamespaces": ["shop", f"n{n}"]}},
            {"source": {"notPrincipals": ["*/sa/front", f"x{r}"]}},
        ]
    },
    "namespaces [shop], notPrincipals": lambda n, r: source(
        namespaces=["shop"], notPrincipals=["cluster.local/ns/shop/sa/front", f"x{n}y{r}"]
    ),
    "four fields of ten values": lambda n, r: {
        "from": [{"source": {"namespaces": ["shop", f"n{n % 10}"], "ipBlocks": [f"10.{9 + n % 10}.0.0/16"]}}],
        "to": [{"operation": {"ports": [str(80 + (n + 1) % 10), str(1000 + r)]}}],
        "when": [{"key": "destination.ip", "values": [f"10.0.0.{2 + n // 10 % 10}"]}],
    },
    "prefixes of all lengths": lambda n, r: source(principals=[f"n{n}x{r}".ljust(20 + n % 480, "y") + "*"]),
}  # fmt: skip


def measure_shape(size: int, rule: Callable[[int, int], dict[str, Any]], directory: Path) -> dict[str, float]:
    """How long the first decision takes, and the median, when no rule of a set of this shape matches."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{number}", "namespace": "shop"},
            "spec": {"action": "DENY", "rules": [rule(number, each) for each in range(RULES)]},
        }
        for number in range(size)
    ]
    for start in range(0, size, PER_FILE):
        text = "\n---\n".join(json.dumps(each) for each in documents[start : start + PER_FILE])
        (directory / f"f{start:05}.yaml").write_text(text + "\n")
    loaded = PolicyFiles(directory, MeshNames(ROOT)).load().documents
    started = time.process_time()
    policies = build(loaded)
    indexed = time.process_time() - started
    address = ip_address("10.9.0.7")
    identity = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/front")
    holder = Workload(WorkloadKey("shop", "front"), identity, (address,), "node-2")
    asked = InboundAttempt(SHOP, Endpoint(SHOP.addresses[0], 80), address, identity, holder)
    taken = []
    for _ in range(DECISIONS // 10):
        before = time.perf_counter_ns()
        policies.decide_inbound(asked)
        taken.append(time.perf_counter_ns() - before)
    assert isinstance(policies.decide_inbound(asked), Permit)
    return {"index_seconds": indexed, "first_us": taken[0] / 1000, "median_us": median(taken) / 1000}


def attempts(size: int, choice: random.Random) -> list[InboundAttempt]:
    return [attempt(size, choice) for _ in range(DECISIONS)]


def attempt(size: int, choice: random.Random) -> InboundAttempt:
    """A connection from somebody whom a policy names."""
    namespace, account = f"n{choice.randrange(size)}", f"s{choice.randrange(RULES)}"
    address = ip_address(f"10.{choice.randrange(256)}.1.1")
    identity = SpiffeId.parse(f"spiffe://cluster.local/ns/{namespace}/sa/{account}")
    holder = Workload(WorkloadKey(namespace, account), identity, (address,), "node-2")
    destination = Endpoint(SHOP.addresses[0], 1 + choice.randrange(60000))
    return InboundAttempt(SHOP, destination, address, identity, holder)


def measure(size: int, directory: Path) -> dict[str, float]:
    """Everything about a set of this size."""
    choice = random.Random(size)
    write(size, PER_FILE, directory, choice)
    files = PolicyFiles(directory, MeshNames(ROOT))
    started = time.process_time()
    documents = files.load().documents
    read = time.process_time() - started
    started = time.process_time()
    policies = build(documents)
    indexed = time.process_time() - started
    path = directory / "f00000.yaml"
    path.write_text(path.read_text() + "# changed\n")
    started = time.process_time()
    build(files.load().documents)
    reload = time.process_time() - started
    taken = []
    for attempt in attempts(size, choice):
        before = time.perf_counter_ns()
        policies.decide_inbound(attempt)
        taken.append(time.perf_counter_ns() - before)
    taken.sort()
    return {
        "policies": size,
        "decision_median_us": median(taken) / 1000,
        "decision_p99_us": taken[len(taken) * 99 // 100] / 1000,
        "decisions_per_second": 1e9 * len(taken) / sum(taken),
        "read_all_seconds": read,
        "index_seconds": indexed,
        "reload_one_changed_file_seconds": reload,
        "redecide_seconds": trio.run(ask_again, policies),
    }


@dataclass(frozen=True)
class Reload:
    """What one reload of 10,000 new policies took, and what a bystander noticed of it."""

    wall_seconds: float
    agent_cpu_seconds: float
    all_cpu_seconds: float
    rtt_median_ms: float
    rtt_worst_ms: float
    resident_mib: float


async def reload_all(per_file: int, directory: Path) -> Reload:
    """Have an agent's keeper of policies follow files that all change at once."""
    state = directory / "state"
    state.mkdir()
    policies = directory / "policies"
    policies.mkdir()
    config = parse_config(f"paths: {{state: {state}, policies: {policies}}}\n", "bench", node="node-1")
    snapshot = Snapshot(PolicySet(config.mode))
    audit = Audit(state / "audit.jsonl", 1_000_000, wall_clock)
    keeper = PolicyKeeper(config, snapshot, audit, list, wall_clock, Metrics())
    write(10_000, per_file, policies, random.Random(1))
    keeper.start()
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping, times)
        nursery.start_soon(keeper.run)
        await trio.sleep(1)
        write(10_000, per_file, directory / "new", random.Random(2))
        before, started, cpu = snapshot.value, trio.current_time(), os.times()
        times.clear()
        for path in (directory / "new").iterdir():
            path.rename(policies / path.name)
        while snapshot.value is before:
            await snapshot.wait_changed()
        wall, now = trio.current_time() - started, os.times()
        nursery.cancel_scope.cancel()
    own = now.user + now.system - cpu.user - cpu.system
    children = now.children_user + now.children_system - cpu.children_user - cpu.children_system
    return Reload(wall, own, own + children, 1e3 * median(times), 1e3 * max(times), resident_mib())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def ping(times: list[float]) -> None:
    """A byte to and fro over loopback, over and over, in the loop that the agent's traffic would be in."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        async with await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
            while True:
                started = trio.current_time()
                await stream.send_all(b"x")
                await stream.receive_some(1)
                times.append(trio.current_time() - started)
                await trio.sleep(PING_SECONDS)


def write(size: int, per_file: int, directory: Path, choice: random.Random) -> None:
    directory.mkdir(exist_ok=True)
    for start in range(0, size, per_file):
        text = "\n---\n".join(policy(n, choice) for n in range(start, min(size, start + per_file)))
        (directory / f"f{start:05}.yaml").write_text(text + "\n")


def build(documents: tuple[Document, ...]) -> PolicySet:
    """As the agent does."""
    with collection_paused():
        return PolicySet(MtlsMode.STRICT, documents)


async def ask_again(policies: PolicySet) -> float:
    """How long it takes to ask about ten thousand open connections, none of which is denied."""
    live = LiveConnections(SHOP.key, CONNECTIONS, cast("Recorder", SimpleNamespace(closed=lambda _: None)))
    context: Any = SimpleNamespace(
        workload=SHOP,
        policy=SimpleNamespace(value=policies),
        registry=SimpleNamespace(value=SimpleNamespace(by_address=lambda _: None)),
        live=live,
        canonical=lambda identity: identity,
        timestamp=datetime.now(UTC).timestamp,
    )
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS):
            source = Endpoint(ip_address("172.16.0.1"), 1 + number)
            record = ConnectionRecord(
                Direction.INBOUND, str(number), "t", source, Endpoint(SHOP.addresses[0], 61000), 0.0, 0.0
            )
            record.source_identity = OTHER.identity
            record.source_workload = OTHER
            record.verdict = "permit"
            stack.enter_context(live.track(record))
        started = time.process_time()
        await redecide(cast("WorkloadContext", context))
        return time.process_time() - started


def main() -> None:
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(size, Path(directory)))
    shapes = {}
    for name, rule in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            shapes[name] = measure_shape(SIZES[-1], rule, Path(directory))
    reloads = {}
    for shape, per_file in RELOADS.items():
        with tempfile.TemporaryDirectory() as directory:
            reloads[shape] = trio.run(reload_all, per_file, Path(directory))
    largest = rows[-1]
    limits = (
        *(
            Limit(f"{name}: median decision at most 50 µs", found["median_us"], 50)
            for name, found in shapes.items()
        ),
        *(Limit(f"{name}: index at most 2 s", found["index_seconds"], 2) for name, found in shapes.items()),
        Limit("median decision at most 50 µs at 10,000 policies", largest["decision_median_us"], 50),
        Limit("index of 10,000 policies at most 2 s", largest["index_seconds"], 2),
        Limit("reload with one changed file at most 2 s", largest["reload_one_changed_file_seconds"], 2),
        *(
            Limit(f"10,000 new policies {shape} at most 2 s of the agent's CPU", each.agent_cpu_seconds, 2)
            for shape, each in reloads.items()
        ),
        Limit("10,000 open connections asked again within 1 s", largest["redecide_seconds"], 1),
    )
    width = max(map(len, rows[0]))
    print(
        f"policies of {RULES} rules, all of which apply to one workload; {DECISIONS} decisions; seconds of CPU"
    )
    for key in rows[0]:
        digits = 0 if key in ("policies", "decisions_per_second") else 2 if key.endswith("seconds") else 1
        print(f"{key.replace('_', ' '):<{width}}  " + "".join(f"{row[key]:>12,.{digits}f}" for row in rows))
    print(
        f"\n{SIZES[-1]:,} policies of {RULES} rules that share their keys, and a connection that none matches"
    )
    for name, found in shapes.items():
        print(
            f"{name:<{width}}  first {found['first_us']:7.1f} µs, median {found['median_us']:5.1f} µs, "
            f"index {found['index_seconds']:.2f} s"
        )
    print()
    for shape, each in reloads.items():
        print(
            f"10,000 new policies {shape}: in force {each.wall_seconds:.2f} s after the files changed; {each.agent_cpu_seconds:.2f} s "
            f"of the agent's CPU, {each.all_cpu_seconds:.2f} s of all; round trips meanwhile {each.rtt_median_ms:.2f} ms in the "
            f"median, {each.rtt_worst_ms:.0f} ms at worst; {each.resident_mib:.0f} MiB"
        )
    print()
    for limit in limits:
        print(f"{'pass' if limit.met else 'FAIL'}: {limit.text} ({limit.value:.2f})")
    for shape, each in reloads.items():
        word = "met" if each.wall_seconds <= RELOAD_AIM_SECONDS else "missed"
        print(
            f"aim {word}: 10,000 new policies {shape} in force within {RELOAD_AIM_SECONDS:.0f} s ({each.wall_seconds:.2f})"
        )
    sys.exit(0 if all(limit.met for limit in limits) else 1)


if __name__ == "__main__":
    main()
