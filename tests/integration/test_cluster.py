"""Two nodes of a cluster whose API says which pods there are: real agents, namespaces and cgroups, and the wire between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.cluster.cluster import Kind
from interceptor.errors import AgentError
from tests.cluster import api_objects
from tests.cluster.api_objects import policy
from tests.harness.cluster import Cluster, cluster_of
from tests.harness.process import Program, has_let_go, is_alive, run, wait_until
from tests.harness.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.cluster import ClusterNode, Pod
    from tests.kubernetes.api_server import ApiServer

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]

MARKER = "what goes between two pods"
PYTHON = "/usr/bin/python3"
TALKER = Path(__file__).parents[1] / "harness/talker.py"
PORT = 7000
# In a program of the pod's own: on these nodes, whose socket it is decides what is captured.
CLIENT = """
import socket, sys
address, port, marker = sys.argv[1:]
try:
    with socket.create_connection((address, int(port)), 30) as sock:
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
        yield cluster


def serve(pod: Pod) -> None:
    pod.spawn(PYTHON, TALKER, "serve", str(PORT), ready_port=PORT)


def talk(client: Pod, server: Pod) -> Program:
    """One connection for as long as it holds, with something on it all the time."""
    return client.spawn(PYTHON, TALKER, "long", server.ipv4, str(PORT), MARKER, "0.02")


def ask(client: Pod, address: str, port: int = PORT) -> str:
    """What CLIENT says after a question over a connection of its own; if it failed, with what both agents recorded."""
    said = client.run(PYTHON, "-c", CLIENT, address, str(port), MARKER).check().stdout.strip()
    if said == "answered":
        return said
    recent = client.node.ask("connections", limit=2) if is_served(client) else []
    return f"{said}: {[(each['reason'], each['detail'], each['destination_address']) for each in recent]}"


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Callable[..., Pod]]:
    """Runs a pod of `shop` and tells the API; what is left is ended and forgotten after the test."""
    made: list[Pod] = []

    def run(
        node: ClusterNode, name: str, *, wait: bool = True, namespace: str = "shop", **options: Any
    ) -> Pod:
        pod = node.start_pod(f"{namespace}/{name}", account=name, **options)
        made.append(pod)
        cluster.api.put(Kind.POD, pod.json())
        if wait:
            cluster.wait_enrolled(pod)
        return pod

    yield run
    for pod in made:
        forget(cluster, pod)
        pod.close()


def is_connecting(pod: Pod) -> bool:
    """Whether a connection of it has sent its SYN, and has no answer (proc_net_tcp.txt, state 2)."""
    lines = pod.run("cat", "/proc/net/tcp").check().stdout.splitlines()[1:]
    return any(line.split()[3] == "02" for line in lines)


def is_served(pod: Pod) -> bool:
    """Whether its node's agent runs and has it."""
    try:
        return pod.path in pod.node.enrolled()
    except AgentError:
        return False


def forget(cluster: Cluster, pod: Pod) -> None:
    """Take it out of the API, if it is there."""
    cluster.api.do(lambda api: api.delete(Kind.POD, pod.path) if pod.path in api.objects[Kind.POD] else None)


@contextlib.contextmanager
def encrypted(cluster: Cluster) -> Iterator[None]:
    """What passes between the nodes meanwhile is TLS, and the marker is nowhere."""
    tls_ports = (15012, int(cluster.api.url.rpartition(":")[2]))
    with cluster.fabric.wire(MARKER.encode(), other_tls_ports=tls_ports):
        yield


def in_plaintext(cluster: Cluster) -> Wire:
    return Wire(["node1", "node2"], MARKER.encode(), "plaintext", netns=cluster.fabric.netns)


