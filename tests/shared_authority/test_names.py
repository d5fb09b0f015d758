"""The names of an authority's objects."""

from interceptor.cluster.head import ObjectKey
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.shared_authority.names import SharedAuthority


def test_objects_stand_beside_the_secret():
    shared = SharedAuthority(TrustDomain("cluster.local"), ObjectKey("interceptor", "ca"))
    assert [str(each) for each in (shared.lease, shared.roots, shared.nodes)] == [
        "interceptor/ca",
        "interceptor/ca-root",
        "interceptor/ca-nodes",
    ]
