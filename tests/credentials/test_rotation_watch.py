"""A rotation of the root as a node sees it: found out by itself, and followed before it would have been noticed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.credentials import Credentials
from interceptor.credentials.issuers import root_of, roots_of
from interceptor.credentials.rotation_watch import PROBE, SPREAD, RotationWatch
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import NodeSvid
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    from cryptography import x509
    from trio.testing import MockClock

    from interceptor.identity.svid import X509Svid

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("cluster.local")
OLD, NEW = (Authority.create(DOMAIN, BEGIN - timedelta(days=30)) for _ in range(2))
DAY = timedelta(hours=24)


class MeshNode:
    """A node with workloads and an authority whose issuer changes."""

    def __init__(self, lifetime: timedelta = DAY) -> None:
        self.issuer = OLD
        self.roots: tuple[x509.Certificate, ...] = (OLD.root,)
        self.lifetime = lifetime
        self.signed = 0
        self.credentials = Credentials(self, lifetime, self.now, self)
        self.watch = RotationWatch(self.credentials, lambda: self.roots, lifetime)

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=trio.current_time())

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        self.signed += 1
        await trio.sleep(0.001)
        return self.issuer.sign(request, spiffe_id, lifetime, self.now())

    async def node_svid(self) -> NodeSvid:
        self.signed += 1
        key, node = create_private_key(), NodeId(DOMAIN, "node-a")
        chain = self.issuer.sign(create_signing_request(node, key), node, self.lifetime, self.now())
        return NodeSvid(node, chain, key, self.now())

    def renewed(self, workload: Workload, svid: X509Svid) -> None:
        self.watch.renewed()

    def renewal_failed(self, workload: Workload, error: str) -> None:
        raise AssertionError(error)

    async def run(self, nursery: trio.Nursery, workloads: int) -> None:
        first = await self.node_svid()
        nursery.start_soon(
            self.credentials.keep_node_fresh, first, self.node_svid, lambda _: self.watch.renewed()
        )
        nursery.start_soon(self.watch.run)
        for number in range(workloads):
            name = f"w{number}"
            workload = Workload(
                WorkloadKey("default", name),
                SpiffeId(DOMAIN, "default", name),
                (ip_address("10.0.0.1"),),
                "node-a",
            )
            nursery.start_soon(self.credentials.keep_fresh, workload, lambda _: None)
        await trio.sleep(600)

    def issuers(self) -> tuple[str, ...]:
        return roots_of((svid.chain for svid in self.credentials.svids()), self.roots)


@pytest.mark.parametrize("workloads", [0, 1, 40])
async def test_activation_is_found_out_and_everything_leads_to_the_new_root_soon(
    autojump_clock: MockClock, nursery: trio.Nursery, workloads: int
) -> None:
    node = MeshNode()
    await node.run(nursery, workloads)
    node.roots = (OLD.root, NEW.root)
    await trio.sleep(600)
    assert node.issuers() == (fingerprint(OLD.root),)
    node.issuer = NEW
    await trio.sleep((PROBE + SPREAD).total_seconds() + 5)
    assert node.issuers() == (fingerprint(NEW.root),)
    node.roots = (NEW.root,)
    signed = node.signed
    await trio.sleep(3600)
    assert node.signed == signed


async def test_renewals_that_an_activation_brings_are_spread(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = MeshNode()
    await node.run(nursery, 100)
    node.roots = (OLD.root, NEW.root)
    node.issuer = NEW
    left = []
    for _ in range(70):
        await trio.sleep(1)
        chains = [svid.chain for svid in node.credentials.svids()]
        left.append(sum(root_of(chain, node.roots) == fingerprint(OLD.root) for chain in chains))
    assert left[-1] == 0
    steps = [earlier - later for earlier, later in pairwise(left)]
    assert max(steps) < 15, steps


async def test_short_lives_follow_within_a_fifth_of_their_life(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = MeshNode(timedelta(seconds=20))
    await node.run(nursery, 5)
    node.roots = (OLD.root, NEW.root)
    node.issuer = NEW
    await trio.sleep(4.5)
    assert node.issuers() == (fingerprint(NEW.root),)


async def test_nothing_is_probed_while_there_is_one_root(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = MeshNode()
    await node.run(nursery, 3)
    await trio.sleep(3600)
    assert node.signed == 4


async def test_waiting_for_a_rotation_costs_one_certificate_now_and_then(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    node = MeshNode()
    await node.run(nursery, 40)
    node.roots = (OLD.root, NEW.root)
    await trio.sleep(3600)
    assert 100 <= node.signed - 41 <= 121


def test_chain_that_leads_to_no_root_of_ours_leads_nowhere() -> None:
    assert root_of(NEW.chain, (OLD.root,)) is None
    assert roots_of([NEW.chain, OLD.chain], (OLD.root,)) == (fingerprint(OLD.root),)
    assert roots_of([], (OLD.root,)) == ()