def test_pods_of_a_labelled_namespace_talk_by_mutual_tls_between_nodes(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    with encrypted(cluster):
        client, server = pods(near, "client"), pods(far, "server", labels={"app": "server"})
        serve(server)
        mark = far.mark()
        assert ask(client, server.ipv4) == "answered"
        assert ask(client, server.ipv6) == "answered"
    record = far.wait_for_record(lambda r: r["direction"] == "inbound", since=mark)
    assert record["source_identity"] == "spiffe://cluster.local/ns/shop/sa/client"
    assert record["destination_identity"] == "spiffe://cluster.local/ns/shop/sa/server"
    assert far.enrolled()["shop/server"]["labels"] == {"app": "server"}


def test_connection_that_begins_before_anything_is_known_of_its_pod_is_served_and_never_in_plaintext(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    server = pods(far, "server")
    serve(server)
    with encrypted(cluster):
        for number in range(5):
            name = f"early-{number}"
            pod = near.start_pod(f"shop/{name}", account=name)
            asking = pod.spawn(PYTHON, "-c", CLIENT, server.ipv4, str(PORT), MARKER)
            wait_until(lambda pod=pod: is_connecting(pod), "its first connection is on its way")
            cluster.api.put(Kind.POD, pod.json())
            assert asking.wait() == 0
            assert asking.stdout.strip() == "answered"
            forget(cluster, pod)
            pod.close()


def test_pod_that_begins_while_the_agent_is_dead_waits_for_the_next_one(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server")
    serve(server)
    near.kill()
    with encrypted(cluster):
        pod = near.start_pod("shop/orphan", account="orphan")
        asking = pod.spawn(PYTHON, "-c", CLIENT, server.ipv4, str(PORT), MARKER)
        wait_until(lambda: is_connecting(pod), "its first connection is on its way")
        cluster.api.put(Kind.POD, pod.json())
        near.up().check()
        assert asking.wait() == 0
        assert asking.stdout.strip() == "answered"
        assert ask(client, server.ipv4) == "answered"
    forget(cluster, pod)
    pod.close()


def test_connection_of_a_pod_that_turns_out_to_be_outside_is_carried_on_as_it_is(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    cluster.api.namespace("plain", {})
    server = pods(far, "server", namespace="plain", wait=False)
    serve(server)
    pod = near.start_pod("plain/early")
    with in_plaintext(cluster):
        asking = pod.spawn(PYTHON, "-c", CLIENT, server.ipv4, str(PORT), MARKER)
        wait_until(lambda: is_connecting(pod), "its first connection is on its way")
        cluster.api.put(Kind.POD, pod.json())
        assert asking.wait() == 0
        assert asking.stdout.strip() == "answered"
        assert ask(pod, server.ipv4) == "answered"
    forget(cluster, pod)


def test_pod_outside_does_not_wait_for_a_node_that_cannot_join_its_authority(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    cluster.api.namespace("plain", {})
    server = pods(far, "server", namespace="plain", wait=False)
    serve(server)
    near.kill()
    for each in Path(str(near.config["paths"]["state"])).glob("trust*.json"):  # type: ignore[index]
        each.unlink()  # it does not know any more whom it believed
    cluster.authority.stop()
    agent = Program([*near.command(), "agent"], near.files / "joining", near.slot.journal)
    try:
        wait_until(lambda: "could not join its authority yet" in agent.stderr, "it cannot join")
        pod = pods(near, "early", namespace="plain", wait=False)  # as the authority's own may be
        wait_until(lambda: ask(pod, server.ipv4) == "answered", "it is let go", 15)
    finally:
        cluster.authority.start()
        wait_until(lambda: near.status()["state"] == "ready", "it has joined")
        near.kill()
        agent.stop()
        near.up().check()
    assert ask(pod, server.ipv4) == "answered"


def test_running_pods_are_enrolled_and_withdrawn_by_the_label_of_their_namespace(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    cluster.api.namespace("later", {})
    client = pods(near, "client", namespace="later", wait=False)
    server = pods(far, "server", namespace="later", wait=False)
    serve(server)
    with in_plaintext(cluster):
        assert ask(client, server.ipv4) == "answered"
    assert near.pods()["later/client"]["state"] == "outside"
    cluster.api.namespace("later")
    cluster.wait_enrolled(client)
    cluster.wait_enrolled(server)
    with encrypted(cluster):
        assert ask(client, server.ipv4) == "answered"
    cluster.api.namespace("later", {})
    for pod in (client, server):
        wait_until(lambda pod=pod: pod.path not in pod.node.enrolled(), f"{pod.path} is withdrawn")
    wait_until(lambda: near.pods()["later/client"]["state"] == "outside", "the client is shown as outside")
    with in_plaintext(cluster):
        assert ask(client, server.ipv4) == "answered"


def test_address_reused_at_once_by_another_account_has_the_new_identity_only(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    server = pods(far, "server")
    serve(server)
    first = pods(near, "first")
    assert ask(first, server.ipv4) == "answered"
    host = int(first.ipv4.rpartition(".")[2])
    first.close()  # and the API does not say so yet
    second = pods(near, "second", host=host, wait=False)
    forget(cluster, first)
    cluster.wait_enrolled(second)
    mark = far.mark()
    with encrypted(cluster):
        assert ask(second, server.ipv4) == "answered"
    record = far.wait_for_record(lambda r: r["direction"] == "inbound", since=mark)
    assert (record["source_identity"], record["source_workload"]) == (
        "spiffe://cluster.local/ns/shop/sa/second",
        "second",
    )
    assert "shop/first" not in near.enrolled()


def test_name_reused_by_a_pod_with_another_uid_is_another_workload(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, _ = cluster.nodes
    old = pods(near, "db")
    serial = near.ask("certificates")[0]["serial_number"]
    new = near.start_pod("shop/db", account="db")
    cluster.api.put(Kind.POD, new.json())  # a StatefulSet's: one object is replaced by another
    cluster.wait_enrolled(new)
    found = near.enrolled()["shop/db"]
    assert (found["pod_uid"], found["addresses"][0]) == (new.uid, new.ipv4)
    assert near.ask("certificates")[0]["serial_number"] != serial
    del old
    new.close()


def test_pod_that_is_taken_out_while_it_runs_takes_nothing_in_plaintext(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    """A forced deletion: the API shows another pod of that name, and the old one goes on for a while."""
    near, _ = cluster.nodes
    old = pods(near, "db")
    serve(old)
    new = near.start_pod("shop/db", account="db")
    cluster.api.put(Kind.POD, new.json())
    cluster.wait_enrolled(new)
    stranger = near.start_stranger("stranger")
    for address in (old.ipv4, old.ipv6):
        with pytest.raises(TimeoutError):
            stranger.connect((address, PORT), timeout=1.5)
    for pod in (new, stranger):
        pod.close()


def test_pod_whose_addresses_change_in_the_api_stays_in_the_mesh_with_its_connections(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server", wait=False)
    cluster.api.put(Kind.POD, server.json(addresses=(server.ipv4,)))
    cluster.wait_enrolled(server)
    serve(server)
    talker = talk(client, server)
    wait_until(lambda: far.facts_of(server)["connections"] == 1, "the connection is there")
    cluster.api.put(Kind.POD, server.json())  # its second address is shown later
    wait_until(lambda: server.ipv6 in far.enrolled()["shop/server"]["addresses"], "it has both addresses")
    assert ask(client, server.ipv6) == "answered"
    nowhere = str(far.slot.mesh_ipv4[240])
    cluster.api.put(Kind.POD, server.json(addresses=(nowhere,)))
    wait_until(lambda: nowhere in str(far.pods()["shop/server"]["reason"]), "that it has not that is told")
    stranger = far.start_stranger("stranger")
    assert ask(stranger, server.ipv4) != "answered"
    stranger.close()
    cluster.api.put(Kind.POD, server.json())
    wait_until(lambda: server.ipv4 in far.enrolled()["shop/server"]["addresses"], "it has them again")
    talker.stop()
    assert "error" not in talker.stdout


def test_changed_labels_change_what_policy_decides_of_open_connections_too(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server", labels={"app": "open"})
    serve(server)
    spec = {"selector": {"matchLabels": {"app": "closed"}}, "action": "DENY", "rules": [{}]}
    cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/closed", spec))
    try:
        wait_until(lambda: far.status()["policies"] == 1, "the policy is in force")
        mark = far.mark()
        talker = talk(client, server)
        wait_until(lambda: far.facts_of(server)["connections"] == 1, "the connection is there")
        cluster.api.put(Kind.POD, server.json(labels={"app": "closed"}))
        record = far.wait_for_record(lambda r: r["reason"], since=mark)
        assert (record["reason"], record["policy"]) == ("policy_denied", "AuthorizationPolicy shop/closed")
        talker.stop()
        assert ask(client, server.ipv4) != "answered"
        assert far.enrolled()["shop/server"]["labels"] == {"app": "closed"}
        cluster.api.put(Kind.POD, server.json(labels={"app": "open"}))
        wait_until(lambda: ask(client, server.ipv4) == "answered", "it is let in again")
    finally:
        cluster.api.delete(Kind.AUTHORIZATION_POLICY, "shop/closed")
        wait_until(lambda: far.status()["policies"] == 0, "the policy is gone")


def test_broken_policy_keeps_its_last_good_state_with_a_problem(cluster: Cluster) -> None:
    node = cluster.nodes[0]

    def effects() -> dict[str, str]:
        return {each["name"]: each["effect"] for each in node.ask("policies")["documents"]}

    deny = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["1"]}}]}]}
    cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", deny))
    try:
        wait_until(lambda: effects().keys() == {"p"}, "the policy is in force")
        before = effects()
        cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", {"action": "PERHAPS"}))
        wait_until(lambda: any("shop/p" in line for line in node.status()["problems"]), "the problem is told")
        assert effects() == before
        cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", deny))
        wait_until(lambda: not node.status()["problems"], "the problem is gone")
    finally:
        cluster.api.delete(Kind.AUTHORIZATION_POLICY, "shop/p")
        wait_until(lambda: node.status()["policies"] == 0, "the policy is gone")


def test_pods_that_cannot_be_in_the_mesh_are_shown_with_the_reason(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    node = cluster.nodes[0]
    host = api_objects.pod("shop/host", node.address, node=node.name, host_network=True)
    cluster.api.put(Kind.POD, host)
    cluster.api.put(Kind.POD, api_objects.pod("shop/fresh", node=node.name))
    liar = pods(node, "liar", wait=False)
    cluster.api.put(Kind.POD, liar.json(addresses=(str(node.slot.mesh_ipv4[250]),)))
    ghost = api_objects.pod(
        "shop/ghost", str(node.slot.mesh_ipv4[251]), node=node.name, uid=str(uuid.uuid4())
    )
    cluster.api.put(Kind.POD, ghost)
    expected = {
        "shop/host": ("outside", "it uses its node's network"),
        "shop/fresh": ("waiting", "it has no address yet"),
        "shop/liar": ("waiting", "has the address"),
        "shop/ghost": ("waiting", "no cgroup below"),
    }
    try:

        def are_shown() -> bool:
            shown = node.pods()
            return shown.keys() >= expected.keys() and all(
                shown[name]["state"] == state and reason in str(shown[name]["reason"])
                for name, (state, reason) in expected.items()
            )

        wait_until(are_shown, "all of them are shown")
        assert len(node.status()["problems"]) == 2
        scraped = (
            run(node.enter(["curl", "-s", f"127.0.0.1:{node.slot.metrics_port}/metrics"])).check().stdout
        )
        assert 'interceptor_pods{state="waiting"} 3.0' in scraped
        assert "interceptor_kubernetes_problems 2.0" in scraped
        assert not expected.keys() & node.enrolled().keys()
    finally:
        for name in ("shop/host", "shop/fresh", "shop/ghost"):
            cluster.api.delete(Kind.POD, name)


def test_pod_that_is_being_deleted_goes_on_until_it_is_gone(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server")
    serve(server)
    talker = talk(client, server)
    wait_until(lambda: far.facts_of(server)["connections"] == 1, "the connection is there")
    cluster.api.put(Kind.POD, server.json(deleting=True))
    wait_until(lambda: far.pods()["shop/server"]["state"] == "draining", "it drains")
    assert ask(client, server.ipv4) == "answered"
    talker.stop()
    assert "error" not in talker.stdout
    cluster.api.put(Kind.POD, server.json(phase="Succeeded"))
    wait_until(
        lambda: "shop/server is to end: it has ended" in far.log() or "shop/server" not in far.pods(),
        "it ends",
    )
    assert "shop/server" in far.enrolled()  # nothing reaches it in plaintext while anything of it runs
    server.kill()
    wait_until(lambda: "shop/server" not in far.enrolled(), "it is withdrawn")


def service_address(cluster: Cluster, number: int) -> str:
    """An address of the cluster's services: inside the mesh's CIDRs, and nobody's."""
    return str(cluster.fabric.slot.mesh_ipv4[number])


@pytest.fixture
def service(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Makes the service `shop/web`, with these endpoints, or changes them; returns its address."""
    address = service_address(cluster, 10)

    def put(*pods: Pod, unready: tuple[Pod, ...] = ()) -> str:
        ends = [
            api_objects.endpoint(
                pod.ipv4, pod.name, uid=pod.uid, node=pod.node.name, ready=pod not in unready
            )
            for pod in (*pods, *unready)
        ]
        ports = [{"name": "http", "port": PORT, "protocol": "TCP"}]
        cluster.api.put(Kind.SERVICE, api_objects.service("shop/web", address))
        cluster.api.put(
            Kind.ENDPOINT_SLICE, api_objects.endpoint_slice("shop/web-x", "web", *ends, ports=ports)
        )
        return address

    yield put
    cluster.api.delete(Kind.SERVICE, "shop/web")
    cluster.api.delete(Kind.ENDPOINT_SLICE, "shop/web-x")


def test_connection_to_a_service_goes_to_a_ready_pod_by_mutual_tls(
    cluster: Cluster, pods: Callable[..., Pod], service: Callable[..., str]
) -> None:
    near, far = cluster.nodes
    client, server, other = pods(near, "client"), pods(far, "server"), pods(far, "other")
    serve(server)
    address = service(server, unready=(other,))
    with encrypted(cluster):
        wait_until(lambda: ask(client, address, 80) == "answered", "the service is known")
        mark = near.mark()
        for _ in range(5):
            assert ask(client, address, 80) == "answered"
        record = near.wait_for_record(lambda r: r["direction"] == "outbound", since=mark)
    assert record["destination_address"] == f"{server.ipv4}:{PORT}"
    assert record["destination_identity"] == "spiffe://cluster.local/ns/shop/sa/server"
    assert "refused" in ask(client, address, 81)
    told = near.cli("explain", "shop/client", f"{address}:80").check().stdout
    assert f"{address}:80 is service shop/web" in told
    assert (
        "service shop/web, which has no such port"
        in near.cli("explain", "shop/client", f"{address}:81").stdout
    )


def test_connection_to_a_service_without_a_ready_pod_waits_for_one_and_is_refused_in_the_end(
    cluster: Cluster, pods: Callable[..., Pod], service: Callable[..., str]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server")
    serve(server)
    address = service(unready=(server,))
    wait_until(lambda: "refused" in ask(client, address, 80), "the service is known, and has nobody")
    mark = near.mark()
    asking = client.spawn(PYTHON, "-c", CLIENT, address, "80", MARKER)
    wait_until(lambda: near.facts_of(client)["connections"] == 1, "the connection waits")
    service(server)
    assert asking.wait() == 0
    assert asking.stdout.strip() == "answered"
    assert near.wait_for_record(lambda r: r["reason"] is None, since=mark)["destination_address"] == (
        f"{server.ipv4}:{PORT}"
    )


def test_services_and_pods_outside_of_the_mesh_are_reached_as_they_are(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    cluster.api.namespace("plain", {})
    client = pods(near, "client")
    outside = pods(far, "outside", namespace="plain", wait=False)
    behind = far.start_stranger("behind")  # what kube-proxy would find behind the service
    for pod in (outside, behind):
        serve(pod)
    cluster.api.put(Kind.SERVICE, api_objects.service("plain/web", behind.ipv4, ports=[{"port": PORT}]))
    try:
        with in_plaintext(cluster):
            wait_until(lambda: ask(client, behind.ipv4) == "answered", "the service is known")
        with in_plaintext(cluster):
            assert ask(client, outside.ipv4) == "answered"
        assert ask(client, service_address(cluster, 99)).startswith("refused")
    finally:
        cluster.api.delete(Kind.SERVICE, "plain/web")


def test_probe_of_the_kubelet_reaches_a_declared_port_and_nobody_else_does(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    _, node = cluster.nodes
    pod = pods(node, "probed", probed=(PORT,))
    serve(pod)
    pod.spawn(PYTHON, TALKER, "serve", "7001", ready_port=7001)
    probe = (PYTHON, "-c", CLIENT, pod.ipv4)
    wait_until(
        lambda: node.as_kubelet(*probe, str(PORT), MARKER).stdout.strip() == "answered", "it is probed"
    )
    assert node.as_kubelet(*probe, "7001", MARKER).stdout.startswith("refused")
    assert run(node.enter([*probe, str(PORT), MARKER])).stdout.startswith("refused")
    cluster.api.put(Kind.POD, pod.json(probed=()))
    wait_until(
        lambda: node.as_kubelet(*probe, str(PORT), MARKER).stdout.startswith("refused"),
        "it is probed no more",
    )


def test_right_that_is_missing_for_one_resource_is_told_and_the_rest_goes_on(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, _ = cluster.nodes

    def forbid(api: ApiServer) -> None:
        api.faults.refuse = {Kind.SERVICE: 403}
        api.cut_watches(Kind.SERVICE)

    cluster.api.do(forbid)
    try:
        wait_until(lambda: "RBAC" in str(near.status()["problems"]), "the refusal is noticed")
        (problem,) = near.status()["problems"]
        assert problem.startswith("services: the API server refused /api/v1/services with status 403")
        pods(near, "client")
    finally:
        cluster.api.do(lambda api: setattr(api.faults, "refuse", {}))
    wait_until(lambda: not near.status()["problems"], "all is well again", 40)


def test_node_that_the_authority_does_not_know_any_more_joins_again(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, _ = cluster.nodes
    cluster.authority.cli("node", "remove", near.name).check()
    pods(near, "client")
    assert "joining the authority again" in near.log()


def test_workloads_of_the_command_line_have_no_place_on_a_node_of_a_cluster(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    node = cluster.nodes[0]
    pods(node, "client")
    for command in (("run", "--service-account", "x", "--", "true"), ("withdraw", "shop/client")):
        result = node.cli(*command)
        assert result.status == 1
        assert "interceptor.io/mesh" in result.stderr


def test_api_that_is_away_stops_nothing_and_new_pods_wait_for_it(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server")
    serve(server)

    def go_away(api: ApiServer) -> None:
        api.faults.refuse = dict.fromkeys(Kind, 500)
        api.cut_watches()
        api.forget_changes()

    cluster.api.do(go_away)
    wait_until(lambda: len(near.status()["problems"]) == len(Kind), "the outage is noticed")
    with encrypted(cluster):
        assert ask(client, server.ipv4) == "answered"
    late = pods(near, "late", wait=False)
    near.kill()
    up = Program([*near.command(), "up"], near.files / "up", near.slot.journal)
    # It takes over what there is, and denies everything, since it knows of no policies.
    wait_until(lambda: is_served(client), "it is taken over")
    assert "shop/late" not in near.enrolled()
    assert ask(client, server.ipv4) != "answered"
    (waits,) = [line for line in near.status()["waiting_for"] if "authorization policies" in line]
    assert waits.startswith(
        "the Kubernetes API's authorization policies: the API server refused /apis/security"
    )
    cluster.api.do(lambda api: setattr(api.faults, "refuse", {}))
    assert up.wait(60) == 0
    near.slot.journal.add(near.agent_pid)
    cluster.wait_enrolled(late)
    for node in (near, far):
        wait_until(lambda node=node: not node.status()["problems"], f"{node.name} is well again", 40)
    with encrypted(cluster):
        assert ask(late, server.ipv4) == "answered"


def test_node_whose_agent_is_replaced_loses_no_connection_and_what_is_drained_is_judged_as_ever(
    cluster: Cluster, pods: Callable[..., Pod]
) -> None:
    """As in a rolling update with a surge: the next agent starts beside the one that serves, on one node and the other."""
    near, far = cluster.nodes
    client, server = pods(near, "client"), pods(far, "server", labels={"app": "open"}, probed=(PORT,))
    serve(server)
    spec = {"selector": {"matchLabels": {"app": "closed"}}, "action": "DENY", "rules": [{}]}
    cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/closed", spec))
    before = [node.agent_pid for node in cluster.nodes]
    try:
        with encrypted(cluster):
            mark = far.mark()
            talker = talk(client, server)
            visitor = client.spawn(PYTHON, TALKER, "short", server.ipv4, str(PORT), MARKER, "0.01")
            wait_until(lambda: far.facts_of(server)["connections"], "they talk")
            for node in cluster.nodes:
                node.cli("up", "--take-over").check()
                node.slot.journal.add(node.agent_pid)
            assert [each["pid"] for node in cluster.nodes for each in node.status()["draining"]] == before
            newcomer = pods(near, "newcomer")
            assert ask(newcomer, server.ipv4) == "answered"
            probe = (PYTHON, "-c", CLIENT, server.ipv4, str(PORT), MARKER)
            assert far.as_kubelet(*probe).stdout.strip() == "answered"
            visitor.stop()
            assert "error" not in visitor.stdout + talker.stdout
            assert json.loads(visitor.stdout.splitlines()[-1])["good"] > 50
        cluster.api.put(Kind.POD, server.json(labels={"app": "closed"}))
        record = far.wait_for_record(lambda r: r["reason"] and r["bytes_sent"], since=mark)
        assert (record["reason"], record["policy"]) == ("policy_denied", "AuthorizationPolicy shop/closed")
        talker.stop()
        # There is nothing left to do for them, but their pods would start them again.
        wait_until(lambda: far.status()["draining"][0]["connections"] == 0, "nothing is open there")
        assert is_alive(before[1])
        for pid in before:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: has_let_go(pid), f"agent {pid} has ended")  # type: ignore[misc]
    finally:
        cluster.api.delete(Kind.AUTHORIZATION_POLICY, "shop/closed")
    wait_until(lambda: ask(client, server.ipv4) == "answered", "it is let in again")
