"""A change of policy closes what is no longer permitted, with its reason and policy, and nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from interceptor.policy.parse import parse_policies
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import AddressCheck, PolicySet
from interceptor.policy.verdict import Reason
from interceptor.proxy.redecide import BATCH, redecide
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, Endpoint
from tests.policy.world import authorization
from tests.proxy.mesh import Mesh, echo, is_reset, serve_application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def policies(text: str, mode: MtlsMode = MtlsMode.STRICT) -> PolicySet:
    documents = parse_policies([("p.yaml", text)], "istio-system")
    return PolicySet(mode, documents, address_check=AddressCheck.FLAG)


@asynccontextmanager
async def connected(mesh: Mesh, nursery: trio.Nursery) -> AsyncIterator[trio.SocketStream]:
    """A connection through both proxies that has carried something."""

    async def application(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # it is reset in the end
            await echo(stream)

    mesh.aim = await serve_application(nursery, application)
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


async def test_plaintext_ends_when_encryption_is_demanded(running: Mesh, nursery: trio.Nursery) -> None:
    running.policy.replace(policies("", MtlsMode.DISABLE))
    async with connected(running, nursery) as client:
        running.policy.replace(policies("", MtlsMode.PERMISSIVE))
        assert await redecide(running.source.context) == 1
        assert await is_reset(client)
    source = await running.source.recorder.only_record()
    assert source.reason is Reason.PLAINTEXT_REFUSED


async def test_connection_that_is_not_decided_yet_is_left_to_its_first_decision(mesh: Mesh) -> None:
    mesh.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
    live = mesh.destination.context.live
    endpoint = Endpoint.parse("127.0.0.1:1")
    undecided = ConnectionRecord(Direction.INBOUND, "1", "2", endpoint, endpoint, 0.0, 0.0)
    with live.track(undecided):
        assert await redecide(mesh.destination.context) == 0


async def test_no_connection_slips_between_a_change_and_being_asked_again(
    running: Mesh, nursery: trio.Nursery
) -> None:
    """Connections in every stage of being made while the policy changes: none of them is open afterwards."""

    async def application(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await echo(stream)

    running.aim = await serve_application(nursery, application)
    attempts = 60
    served = 0

    async def attempt(number: int) -> None:
        nonlocal served
        for _ in range(number):
            await trio.lowlevel.checkpoint()  # each begins a little later than the one before
        with suppress(trio.BrokenResourceError):
            async with await running.connect() as client:
                await client.send_all(b"x")
                served += await client.receive_some(1) == b"x"
                await client.receive_some(1)

    async with trio.open_nursery() as clients:
        for number in range(attempts):
            clients.start_soon(attempt, 5 * number)
        with trio.fail_after(10):
            while served < 5:
                await trio.lowlevel.checkpoint()
        running.policy.replace(policies(authorization("cut", "default", "DENY", rules="[{}]")))
        for side in (running.source, running.destination):
            await redecide(side.context)
    records = await running.destination.recorder.wait_closed(attempts)
    assert {record.reason for record in records} <= {Reason.POLICY_DENIED, Reason.HANDSHAKE_FAILED}
    assert sum(record.bytes_sent > 0 for record in records) < attempts
    assert len(running.destination.context.live) == 0


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
