"""An EgressPolicy holds wherever its workloads connect to, also outside of the mesh; nobody else notices anything."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.node import running_node
from tests.harness.process import wait_until
from tests.harness.tcp import FAMILIES, connected, endpoint, family_id, receive_exactly
from tests.policy.world import egress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node, Record

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(90)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"what leaves the mesh"
SELECT = "{matchLabels: {app: client}}"
NOTHING = egress("nothing", selector=SELECT, allow="[]")


@pytest.fixture(scope="module")
def node(_swept: None) -> Iterator[Node]:
    with running_node() as node:
        yield node


@pytest.fixture(scope="module")
def client(node: Node) -> Workload:
    workload = node.workload("client", namespace="shop", labels={"app": "client"})
    node.reach(workload)
    return workload


@pytest.fixture(scope="module")
def bystander(node: Node) -> Workload:
    """Of the same namespace, and selected by no policy."""
    workload = node.workload("bystander", namespace="shop")
    node.reach(workload)
    return workload


@pytest.fixture(scope="module")
def outsider(node: Node, client: Workload, bystander: Workload) -> Namespace:
    """A server outside of the mesh's CIDRs, which both reach."""
    del client, bystander
    return node.plain_namespace("outsider", inside=False)


@pytest.fixture(autouse=True)
def _no_policies(node: Node) -> Iterator[None]:
    yield
    for path in node.policies_dir.glob("*"):
        path.unlink()
    in_force(node, 0)


def in_force(node: Node, documents: int) -> dict[str, Any]:
    """The policies, once there are so many and nothing is wrong with them."""

    def is_so() -> bool:
        found = node.ask("policies")
        return len(found["documents"]) == documents and found["state"] == "ready"

    wait_until(is_so, f"{documents} policies are in force")
    found: dict[str, Any] = node.ask("policies")
    return found


def apply(node: Node, text: str) -> None:
    """Put one file in force; when this returns it is."""
    file = node.files / "egress.yaml"
    file.write_text(text)
    node.cli("policy", "apply", file).check()


def allowing(family: int, server: Namespace, port: int) -> str:
    cidr = f"{server.address(family)}/{32 if family == socket.AF_INET else 128}"
    return egress("some", selector=SELECT, allow=f"[{{cidrs: ['{cidr}'], ports: ['{port}']}}]")


def is_dead(sock: socket.socket) -> bool:
    """Whether nothing gets through any more, either way."""
    try:
        sock.sendall(MARKER)
        return sock.recv(1) == b""
    except (ConnectionError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)


def refused(node: Node, client: Namespace, server: Namespace, family: int, port: int = 0) -> Record:
    """A connection out of the mesh that is reset before the server sees it; the record that says why."""
    since = node.mark()
    with server.listen(family, port) as listener, client.open_socket(family) as near:
        with contextlib.suppress(ConnectionResetError):
            near.connect(listener.getsockname()[:2])
            assert is_dead(near)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        where = endpoint(listener)
    return node.wait_for_record(lambda record: record["destination_address"] == where, since=since)


def passes_untouched(node: Node, client: Namespace, server: Namespace, family: int) -> None:
    since = node.mark()
    with connected(client, server, family) as (near, far):
        assert far.getpeername()[:2] == near.getsockname()[:2]
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
    assert node.records(since) == []


@each_family
def test_destination_outside_is_refused_by_an_empty_allow_list_and_untouched_without_it(
    node: Node, client: Workload, bystander: Workload, outsider: Namespace, family: int
) -> None:
    passes_untouched(node, client, outsider, family)
    apply(node, NOTHING)
    record = refused(node, client, outsider, family)
    assert (record["direction"], record["verdict"], record["reason"]) == (
        "outbound",
        "denial",
        "egress_denied",
    )
    assert record["policy"] == "EgressPolicy shop/nothing"
    assert record["source_workload"] == "client"
    passes_untouched(node, bystander, outsider, family)
    (node.policies_dir / "egress.yaml").unlink()
    in_force(node, 0)
    wait_until(lambda: not is_captured(node, outsider, family), "nothing outside is captured any more")
    passes_untouched(node, client, outsider, family)


