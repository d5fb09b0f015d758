"""A node in step with its authority: what it reports is what it does, what it hears is what it knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from interceptor.agent.follower import Follower
from interceptor.authority.documents import RegistryDocument
from interceptor.authority.reports import NodeReport, RegisteredWorkload
from interceptor.config import Config
from interceptor.credentials import Credentials
from interceptor.enrolment.registry import Registry
from interceptor.errors import AuthorityError, AuthorityRefusal, AuthorityUnavailable
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.trust_document import TrustDocument
from interceptor.proxy.snapshot import Snapshot
from interceptor.telemetry.metrics import Metrics
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    from datetime import timedelta

    from cryptography import x509
    from trio.testing import MockClock

    from interceptor.identity.svid import X509Svid
    from interceptor.identity.trust_bundle import TrustBundles

DOMAIN = TrustDomain("cluster.local")
AUTHORITY = Authority.create(DOMAIN, datetime.now(UTC))
FIRST = TrustDocument(DOMAIN, (AUTHORITY.trust_bundle,), (), RevocationList.empty())
SECOND = replace(FIRST, aliases=(TrustDomain("old.example"),))
WEB = Workload(
    WorkloadKey("default", "web"),
    SpiffeId(DOMAIN, "default", "web"),
    tuple(map(ip_address, ("fe80::1", "10.1.0.1"))),
    "Node_A",
)


class World:
    """The authority, and the parts of the node that the follower moves, played by the test."""

    address = None
    node_name = "node-a"

    def __init__(self) -> None:
        self.document: Snapshot[TrustDocument] = Snapshot(FIRST)
        self.workloads: Snapshot[RegistryDocument] = Snapshot(RegistryDocument(1, ()))
        self.reports: list[NodeReport] = []
        self.kept: list[TrustDocument] = []
        self.disk_is_full = False
        self.believed: list[TrustBundles] = []
        self.may_believe = trio.Event()
        self.may_believe.set()
        self.link = Link(self)
        self.renewals = 0
        self.refusal: AuthorityRefusal | None = None
        self.unheard: AuthorityError | None = None
        self.registry = Snapshot(Registry.empty().with_workload(WEB))
        config = Config(node="Node_A", trust_domain=DOMAIN, mesh_cidrs=(ip_network("10.1.0.0/16"),))
        self.lifetime = config.certificates.lifetime
        self.credentials = Credentials(self, self.lifetime, lambda: datetime.now(UTC), self)
        parts: Any = (self, self.credentials, self, self.registry, SimpleNamespace(metrics=Metrics()))
        self.follower = Follower(config, *parts)

    # The access, and the link.

    async def open(self) -> TrustDocument:
        return FIRST

    problem = None

    def keep(self, document: TrustDocument) -> str | None:
        if self.disk_is_full:
            return "cannot write trust.json: no space left on device"
        self.kept.append(document)
        return None

    async def run(self, credentials: object, renewed: object) -> None:
        await trio.sleep_forever()

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        if self.refusal is not None:
            raise self.refusal
        return AUTHORITY.sign(request, spiffe_id, lifetime, datetime.now(UTC))

    async def trust(self, known: str | None) -> TrustDocument:
        while self.document.value.document_hash == known:
            await self.document.wait_changed()
        return self.document.value

    async def registry_(self, known: int | None) -> RegistryDocument:
        while self.workloads.value.version == known:
            await self.workloads.wait_changed()
        return self.workloads.value

    async def report(self, report: NodeReport) -> None:
        if self.unheard is not None:
            raise self.unheard
        self.reports.append(report)

    # The enroller, and the observer of the credentials.

    async def believe(self, bundles: TrustBundles) -> None:
        await self.may_believe.wait()
        self.believed.append(bundles)

    def renewed(self, workload: Workload, svid: X509Svid) -> None:
        self.renewals += 1

    def renewal_failed(self, workload: Workload, error: str) -> None:
        assert self.refusal is not None, error


class Link:
    """The world's authority as an AuthorityLink: its `registry` is another thing than the node's."""

    def __init__(self, world: World) -> None:
        self.sign, self.trust, self.report = world.sign, world.trust, world.report
        self.registry = world.registry_


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    world = World()
    await world.follower.open()
    nursery.start_soon(world.follower.run)
    await trio.testing.wait_all_tasks_blocked()
    return world


async def test_bundle_is_reported_only_when_every_workload_uses_it(
    world: World, autojump_clock: MockClock
) -> None:
    world.may_believe = trio.Event()
    world.document.replace(SECOND)
    await trio.sleep(100)
    assert {report.bundle_hash for report in world.reports} == {FIRST.bundle_hash}
    world.may_believe.set()
    await trio.sleep(1)
    assert world.reports[-1].bundle_hash == SECOND.bundle_hash
    assert world.reports[-1].document_hash == SECOND.document_hash
    assert [bundles.aliases for bundles in world.believed] == [(), SECOND.aliases]
    assert world.kept == [FIRST, SECOND]


async def test_bundle_that_a_restart_would_lose_is_not_confirmed_until_it_is_kept(
    world: World, autojump_clock: MockClock
) -> None:
    world.disk_is_full = True
    world.document.replace(SECOND)
    await trio.sleep(1)
    assert world.follower.document == SECOND  # it is believed all the same
    assert world.reports[-1].bundle_hash == FIRST.bundle_hash
    assert (
        world.reports[-1].unkept
        == world.follower.unkept
        == "cannot write trust.json: no space left on device"
    )
    world.disk_is_full = False
    await trio.sleep(31)
    assert world.reports[-1].bundle_hash == SECOND.bundle_hash
    assert world.reports[-1].unkept == ""
    assert world.follower.unkept is None
    assert world.kept[-1] == SECOND


async def test_node_that_could_keep_no_document_at_all_confirms_none() -> None:
    world = World()
    world.disk_is_full = True
    await world.follower.open()
    report = world.follower._report()
    assert report.bundle_hash == f"sha256:{'0' * 64}"
    assert report.unkept


async def test_own_workloads_are_reported_with_what_others_can_reach(
    world: World, autojump_clock: MockClock
) -> None:
    (reported,) = world.reports[-1].workloads
    assert (reported.key, reported.node, reported.addresses) == (WEB.key, "node-a", (ip_address("10.1.0.1"),))
    world.registry.replace(world.registry.value.without(WEB.key))
    await trio.sleep(1)
    assert world.reports[-1].workloads == ()


async def test_workloads_of_other_nodes_become_known_and_go_again(
    world: World, autojump_clock: MockClock
) -> None:
    api = RegisteredWorkload("default", "api", "api", (ip_address("10.1.0.9"),), "node-b", {})
    count = len(world.reports)
    world.workloads.replace(
        RegistryDocument(2, (api, RegisteredWorkload.of(replace(WEB, node="node-a"), {})))
    )
    await trio.sleep(1)
    found = world.registry.value.by_address(ip_address("10.1.0.9"))
    assert found is not None
    assert (str(found.key), found.node) == ("default/api", "node-b")
    assert len(world.registry.value) == 2
    assert len(world.reports) == count  # it is others' news
    world.workloads.replace(RegistryDocument(3, ()))
    await trio.sleep(1)
    assert world.registry.value.own == world.registry.value.workloads == (WEB,)


async def test_certificate_that_is_revoked_is_replaced_at_once(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(world.credentials.keep_fresh, WEB, lambda _: None)
    await trio.sleep(1)
    (svid,) = world.credentials.svids()
    entry = Revocation(RevocationKind.SERIAL, svid.serial_number, datetime.now(UTC), "")
    world.document.replace(replace(FIRST, revoked=RevocationList((entry,))))
    await trio.sleep(1)
    assert world.renewals == 2
    assert next(world.credentials.svids()).serial_number != svid.serial_number


async def test_certificates_below_an_intermediate_that_is_revoked_are_replaced_at_once(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(world.credentials.keep_fresh, WEB, lambda _: None)
    await trio.sleep(1)
    (svid,) = world.credentials.svids()
    entry = Revocation(RevocationKind.SERIAL, f"{svid.chain[1].serial_number:x}", datetime.now(UTC), "copied")
    world.document.replace(replace(FIRST, revoked=RevocationList((entry,))))
    await trio.sleep(1)
    assert world.renewals == 2


async def test_identity_that_is_no_longer_revoked_is_asked_for_again_soon(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world.refusal = AuthorityRefusal("identity_revoked", "it was stolen")
    entry = Revocation(RevocationKind.IDENTITY, str(WEB.identity), datetime.now(UTC), "stolen")
    world.document.replace(replace(FIRST, revoked=RevocationList((entry,))))
    nursery.start_soon(world.credentials.keep_fresh, WEB, lambda _: None)
    await trio.sleep(3600)
    status = world.credentials.status(WEB.key)
    assert status is not None
    assert status.is_refused
    world.refusal = None
    world.document.replace(FIRST)
    await trio.sleep(11)
    assert world.renewals == 1


async def test_age_of_what_is_believed_is_known_and_small_while_the_authority_answers(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(100)
    age = world.follower.trust_age()
    assert age is not None
    assert age < 40
    assert world.follower.last_error is None


async def test_refusal_of_the_node_is_told_from_an_outage_and_ends_with_it(
    world: World, autojump_clock: MockClock
) -> None:
    world.unheard = AuthorityUnavailable("nobody listens")
    await trio.sleep(60)
    assert (world.follower.refusal, world.follower.last_error) == (None, "nobody listens")
    world.unheard = AuthorityRefusal("node_not_authorised", "it was removed")
    await trio.sleep(60)
    assert world.follower.refusal == "node_not_authorised: it was removed"
    world.unheard = None
    await trio.sleep(60)
    assert world.follower.refusal is None
