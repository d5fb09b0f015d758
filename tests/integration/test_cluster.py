"""Two nodes of a cluster whose API says which pods there are: real agents, namespaces and cgroups, and the wire between."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.cluster import Cluster, cluster_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.cluster import Pod

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]

MARKER = "what goes between two pods"
PYTHON = "/usr/bin/python3"
TALKER = Path(__file__).parents[1] / "harness/talker.py"
PORT = 7000
CLIENT = """
import socket, sys
address, port, marker = sys.argv[1:]
try:
    with socket.create_connection((address, int(port)), 10) as sock:
        sock.sendall(marker.encode())
        received = b""
        while len(received) < len(marker) and (data := sock.recv(100)):
            received += data
        print("answered" if received == marker.encode() else "ended")
except OSError as error:
    print("refused", error)
"""


@pytest.fixture(scope="module")
def cluster(_swept: None) -> Iterator[Cluster]:
    with cluster_of(2) as cluster:
        cluster.api.namespace("shop")
        cluster.api.namespace("plain", {})
        yield cluster


def serve(pod: Pod) -> None:
    pod.spawn(PYTHON, TALKER, "serve", str(PORT), ready_port=PORT)


def ask(client: Pod, address: str, port: int = PORT) -> str:
    """What CLIENT says after a question over a connection of its own."""
    return client.run(PYTHON, "-c", CLIENT, address, str(port), MARKER).check().stdout.strip()


def test_pods_of_a_labelled_namespace_talk_by_mutual_tls_between_nodes(cluster: Cluster) -> None:
    near, far = cluster.nodes
    with cluster.fabric.wire(MARKER.encode(), other_tls_ports=(15012, api_port(cluster))):
        client = cluster.run_pod(near, "shop/client", account="client")
        server = cluster.run_pod(far, "shop/server", account="server", labels={"app": "server"})
        serve(server)
        mark = far.mark()
        assert ask(client, server.ipv4) == "answered"
        assert ask(client, server.ipv6) == "answered"
    record = far.wait_for_record(lambda r: r["direction"] == "inbound", since=mark)
    assert record["source_identity"] == "spiffe://cluster.local/ns/shop/sa/client"
    assert record["destination_identity"] == "spiffe://cluster.local/ns/shop/sa/server"
    assert far.enrolled()["shop/server"]["labels"] == {"app": "server"}


def api_port(cluster: Cluster) -> int:
    return int(cluster.api.url.rpartition(":")[2])