def is_captured(node: Node, server: Namespace, family: int) -> bool:
    answer = explained(node, server, family, 80)
    return bool(answer["verdict"] != "untouched")


def explained(node: Node, server: Namespace, family: int, port: int) -> dict[str, Any]:
    address = server.address(family)
    host = address if family == socket.AF_INET else f"[{address}]"
    answer: dict[str, Any] = node.ask("explain", source="shop/client", destination=f"{host}:{port}")
    return answer


@each_family
def test_destination_on_the_allow_list_is_reached_as_by_the_workload_itself(
    node: Node, client: Workload, outsider: Namespace, family: int
) -> None:
    apply(node, allowing(family, outsider, 7000))
    since = node.mark()
    with connected(client, outsider, family, port=7000) as (near, far):
        assert far.getpeername()[0] == near.getsockname()[0] == client.address(family)
        assert near.getpeername()[:2] == far.getsockname()[:2]
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
        far.sendall(MARKER * 2)
        assert receive_exactly(near, 2 * len(MARKER)) == MARKER * 2
        listed = node.ask("connections", limit=1)
        assert [(each["policy"], each["state"]) for each in listed] == [("EgressPolicy shop/some", "open")]
        source = endpoint(near)
    record = node.wait_for_record(lambda record: record["direction"] == "outbound", since=since)
    assert (record["verdict"], record["connection_security_policy"]) == ("permit", "none")
    assert (record["policy"], record["source_address"]) == ("EgressPolicy shop/some", source)
    assert (record["bytes_sent"], record["bytes_received"]) == (len(MARKER), 2 * len(MARKER))
    assert refused(node, client, outsider, family, 7001)["reason"] == "egress_denied"
    answer = explained(node, outsider, family, 7000)
    assert (answer["verdict"], answer["transport"]) == ("permit", "none")
    assert explained(node, outsider, family, 7001)["reason"] == "egress_denied"


def test_plaintext_to_a_network_outside_is_refused_by_name(
    node: Node, client: Workload, outsider: Namespace
) -> None:
    apply(node, egress("plain", selector=SELECT, refusePlaintextTo="[0.0.0.0/0]"))
    record = refused(node, client, outsider, socket.AF_INET)
    assert (record["reason"], record["policy"]) == ("plaintext_egress_refused", "EgressPolicy shop/plain")
    with connected(client, outsider, socket.AF_INET6) as (near, far):
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER


@each_family
def test_connection_that_was_open_is_closed_when_the_policy_comes_and_the_record_names_it(
    node: Node, client: Workload, bystander: Workload, outsider: Namespace, family: int
) -> None:
    with (
        connected(client, outsider, family, port=7010) as (direct, _),
        connected(bystander, outsider, family, port=7013) as (other, other_far),
        connected(outsider, outsider, family) as (theirs, theirs_far),
    ):
        since = node.mark()
        apply(node, allowing(family, outsider, 7011))
        assert is_dead(direct)
        record = node.wait_for_record(lambda record: record["reason"] == "egress_denied", since=since)
        assert (record["policy"], record["destination_address"]) == (
            "EgressPolicy shop/some",
            f"{endpoint_of(outsider, family)}:7010",
        )
        assert "past the proxy" in record["detail"]
        assert record["connection_security_policy"] == "none"
        assert (record["closed_by"], record["close_kind"]) == ("interceptor", "reset")
        for near, far in ((other, other_far), (theirs, theirs_far)):
            near.sendall(MARKER)
            assert receive_exactly(far, len(MARKER)) == MARKER
        with connected(client, outsider, family, port=7011) as (proxied, _):
            apply(node, NOTHING.replace("nothing", "some"))
            assert is_dead(proxied)
            late = node.wait_for_record(
                lambda record: record["destination_address"].endswith(":7011"), since=since
            )
            assert (late["reason"], late["policy"]) == ("egress_denied", "EgressPolicy shop/some")
            assert "past the proxy" not in late["detail"]


def endpoint_of(server: Namespace, family: int) -> str:
    address = server.address(family)
    return address if family == socket.AF_INET else f"[{address}]"


