"""A change of policy closes what is no longer permitted, with its reason and policy, and nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import AddressCheck, PolicySet
from interceptor.policy.verdict import Reason
from interceptor.proxy import application
from interceptor.proxy.redecide import BATCH, redecide
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, Endpoint
from tests.policy.world import authorization, peer_authentication
from tests.proxy.mesh import Mesh, echo, is_reset, serve_application

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator


def policies(text: str, mode: MtlsMode = MtlsMode.STRICT) -> PolicySet:
    documents = parse_policies([("p.yaml", text)], MeshNames())
    return PolicySet(mode, documents, address_check=AddressCheck.FLAG)


async def echo_until_reset(stream: trio.SocketStream) -> None:
    """An application that expects to be cut off."""
    with suppress(trio.BrokenResourceError):
        await echo(stream)


@asynccontextmanager
async def connected(mesh: Mesh, nursery: trio.Nursery) -> AsyncIterator[trio.SocketStream]:
    """A connection through both proxies that has carried something."""
    mesh.aim = await serve_application(nursery, echo_until_reset)
    async with await mesh.connect() as client:
        await client.send_all(b"x")
        with trio.fail_after(10):
            assert await client.receive_some(1) == b"x"
        yield client


async def test_connection_that_is_denied_now_is_reset_on_both_sides(
    running: Mesh, nursery: trio.Nursery
) -> None:
    async with connected(running, nursery) as client:
        running.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
        assert await redecide(running.source.context) == 0  # what is inbound is the other side's to decide
        assert await redecide(running.destination.context) == 1
        assert await is_reset(client)
    source, destination = await running.records()
    assert (destination.verdict, destination.reason) == ("denial", Reason.POLICY_DENIED)
    assert destination.policy == "AuthorizationPolicy default/cut"
    assert (destination.closed_by, destination.close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert source.reason is None


async def test_source_side_closes_what_may_not_leave(running: Mesh, nursery: trio.Nursery) -> None:
    text = (
        "apiVersion: policy.interceptor.io/v1\nkind: EgressPolicy\n"
        "metadata: {name: none, namespace: default}\nspec: {allow: []}\n"
    )
    async with connected(running, nursery) as client:
        running.policy.replace(policies(text))
        assert await redecide(running.source.context) == 1
        assert await is_reset(client)
    source, _ = await running.records()
    assert (source.reason, source.policy) == (Reason.EGRESS_DENIED, "EgressPolicy default/none")


async def test_connection_that_is_permitted_goes_on_through_many_changes(
    running: Mesh, nursery: trio.Nursery
) -> None:
    async with connected(running, nursery) as client:
        for number in range(100):
            running.policy.replace(policies(authorization(f"n{number}", "default", rules="[{}]")))
            assert await redecide(running.source.context) == 0
            assert await redecide(running.destination.context) == 0
        await client.send_all(b"y")
        with trio.fail_after(10):
            assert await client.receive_some(1) == b"y"


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("", ""),
        (
            peer_authentication("strict", "default", mtls="{mode: STRICT}"),
            "PeerAuthentication default/strict",
        ),
    ],
)
async def test_plaintext_ends_when_encryption_is_demanded(
    running: Mesh, nursery: trio.Nursery, text: str, by: str
) -> None:
    running.policy.replace(policies("", MtlsMode.DISABLE))
    async with connected(running, nursery) as client:
        running.policy.replace(policies(text, MtlsMode.PERMISSIVE))
        assert await redecide(running.source.context) == 1
        assert await is_reset(client)
    source = await running.source.recorder.only_record()
    assert (source.reason, source.policy) == (Reason.PLAINTEXT_REFUSED, by)


async def test_connection_that_is_not_decided_yet_is_left_to_its_first_decision(mesh: Mesh) -> None:
    mesh.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
    live = mesh.destination.context.live
    endpoint = Endpoint.parse("127.0.0.1:1")
    undecided = ConnectionRecord(Direction.INBOUND, "1", "2", endpoint, endpoint, 0.0, 0.0)
    with live.track(undecided):
        assert await redecide(mesh.destination.context) == 0


async def test_connection_that_was_permitted_and_is_not_carried_yet_is_asked_again_too(
    running: Mesh, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the permit and the connection to the application there is time for a policy to change."""
    served: list[trio.SocketStream] = []
    gate, waiting = trio.Event(), trio.Event()
    connect = application.connect

    async def slow_connect(*arguments: Any) -> socket.socket:
        waiting.set()
        await gate.wait()
        return await connect(*arguments)

    async def serve(stream: trio.SocketStream) -> None:
        served.append(stream)

    monkeypatch.setattr(application, "connect", slow_connect)
    running.aim = await serve_application(nursery, serve)
    async with await running.connect() as client:
        with trio.fail_after(10):
            await waiting.wait()
        running.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
        assert await redecide(running.destination.context) == 1
        gate.set()
        assert await is_reset(client)
    source, record = await running.records()
    assert (record.reason, record.policy) == (Reason.POLICY_DENIED, "AuthorizationPolicy default/cut")
    assert (source.reason, source.policy) == (Reason.DENIED_BY_PEER, "")
    assert served == []


async def test_connections_in_every_stage_are_decided_by_the_new_policy(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    attempts, served = 60, []

    async def attempt(number: int) -> None:
        for _ in range(5 * number):
            await trio.lowlevel.checkpoint()  # each begins a little later than the one before
        with suppress(trio.BrokenResourceError):
            async with await running.connect() as client:
                await client.send_all(b"x")
                if await client.receive_some(1) == b"x":
                    served.append(number)
                await client.receive_some(1)

    with trio.fail_after(15):
        async with trio.open_nursery() as clients:
            for number in range(attempts):
                clients.start_soon(attempt, number)
            while len(served) < 5:
                await trio.lowlevel.checkpoint()
            running.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
            for side in (running.source, running.destination):
                await redecide(side.context)
    records = await running.destination.recorder.wait_closed(attempts)
    assert {record.reason for record in records} == {Reason.POLICY_DENIED}
    assert 5 <= len(served) < attempts


async def test_many_connections_are_asked_in_batches(mesh: Mesh, nursery: trio.Nursery) -> None:
    context = mesh.destination.context
    endpoint = Endpoint.parse("127.0.0.1:1")

    async def hold(number: int) -> None:
        record = ConnectionRecord(Direction.INBOUND, str(number), "t", endpoint, endpoint, 0.0, 0.0)
        record.verdict = "permit"
        with context.live.track(record):
            await trio.sleep_forever()

    for number in range(2 * BATCH + 1):
        nursery.start_soon(hold, number)
    await trio.testing.wait_all_tasks_blocked()
    assert await redecide(context) == 2 * BATCH + 1  # plaintext in STRICT mode
    assert len(await mesh.destination.recorder.wait_closed(2 * BATCH + 1)) == 2 * BATCH + 1
