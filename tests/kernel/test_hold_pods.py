"""Pods whose first deed is to connect: in the mesh never in plaintext, outside of it never lost, and soon."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.workload import Endpoint
from tests.harness.pods import BRIDGE, HOST, SERVER_PORT, PodNode, pod_node
from tests.harness.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.netns import NetworkNamespace
    from tests.harness.pods import Pod

    Start = Callable[[str, int], list[Pod]]

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(40)]

MARKER = b"secret-of-a-pod"
PODS = 100
SERVED_SECONDS = 2.0
DOWN_SECONDS = 1.5


@pytest.fixture
def node(make_namespace: Callable[[str], NetworkNamespace]) -> Iterator[PodNode]:
    with pod_node(make_namespace) as node:
        yield node


@pytest.fixture
def server(node: PodNode) -> Iterator[None]:
    """Answers every connection to the host."""
    with contextlib.ExitStack() as stack:
        for family, address in HOST.items():
            listener = stack.enter_context(node.host.open_socket(family, socket.SOCK_STREAM))
            listener.bind((address, SERVER_PORT))
            listener.listen(200)
            listener.setblocking(True)
            thread = threading.Thread(target=_serve, args=(listener,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
        yield


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"server, for " + accepted.recv(100))


PROXYS = {f"proxy, for {Endpoint(ip_address(address), SERVER_PORT)}" for address in HOST.values()}


@pytest.fixture
def start(
    node: PodNode, make_namespace: Callable[[str], NetworkNamespace]
) -> Callable[[str, int], list[Pod]]:
    """Starts pods of a kind, one after the other."""
    numbers = itertools.count()

    def start(kind: str, count: int) -> list[Pod]:
        return [node.start_pod(kind, make_namespace(f"p{next(numbers)}"), MARKER) for _ in range(count)]

    return start


def test_pods_that_connect_at_once_are_never_in_plaintext_and_soon_served(
    node: PodNode, server: None, programs: Programs, start: Start
) -> None:
    node.start_agent(programs)
    with Wire([BRIDGE], MARKER, "nothing", netns=node.host):
        results = [pod.result() for _ in range(4) for pod in start("in", PODS // 4)]
    assert {result.answer for result in results} == PROXYS
    assert max(result.seconds for result in results) < SERVED_SECONDS


def test_pods_outside_that_connect_at_once_reach_the_server_and_soon(
    node: PodNode, server: None, programs: Programs, start: Start
) -> None:
    node.start_agent(programs)
    with Wire([BRIDGE], MARKER, "plaintext", netns=node.host):
        results = [pod.result() for pod in start("out", 10)]
    assert {result.answer for result in results} == {f"server, for {MARKER.decode()}"}
    assert max(result.seconds for result in results) < SERVED_SECONDS


def test_pods_that_start_while_the_agent_is_dead_wait_for_the_next_one(
    node: PodNode, server: None, programs: Programs, next_programs: Programs, start: Start
) -> None:
    node.start_agent(programs)
    node.kill_agent()
    with Wire([BRIDGE], MARKER, "nothing", netns=node.host):
        pods = start("in", 6)
        begun = time.monotonic()
        assert not select.select(pods, [], [], DOWN_SECONDS)[0]
        node.start_agent(next_programs)
        up = time.monotonic()
        results = [pod.result() for pod in pods]
        assert time.monotonic() - up < SERVED_SECONDS
    assert {result.answer for result in results} == PROXYS
    assert min(result.seconds for result in results) > up - begun


def test_pods_outside_that_start_while_the_agent_is_dead_wait_for_the_next_one(
    node: PodNode, server: None, programs: Programs, next_programs: Programs, start: Start
) -> None:
    node.start_agent(programs)
    node.kill_agent()
    pods = start("out", 4)
    assert not select.select(pods, [], [], DOWN_SECONDS)[0]
    node.start_agent(next_programs)
    up = time.monotonic()
    assert {pod.result().answer for pod in pods} == {f"server, for {MARKER.decode()}"}
    assert time.monotonic() - up < SERVED_SECONDS
