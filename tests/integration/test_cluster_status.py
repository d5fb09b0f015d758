"""How pods stand, told where people look: conditions and Events in the API, `status --node`, readiness; and what is told
when the API, or a pod, is not as it should be."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.cluster.cluster import Kind
from tests.cluster import api_objects
from tests.harness.cluster import Cluster, cluster_of
from tests.harness.process import Program, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.cluster import ClusterNode, Pod
    from tests.kubernetes.api_server import ApiServer

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]
ENROLLED = "interceptor.io/Enrolled"


@pytest.fixture(scope="module")
def cluster(_swept: None) -> Iterator[Cluster]:
    with cluster_of(1) as cluster:
        cluster.api.namespace("shop")
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> ClusterNode:
    """The node, of which all is well before the test."""
    (node,) = cluster.nodes
    wait_well(node)
    return node


@pytest.fixture
def pods(cluster: Cluster, node: ClusterNode) -> Iterator[Callable[..., Pod]]:
    """Runs a pod of `shop` until it is enrolled, unless told otherwise; it is ended and forgotten after the test."""
    made: list[Pod] = []

    def start(name: str, *, wait: bool = True) -> Pod:
        pod = node.start_pod(f"shop/{name}", account=name)
        made.append(pod)
        cluster.api.put(Kind.POD, pod.json())
        if wait:
            cluster.wait_enrolled(pod)
        return pod

    yield start
    for pod in made:
        cluster.api.do(
            lambda api, pod=pod: api.objects[Kind.POD].get(pod.path) and api.delete(Kind.POD, pod.path)
        )
        pod.close()


def condition(cluster: Cluster, path: str) -> dict[str, Any]:
    """What the API has of how a pod stands, empty when it has nothing."""
    return cluster.api.do(lambda api: api.written.condition(Kind.POD, path, ENROLLED) or {})


def wait_told(cluster: Cluster, path: str, status: str, reason: str) -> dict[str, Any]:
    def is_told() -> bool:
        found = condition(cluster, path)
        return (found.get("status"), found.get("reason")) == (status, reason)

    try:
        wait_until(is_told, f"{path} is told as {reason}", 20)
    except TimeoutError as error:
        (node,) = cluster.nodes
        raise AssertionError(
            f"{error}: {condition(cluster, path)} {node.pods()}\n{node.log()[-3000:]}"
        ) from None
    return condition(cluster, path)


def events(cluster: Cluster, name: str) -> list[tuple[str, str]]:
    """Type and reason of each Event about a pod."""
    return cluster.api.do(
        lambda api: [(each["type"], each["reason"]) for each in api.written.events_of(name)]
    )


def patches(cluster: Cluster, path: str) -> int:
    """How often the condition of a pod was written."""
    space, _, name = path.partition("/")
    written = f"PATCH /api/v1/namespaces/{space}/pods/{name}/status"
    return cluster.api.do(lambda api: sum(what == written for what, _ in api.written.writes))


def readiness(node: ClusterNode) -> list[str]:
    """The status of GET /ready, and its lines."""
    url = f"http://127.0.0.1:{node.slot.metrics_port}/ready"
    answer = run(node.enter(["curl", "-s", "-w", "%{http_code}", url])).stdout
    text, status = answer[:-3], answer[-3:]
    return [status, *text.splitlines()]


def scraped(node: ClusterNode) -> str:
    url = f"http://127.0.0.1:{node.slot.metrics_port}/metrics"
    return run(node.enter(["curl", "-s", url])).check().stdout


@contextlib.contextmanager
def refused(cluster: Cluster, status: int, *kinds: Kind) -> Iterator[None]:
    """The API refuses to list these kinds with this status, as without the right or the definition."""

    def refuse(api: ApiServer) -> None:
        api.faults.refuse = dict.fromkeys(kinds, status)
        api.cut_watches(*kinds)

    cluster.api.do(refuse)
    try:
        yield
    finally:
        cluster.api.do(lambda api: setattr(api.faults, "refuse", {}))


def wait_well(node: ClusterNode) -> None:
    wait_until(lambda: not node.status()["problems"], "all is well again", 40)


def test_pod_that_is_enrolled_is_told_so_once_and_by_the_next_agent_not_again(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    pod = pods("web")
    told = wait_told(cluster, "shop/web", "True", "Enrolled")
    assert told["message"] == "in the mesh as spiffe://cluster.local/ns/shop/sa/web"
    wait_until(lambda: events(cluster, "web") == [("Normal", "Enrolled")], "its Event is there")
    (event,) = cluster.api.do(lambda api: api.written.events_of("web"))
    assert (event["reportingController"], event["reportingInstance"]) == ("interceptor.io/agent", node.name)
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "shop",
        "name": "web",
        "uid": pod.uid,
    }

    def row() -> dict[str, Any]:
        return next(each for each in node.ask("node")["pods"] if each["name"] == "web")

    wait_until(lambda: row()["is_told"], "the agent sees that it is told")
    assert row()["listeners"] == [15001, 15006, 15008]
    assert (row()["state"], row()["since"]) == ("enrolled", told["lastTransitionTime"])

    # An agent that died left something else; a new one finds that out, and says of the others nothing again.
    pods("other")
    wait_told(cluster, "shop/other", "True", "Enrolled")
    wait_until(lambda: events(cluster, "other"), "its Event is there")
    before = patches(cluster, "shop/other"), events(cluster, "other")
    node.kill()
    stale = {**condition(cluster, "shop/web"), "status": "False", "reason": "NoCertificate"}
    value = {**pod.json(), "status": {**pod.json()["status"], "conditions": [stale, {"type": "Ready"}]}}
    cluster.api.put(Kind.POD, value)
    node.up().check()
    wait_told(cluster, "shop/web", "True", "Enrolled")
    conditions = cluster.api.do(lambda api: api.objects[Kind.POD]["shop/web"]["status"]["conditions"])
    assert {"type": "Ready"} in conditions
    assert (patches(cluster, "shop/other"), events(cluster, "other")) == before


def test_pods_that_are_not_in_the_mesh_are_told_why(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    cluster.api.namespace("plain", {})
    cluster.authority.cli("revoke", "spiffe://cluster.local/ns/shop/sa/bad", "--why", "a test").check()
    pods("bad", wait=False)
    others = (
        api_objects.pod("shop/host", node.address, node=node.name, host_network=True),
        api_objects.pod("shop/fresh", node=node.name),
        api_objects.pod("shop/ghost", str(node.slot.mesh_ipv4[251]), node=node.name),
        api_objects.pod("shop/excepted", node=node.name, labels={"interceptor.io/mesh": "none"}),
        api_objects.pod("plain/nobody", str(node.slot.mesh_ipv4[252]), node=node.name),
    )
    for other in others:
        cluster.api.put(Kind.POD, other)
    try:
        wait_told(cluster, "shop/host", "False", "HostNetwork")
        wait_told(cluster, "shop/fresh", "False", "NoAddress")
        assert "no cgroup" in wait_told(cluster, "shop/ghost", "False", "EnrolmentFailed")["message"]
        wait_told(cluster, "shop/excepted", "False", "PodExcepted")
        bad = wait_told(cluster, "shop/bad", "False", "RefusedByAuthority")
        assert "identity_revoked" in bad["message"]
        assert condition(cluster, "plain/nobody") == {}
        for name in ("host", "fresh", "ghost", "bad"):
            wait_until(
                lambda name=name: events(cluster, name) == [("Warning", "NotEnrolled")], f"{name}: an Event"
            )
        assert events(cluster, "excepted") == [("Normal", "NotEnrolled")]
        assert events(cluster, "nobody") == []
        table = node.cli("status", "--node")
        assert table.status == 1
        (line,) = [each for each in table.stdout.splitlines() if each.startswith("shop/bad ")]
        assert line.split()[2:4] == ["degraded", "RefusedByAuthority"]
        assert f"shop/bad: {bad['message']}" in table.stdout.splitlines()
        assert readiness(node)[0] == "200"  # what is one pod's is not the node's
        shown = scraped(node)
        for name, account, reason in (
            ("bad", "bad", "RefusedByAuthority"),
            ("fresh", "default", "NoAddress"),
        ):
            labels = f'namespace="shop",pod="{name}",reason="{reason}",service_account="{account}"'
            assert f"interceptor_pod_enrolled{{{labels}}} 0.0" in shown
        assert 'pod="excepted"' not in shown
    finally:
        for other in others:
            metadata = other["metadata"]
            cluster.api.delete(Kind.POD, f"{metadata['namespace']}/{metadata['name']}")


def test_rights_to_tell_that_are_missing_keep_nothing_from_being_enrolled(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    def forbid(api: ApiServer) -> None:
        api.forbids = lambda method, path, _: (
            f"cannot {method} {path}" if path.endswith(("/status", "/events")) else None
        )

    cluster.api.do(forbid)
    try:
        pods("quiet")

        def is_told() -> bool:
            problems = node.status()["problems"]
            return [each.partition(": ")[0] for each in problems] == [
                "conditions of pods are not written",
                "Events are not written",
            ]

        wait_until(is_told, "both are told")
        assert all("(RBAC)" in each for each in node.status()["problems"])
        status, *lines = readiness(node)
        assert (status, lines[0]) == ("200", "ready")
        assert sum(line.startswith("warning: ") for line in lines) == 2
        assert condition(cluster, "shop/quiet") == {}
    finally:
        cluster.api.do(lambda api: setattr(api, "forbids", lambda *_: None))
    wait_told(cluster, "shop/quiet", "True", "Enrolled")
    wait_until(lambda: events(cluster, "quiet") == [("Normal", "Enrolled")], "its Event is there")
    wait_well(node)


def test_node_whose_own_account_is_deleted_goes_on_and_says_so(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    pods("web")
    before = cluster.api.do(lambda api: api.token)

    def delete_account(api: ApiServer) -> None:
        api.token = "of somebody else"
        api.cut_watches()

    cluster.api.do(delete_account)
    try:

        def is_refused() -> bool:
            found = [each for each in node.status()["problems"] if "the token is not accepted" in each]
            return len(found) >= len(Kind)  # and what is told of the pod, perhaps

        wait_until(is_refused, "the API does not know the agent")
        assert node.enrolled()["shop/web"]["state"] == "ready"
    finally:
        cluster.api.do(lambda api: setattr(api, "token", before))
    wait_well(node)


def test_object_with_absurd_labels_is_named_and_the_others_are_as_they_were(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    pod = pods("web")
    absurd = api_objects.pod("shop/absurd", node=node.name, labels={"app": "x" * 10_000})
    cluster.api.put(Kind.POD, absurd)
    cluster.api.put(Kind.POD, pod.json(labels={"y" * 10_000: "x"}))
    try:
        wait_until(lambda: len(node.status()["problems"]) == 2, "both are named")
        assert [each.partition(": ")[0] for each in node.status()["problems"]] == [
            "pod shop/absurd",
            "pod shop/web",
        ]
        assert all(len(each) < 400 for each in node.status()["problems"])
        assert node.enrolled()["shop/web"]["state"] == "ready"  # as it was when it could be read
        pods("after")
    finally:
        cluster.api.delete(Kind.POD, "shop/absurd")
        cluster.api.put(Kind.POD, pod.json())
    wait_well(node)


def test_clock_that_differs_from_the_servers_is_told(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    def compared() -> list[str]:
        return [each for each in node.status()["problems"] if each.startswith("this node's clock shows")]

    cluster.api.do(lambda api: setattr(api, "skew_seconds", 3600.0))
    try:
        pods("early")  # the answer to what is told of it has a date
        wait_until(compared, "the clocks are compared")
        (problem,) = compared()
        assert time.strftime("%Y-%m-%dT", time.gmtime(time.time() + 3600)) in problem
        assert any(line.startswith("warning: this node's clock shows") for line in readiness(node))
    finally:
        cluster.api.do(lambda api: setattr(api, "skew_seconds", 0.0))
    pods("late")
    wait_until(lambda: not compared(), "the clocks agree again")


def test_node_without_the_definitions_of_policies_says_what_it_waits_for(
    cluster: Cluster, node: ClusterNode, pods: Callable[..., Pod]
) -> None:
    pods("web")
    node.kill()
    with refused(cluster, 404, Kind.PEER_AUTHENTICATION, Kind.AUTHORIZATION_POLICY, Kind.SERVICE):
        up = Program([*node.command(), "up"], node.files / "up", node.slot.journal)
        missing = "with status 404"

        def is_told() -> bool:
            return str(readiness(node)).count(missing) >= 3

        wait_until(is_told, "it says what it waits for", 30)
        status, *lines = readiness(node)
        assert status == "503"
        for what, path in (
            ("peer authentications", "/apis/security.istio.io/v1/peerauthentications"),
            ("authorization policies", "/apis/security.istio.io/v1/authorizationpolicies"),
        ):
            (line,) = [each for each in lines if each.startswith(f"the Kubernetes API's {what}: ")]
            assert f"refused {path} with status 404" in line
            assert "lacks a resource definition" in line
        assert any(each.startswith("warning: waiting for the Kubernetes API's services: ") for each in lines)
    assert up.wait(60) == 0
    node.slot.journal.add(node.agent_pid)
    wait_well(node)
    assert readiness(node) == ["200", "ready"]
