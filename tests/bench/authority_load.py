"""Nodes that ask an authority for certificates, all in this process: the load of authority.py.

usage: authority_load.py ADDRESS:PORT WORKLOADS AT_ONCE < TOKENS

Each token lets one node in; the workloads are spread over the nodes, and each node asks for AT_ONCE certificates at
once, as an agent does, over connections that it keeps. Keys and signing requests are made before the clock starts.
Prints "ready", begins upon the next line of input, and prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from interceptor.authority_client import AuthorityClient
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    Request = tuple[SpiffeId, x509.CertificateSigningRequest]

DOMAIN = TrustDomain("cluster.local")
LIFETIME = timedelta(hours=1)
SMALL = 20  # certificates for each connection before the clock starts


def now() -> datetime:
    return datetime.now(UTC)


def request(number: int) -> Request:
    spiffe_id = SpiffeId(DOMAIN, "bench", f"w{number}")
    return spiffe_id, create_signing_request(spiffe_id, create_private_key())


async def main(endpoint: Endpoint, workloads: int, at_once: int) -> None:
    nodes = []
    for number, token in enumerate(sys.stdin.readline().split()):
        node = AuthorityClient(endpoint, DOMAIN, f"node-{number}", now)
        await node.join(token)
        nodes.append(node)
    waits: list[float] = []

    async def ask(node: AuthorityClient, requests: Iterator[Request]) -> None:
        for spiffe_id, signing_request in requests:
            asked = time.perf_counter()
            await node.sign(signing_request, spiffe_id, LIFETIME)
            waits.append(time.perf_counter() - asked)

    async def ask_all(total: int) -> float:
        shares = [iter([request(n) for n in range(i, total, len(nodes))]) for i in range(len(nodes))]
        print("ready", flush=True)
        sys.stdin.readline()
        waits.clear()
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for node, share in zip(nodes, shares, strict=True):
                for _ in range(at_once):
                    nursery.start_soon(ask, node, share)
        return time.perf_counter() - began

    await ask_all(SMALL * len(nodes) * at_once)
    elapsed = await ask_all(workloads)
    times = sorted(waits)
    print(
        json.dumps(
            {
                "certificates": workloads,
                "seconds": elapsed,
                "p50": times[len(times) // 2],
                "p99": times[len(times) * 99 // 100],
            }
        ),
        flush=True,
    )
    for node in nodes:
        node.close()


if __name__ == "__main__":
    trio.run(main, Endpoint.parse(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
