"""`make bench`, the cluster's part: what it costs to follow the Kubernetes API of a big cluster.

20,000 pods, 2,000 services with an endpoint slice each, and 100 changes a second: an API server made for tests, in a
process of its own, over HTTP on loopback. Measured are how long the start takes, the memory and processor time of the
process that follows, and how late it knows of a change.

Needs no root. Ends with status 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.resolution import Client, Outcome, resolve
from interceptor.cluster.workloads import workload_of
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import EVERYTHING
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

PODS, SERVICES, NAMESPACES, NODES = 20_000, 2_000, 100, 500
CHANGES_PER_SECOND = 100
PROBES_PER_SECOND = 20
SECONDS = 20.0
SYNC_SECONDS = 120.0
START_LIMIT, MEMORY_LIMIT, CPU_LIMIT, LAG_LIMIT = 10.0, 150.0, 0.2, 0.2
DOMAIN = TrustDomain("cluster.local")
PROBE = ObjectKey("ns-0", "probe")


@dataclass(frozen=True, slots=True)
class Result:
    start_seconds: float
    start_cpu_seconds: float
    memory_before_mib: float
    memory_mib: float
    peak_mib: float
    cpu_share: float
    lag_median_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    probes: int
    resolve_us: float
    workload_us: float

    @property
    def failures(self) -> list[str]:
        limits = (
            ("start, s", self.start_seconds, START_LIMIT),
            ("memory, MiB", self.memory_mib, MEMORY_LIMIT),
            ("processor share", self.cpu_share, CPU_LIMIT),
            ("lag p99, s", self.lag_p99_ms / 1000, LAG_LIMIT),
        )
        return [
            f"{name} is {value:.2f}, at most {limit} wanted" for name, value, limit in limits if value > limit
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(_serve)
        return
    with _server() as url:
        result = trio.run(_measure, url, options.seconds)
    _print(result, as_json=options.json)
    sys.exit(1 if result.failures else 0)


@contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                sys.exit("the API server of the measurement did not start")
            yield url
        finally:
            process.kill()


async def _measure(url: str, seconds: float) -> Result:
    before = _memory_mib()
    async with ApiClient(ApiAccess(url, None, None)) as client, trio.open_nursery() as nursery:
        watch = ClusterWatch(client, EVERYTHING)
        started, cpu = time.monotonic(), time.process_time()
        nursery.start_soon(watch.run)
        with trio.fail_after(SYNC_SECONDS):
            await watch.wait_synced()
        start_seconds, start_cpu = time.monotonic() - started, time.process_time() - cpu
        assert len(watch.cluster.pods) >= PODS - CHANGES_PER_SECOND
        await trio.sleep(2)  # the changes of the time of the start are caught up with
        started, cpu = time.monotonic(), time.process_time()
        lags = await _lags(watch, seconds)
        cpu_share = (time.process_time() - cpu) / (time.monotonic() - started)
        assert watch.problems == []
        nursery.cancel_scope.cancel()
    cuts = quantiles(lags, n=100)
    return Result(
        start_seconds=start_seconds,
        start_cpu_seconds=start_cpu,
        memory_before_mib=before,
        memory_mib=_memory_mib(),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        cpu_share=cpu_share,
        lag_median_ms=1000 * median(lags),
        lag_p99_ms=1000 * cuts[98],
        lag_max_ms=1000 * max(lags),
        probes=len(lags),
        resolve_us=_resolve_us(watch.cluster),
        workload_us=_workload_us(watch.cluster),
    )


async def _lags(watch: ClusterWatch, seconds: float) -> list[float]:
    """How late each state of the probe is known, in seconds of the clock that both processes share."""
    lags: list[float] = []
    last = None
    with trio.move_on_after(seconds):
        while True:
            cluster = await watch.wait_changed()
            probe = cluster.pods.get(PROBE)
            if probe is not None and probe is not last:
                last = probe
                lags.append(time.monotonic() - float(probe.labels["sent"]))
    return lags


def _resolve_us(cluster: Cluster) -> float:
    client, started = Client("node-1", None), time.process_time()
    for number in range(SERVICES):
        destination = Endpoint.parse(f"{_service_address(number)}:80")
        assert resolve(cluster, destination, client, DOMAIN).outcome is Outcome.SERVICE
    return 1e6 * (time.process_time() - started) / SERVICES


def _workload_us(cluster: Cluster) -> float:
    started = time.process_time()
    found = [workload_of(cluster, pod, DOMAIN) for pod in cluster.pods.objects.values()]
    assert all(found)
    return 1e6 * (time.process_time() - started) / len(found)


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _print(result: Result, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: getattr(result, name) for name in Result.__slots__}))  # type: ignore[attr-defined]
        return
    print(f"following {PODS:,} pods, {SERVICES:,} services, {CHANGES_PER_SECOND} changes/s")
    print(
        f"  start             {result.start_seconds:.1f} s ({result.start_cpu_seconds:.1f} s of processor time)"
    )
    print(
        f"  memory            {result.memory_mib:.0f} MiB, {result.memory_before_mib:.0f} before, {result.peak_mib:.0f} at most"
    )
    print(f"  processor         {result.cpu_share:.3f} of one core")
    print(
        f"  lag               {result.lag_median_ms:.1f} ms median, {result.lag_p99_ms:.1f} p99, "
        f"{result.lag_max_ms:.1f} at most, of {result.probes} changes"
    )
    print(
        f"  a service         resolved in {result.resolve_us:.0f} µs; a pod's membership in {result.workload_us:.0f} µs"
    )
    for failure in result.failures:
        print(f"MISSED: {failure}")


# The server's process.


async def _serve() -> None:
    from tests.kubernetes.api_server import ApiServer, running

    api = ApiServer()
    _fill(api)
    api.encode_everything()
    gc.freeze()
    gc.disable()  # the server is not what is measured
    async with running(api):
        print(api.url, flush=True)
        chance, number = random.Random(7), PODS
        began = trio.current_time()
        for tick in range(10**9):
            if tick % (CHANGES_PER_SECOND // PROBES_PER_SECOND) == 0:
                api.put(Kind.POD, _pod(api, PROBE.name, 0, "10.255.0.1", sent=f"{time.monotonic():.6f}"))
            else:
                number += 1
                _change(api, chance.randrange(PODS), number)
            await trio.sleep_until(began + (tick + 1) / CHANGES_PER_SECOND)


def _fill(api: Any) -> None:
    from tests.cluster.api_objects import MESH, namespace, service

    for number in range(NAMESPACES):
        api.put(Kind.NAMESPACE, namespace(f"ns-{number}", labels=MESH))
    for number in range(PODS):
        api.put(Kind.POD, _pod(api, f"pod-{number}", number, _pod_address(number)))
    for number in range(SERVICES):
        path = f"ns-{number % NAMESPACES}/service-{number}"
        api.put(Kind.SERVICE, service(path, _service_address(number)))
        _put_slice(api, number)


def _change(api: Any, slot: int, number: int) -> None:
    """In turn: a pod changes, a pod is replaced by another one with its address, and a slice changes."""
    if number % 3 == 0:
        _put_slice(api, slot % SERVICES)
        return
    name, replaced = f"ns-{_namespace(slot)}/pod-{slot}", number % 3 == 1
    if replaced:
        api.delete(Kind.POD, name)
    uid = f"uid-{number}" if replaced else api.objects[Kind.POD][name]["metadata"]["uid"]
    api.put(Kind.POD, _pod(api, f"pod-{slot}", slot, _pod_address(slot), uid=uid))


def _put_slice(api: Any, number: int) -> None:
    from tests.cluster.api_objects import endpoint, endpoint_slice

    name = f"service-{number}"
    slots = range(number, PODS, SERVICES)
    ends = []
    for slot in slots:
        key = f"ns-{_namespace(slot)}/pod-{slot}"
        uid = api.objects[Kind.POD][key]["metadata"]["uid"]
        ends.append(endpoint(_pod_address(slot), f"pod-{slot}", uid=uid, node=f"node-{slot % NODES}"))
    api.put(Kind.ENDPOINT_SLICE, endpoint_slice(f"ns-{number % NAMESPACES}/{name}-x", name, *ends))


def _pod(api: Any, name: str, slot: int, address: str, *, uid: str = "", **labels: str) -> dict[str, Any]:
    """A pod with what real ones carry beside the fields that we read: some 5 KB of JSON."""
    from tests.cluster.api_objects import pod

    service = slot % SERVICES
    made = pod(
        f"ns-{_namespace(slot)}/{name}",
        address,
        uid=uid,
        account=f"account-{service}",
        node=f"node-{slot % NODES}",
        labels={"app": f"app-{service}", "pod-template-hash": f"{service:08x}", "tier": "backend", **labels},
    )
    made["metadata"]["managedFields"] = [{"fieldsV1": {f"f:field-{n}": {".": {}} for n in range(100)}}] * 2
    return made


def _namespace(slot: int) -> int:
    return slot % SERVICES % NAMESPACES


def _pod_address(slot: int) -> str:
    return f"10.{1 + slot // 65536}.{slot // 256 % 256}.{slot % 256}"


def _service_address(number: int) -> str:
    return f"10.200.{number // 256}.{number % 256}"


if __name__ == "__main__":
    main()