def test_connection_that_is_allowed_or_arrived_survives_the_policy(
    node: Node, client: Workload, bystander: Workload, outsider: Namespace
) -> None:
    with (
        connected(client, outsider, port=7020) as (allowed, allowed_far),
        connected(bystander, client) as (inside, inside_far),
    ):
        apply(node, allowing(socket.AF_INET, outsider, 7020))
        for near, far in ((allowed, allowed_far), (inside, inside_far)):
            near.sendall(MARKER)
            assert receive_exactly(far, len(MARKER)) == MARKER


def test_none_of_a_hundred_connections_slips_through_while_the_policy_changes(
    node: Node, client: Workload, outsider: Namespace
) -> None:
    opened: list[socket.socket] = []
    stop = threading.Event()

    def connect_for_ever(where: tuple[str, int]) -> None:
        while not stop.wait(0.01) and len(opened) < 1000:  # which the listener takes without accepting any
            sock = client.open_socket()
            with contextlib.suppress(OSError):
                sock.connect(where)
            opened.append(sock)

    with outsider.listen() as listener:
        connecting = threading.Thread(target=connect_for_ever, args=(listener.getsockname()[:2],))
        connecting.start()
        try:
            wait_until(lambda: len(opened) > 50, "connections are being made")
            apply(node, NOTHING)
            confirmed = len(opened)
            wait_until(lambda: len(opened) > confirmed + 50, "connections are tried after the change")
        finally:
            stop.set()
            connecting.join()
        alive = [number for number, sock in enumerate(opened) if not is_dead(sock)]
        for sock in opened:
            sock.close()
    assert (len(opened) > 100, alive) == (True, [])


def test_udp_passes_and_is_told_to(node: Node, client: Workload, outsider: Namespace) -> None:
    apply(node, NOTHING)
    with (
        outsider.open_socket(kind=socket.SOCK_DGRAM) as server,
        client.open_socket(kind=socket.SOCK_DGRAM) as near,
    ):
        server.bind((outsider.address(socket.AF_INET), 53))
        near.sendto(MARKER, server.getsockname())
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
        assert near.recv(100) == MARKER
    found = in_force(node, 1)
    assert any("holds for TCP only" in warning for warning in found["warnings"])
    assert found["documents"][0]["effect"] == "TCP: allow 0"


def test_simulate_names_what_is_open_outside_and_would_be_closed(
    node: Node, client: Workload, outsider: Namespace
) -> None:
    file = node.files / "candidate.yaml"
    file.write_text(NOTHING)
    with connected(client, outsider, port=7030):
        found = node.ask("policy_simulate", files=[str(file)])
    change = next(each for each in found["changes"] if each["destination"].endswith(":7030"))
    assert (change["before"], change["after"], change["open"]) == ("none", "egress_denied", 1)
    assert change["policy"] == "EgressPolicy shop/nothing"


def test_workload_stays_captured_while_the_agent_is_away_and_is_refused_by_the_next_one(
    node: Node, client: Workload, bystander: Workload, outsider: Namespace
) -> None:
    apply(node, NOTHING)
    node.kill(signal.SIGKILL)
    with outsider.listen(port=7040) as listener:
        where = listener.getsockname()[:2]
        with pytest.raises(ConnectionRefusedError):
            client.connect(where)
        bystander.connect(where).close()
        node.up().check()
    assert refused(node, client, outsider, socket.AF_INET)["policy"] == "EgressPolicy shop/nothing"
    passes_untouched(node, bystander, outsider, socket.AF_INET)


def test_withdrawn_workload_is_free_again(node: Node, outsider: Namespace) -> None:
    apply(node, egress("nothing", allow="[]"))
    plain = node.plain_namespace("freed")
    node.reach(plain)
    enrolled = node.enrolled_namespace("freed", namespace="shop", existing=plain)
    with connected(outsider, outsider):
        assert refused(node, enrolled, outsider, socket.AF_INET)["policy"] == "EgressPolicy shop/nothing"
    node.ask("withdraw", name="shop/freed")
    passes_untouched(node, plain, outsider, socket.AF_INET)
