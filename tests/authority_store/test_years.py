"""Decades of a mesh with a clock that only the test moves: every certificate is believed by everybody all the time."""

import random
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interceptor.authority.admission import AllowPattern
from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Phase
from interceptor.authority_store import AuthorityStore
from interceptor.errors import AuthorityError
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.rotation import renewal_time
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.identity.trust_document import TrustDocument
from tests.authority_store.helpers import DAY, DOMAIN, NOW

ALL = (AllowPattern.parse("ns/*/sa/*"),)
LEAF = timedelta(hours=24)
KEY = create_private_key()  # keys are not what is tested here


def issued_by(certificate, candidates):
    for candidate in candidates:
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, InvalidSignature):
            continue
        return candidate
    return None


@dataclass
class Node:
    """What one node believes, and its only certificate."""

    name: str
    believes: TrustDocument
    chain: tuple[x509.Certificate, ...] = ()
    due: object = None

    @property
    def identity(self):
        return SpiffeId(DOMAIN, "default", self.name)

    def renew(self, issuer: Authority, now, fraction):
        request = create_signing_request(self.identity, KEY)
        self.chain = issuer.sign(request, self.identity, LEAF, now)
        self.due = renewal_time(now, self.chain[0].not_valid_after_utc, fraction)

    def report(self, store, now):
        root = issued_by(self.chain[1], self.believes.trust_bundles().roots)
        hashes = (self.believes.bundle_hash, self.believes.document_hash)
        store.report(self.name, NodeReport(*hashes, (fingerprint(root),), (), now), now)

    def believe_in(self, peer, now):
        bundles = self.believes.trust_bundles()
        root = issued_by(peer.chain[1], bundles.roots)
        assert root is not None, f"{self.name} knows no root of {peer.name}'s certificate"
        assert issued_by(peer.chain[0], peer.chain[1:])
        assert bundles.identify((*peer.chain, root), now) == peer.identity


class Mesh:
    """An authority and its nodes; `tick` is one look of everybody at the clock."""

    def __init__(self, home, seed):
        self.store = AuthorityStore.create(home, DOMAIN, NOW)
        self.random = random.Random(seed)
        self.nodes = [Node(name, self.store.trust_document()) for name in ("a", "b", "c")]
        for node in self.nodes:
            self.store.add_node(node.name, ALL, NOW)
            self.renew(node, NOW)

    def renew(self, node, now):
        node.renew(self.store.issuer(now), now, self.random.uniform(0.5, 0.6))

    def tick(self, now):
        for node in self.random.sample(self.nodes, len(self.nodes)):
            if self.random.random() < 0.4:  # the channel is slow, or the node was away
                node.believes = self.store.trust_document()
            if now >= node.due:
                self.renew(node, now)
            if self.random.random() < 0.7:
                node.report(self.store, now)
        for node in self.nodes:
            for peer in self.nodes:
                node.believe_in(peer, now)

    def take_next_step(self, now):
        """Press the button, whether or not it is time."""
        status = self.store.rotation_status()
        if not status.laggards:
            self.store.rotate(status.next_step, now)
            return True
        with pytest.raises(AuthorityError, match="not ready"):
            self.store.rotate(status.next_step, now)
        return False


@pytest.mark.timeout(60)  # each example makes some hundred signatures
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_impatient_operator_rotates_again_and_again_and_nobody_is_cut_off(tmp_path_factory, seed):
    mesh = Mesh(tmp_path_factory.mktemp("mesh") / "authority", seed)
    with closing(mesh.store):
        first = mesh.store.issuer(NOW).root
        now, steps, refusals = NOW, 0, 0
        for _ in range(100):
            now += timedelta(hours=3)
            mesh.tick(now)
            if mesh.take_next_step(now):
                steps += 1
            else:
                refusals += 1
            if mesh.random.random() < 0.1:
                mesh.store.rotate_intermediate(now)
        assert steps >= 4
        assert refusals > 0
        assert mesh.store.issuer(now).root != first


@pytest.mark.timeout(60)  # some thousand signatures
def test_mesh_lives_for_decades_with_a_rotation_of_the_root_every_eight_years(tmp_path):
    mesh = Mesh(tmp_path / "authority", seed=1)
    with closing(mesh.store):
        now, roots, intermediates = NOW, set(), set()
        while now < NOW + 30 * 365 * DAY:
            quiet = mesh.store.rotation_status().state.phase is Phase.STABLE
            now += 20 * DAY if quiet else timedelta(hours=6)
            for node in mesh.nodes:
                if now >= node.chain[0].not_valid_after_utc:
                    mesh.renew(node, now)  # as it did each day of the days that we left out
            mesh.tick(now)
            issuer = mesh.store.issuer(now)
            roots.add(fingerprint(issuer.root))
            intermediates.add(fingerprint(issuer.intermediate))
            age = now - issuer.root.not_valid_before_utc
            if not quiet or age > 8 * 365 * DAY:
                mesh.take_next_step(now)
        assert len(roots) == 4
        assert len(intermediates) > 50
        with closing(AuthorityStore.open(tmp_path / "authority", now)) as again:
            assert again.issuer(now).chain == mesh.store.issuer(now).chain
