"""An identity counts only from an address that it has; news of who has which may be late."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.enrolment.registry import Registry
from interceptor.identity.authority import Authority
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Denial, Reason
from interceptor.proxy.redecide import denial_now
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import tls_contexts
from interceptor.workload import Workload, WorkloadKey
from tests.proxy import certificates
from tests.proxy.certificates import Proof, svid, tls_context
from tests.proxy.mesh import DEADLINE_SECONDS, DESTINATION_ADDRESS, Mesh, echo, serve_application
from tests.proxy.peers import receive_some, request, send, tunnel_client

if TYPE_CHECKING:
    from OpenSSL import SSL

    from interceptor.telemetry.connection_record import ConnectionRecord

PEER = Workload(WorkloadKey("default", "a"), certificates.identity("a"), (DESTINATION_ADDRESS,), "elsewhere")
NOBODY = Registry.empty()
KNOWN = NOBODY.with_remote([PEER])


@pytest.fixture
def inbound(mesh: Mesh, nursery: trio.Nursery) -> Mesh:
    """A destination that refuses mismatches, in a mesh of which it knows nobody; the test plays the source."""
    mesh.policy.replace(PolicySet(MtlsMode.STRICT))
    mesh.registry.replace(NOBODY)
    mesh.destination.limit(unknown_destination_wait=DEADLINE_SECONDS)
    mesh.destination.start(nursery)
    return mesh


async def ask(mesh: Mesh, nursery: trio.Nursery, context: SSL.Context | None = None) -> ConnectionRecord:
    """What the record says of a peer that asks for the application, comes from the destination's own address, and leaves."""
    target = await serve_application(nursery, echo)
    with tunnel_client(context or tls_context(Proof.of(svid("a"))), mesh.destination) as stream:
        await stream.handshake()
        await send(stream, request(target))
        with suppress(StreamBroken):
            await receive_some(stream)
    return await mesh.destination.recorder.only_record()


async def test_identity_from_an_address_that_nobody_has_is_refused_after_a_while(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.policy.replace(PolicySet(MtlsMode.STRICT))
    mesh.registry.replace(NOBODY)
    mesh.destination.start(nursery)
    started = trio.current_time()
    record = await ask(mesh, nursery)
    assert trio.current_time() - started >= mesh.destination.context.limits.unknown_destination_wait
    assert (record.verdict, record.reason) == ("denial", Reason.SOURCE_ADDRESS_MISMATCH)
    assert record.detail == f"{PEER.identity} came from 127.0.0.1, which no workload is known to have"


async def test_peer_of_which_the_news_come_late_is_waited_for(inbound: Mesh, nursery: trio.Nursery) -> None:
    async def hear() -> None:
        while not inbound.destination.context.live.records:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.001)
        await trio.sleep(0.05)
        inbound.registry.replace(
            NOBODY.with_remote([dataclasses.replace(PEER, addresses=(inbound.source.workload.addresses[0],))])
        )
        inbound.registry.replace(KNOWN)

    nursery.start_soon(hear)
    record = await ask(inbound, nursery)
    assert (record.verdict, record.source_workload) == ("permit", PEER)


async def test_address_that_another_had_before_is_waited_for_too(
    inbound: Mesh, nursery: trio.Nursery
) -> None:
    other = dataclasses.replace(PEER, key=WorkloadKey("default", "z"), identity=certificates.identity("z"))
    inbound.registry.replace(NOBODY.with_remote([other]))

    async def hear() -> None:
        await trio.sleep(0.05)
        inbound.registry.replace(KNOWN)

    nursery.start_soon(hear)
    record = await ask(inbound, nursery)
    assert (record.verdict, record.source_workload) == ("permit", PEER)


async def test_last_words_of_a_workload_that_has_gone_are_taken_at_once(
    inbound: Mesh, nursery: trio.Nursery
) -> None:
    inbound.departed.note(KNOWN, NOBODY, trio.current_time())
    with trio.fail_after(DEADLINE_SECONDS / 2):
        record = await ask(inbound, nursery)
    assert (record.verdict, record.source_workload) == ("permit", PEER)
    # And what is open goes on when everybody is asked again, unless somebody else has the address now.
    context = inbound.destination.context
    assert denial_now(record, context) is None
    other = dataclasses.replace(PEER, key=WorkloadKey("default", "z"), identity=certificates.identity("z"))
    inbound.registry.replace(NOBODY.with_remote([other]))
    denial = denial_now(record, context)
    assert isinstance(denial, Denial)
    assert denial.reason is Reason.SOURCE_ADDRESS_MISMATCH


async def test_identity_of_another_trust_domain_is_let_pass_at_once_and_flagged(
    inbound: Mesh, nursery: trio.Nursery
) -> None:
    foreign = Authority.create(TrustDomain("other.example"), certificates.now())
    believing = certificates.bundles(foreign)
    inbound.destination.context.tls.replace(tls_contexts(svid("b"), believing))
    identity = certificates.identity("a", foreign.trust_domain)
    with trio.fail_after(DEADLINE_SECONDS / 2):
        record = await ask(inbound, nursery, tls_context(Proof.of(certificates.new_svid(identity, foreign))))
    assert record.verdict == "permit"
    assert record.note == f"{identity} is of another trust domain, whose addresses are not known here"
