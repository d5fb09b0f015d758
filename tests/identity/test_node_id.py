"""Identities of nodes and of the authority's service: never mistaken for a workload's, nor the other way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.errors import InvalidInput
from interceptor.identity.node_id import AuthorityId, NodeId, validate_node_name
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

TD = TrustDomain("cluster.local")
nodes = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,20})?", fullmatch=True)


@given(nodes)
def test_node_id_printed_and_parsed_is_the_same(name):
    node_id = NodeId(TD, name)
    assert str(node_id) == f"spiffe://cluster.local/node/{name}"
    assert NodeId.parse(str(node_id)) == node_id


def test_authority_id_printed_and_parsed_is_the_same():
    assert str(AuthorityId(TD)) == "spiffe://cluster.local/authority"
    assert AuthorityId.parse("spiffe://cluster.local/authority") == AuthorityId(TD)


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "a..b", "-a", "a.", "n" * 64, "a/b", "../etc", "a\n", "*", "ä"]
)
def test_node_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidInput, match="node name") as caught:
        validate_node_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("parse", "uri", "why"),
    [
        (SpiffeId.parse, "spiffe://td/node/a", "is a node's identity, not a workload's"),
        (SpiffeId.parse, "spiffe://td/authority", "is the authority's identity, not a workload's"),
        (NodeId.parse, "spiffe://td/ns/a/sa/b", "names no node"),
        (NodeId.parse, "spiffe://td/authority", "names no node"),
        (NodeId.parse, "spiffe://td/node/a/b", "names no node"),
        (NodeId.parse, "spiffe://td/node", "names no node"),
        (NodeId.parse, "spiffe://td/Node/a", "names no node"),
        (NodeId.parse, "spiffe://td/node/A", "node name 'A' is not valid"),
        (NodeId.parse, "spiffe://td/node/", "empty"),
        (NodeId.parse, "spiffe://td/node/..", "'.' or '..' part"),
        (NodeId.parse, "spiffe://td:1/node/a", "a port"),
        (NodeId.parse, "spiffe://td/node/a\x00", "control character"),
        (AuthorityId.parse, "spiffe://td/node/a", "names no authority"),
        (AuthorityId.parse, "spiffe://td/authority/a", "names no authority"),
        (AuthorityId.parse, "spiffe://td", "names no authority"),
    ],
)
def test_identity_of_another_kind_is_refused(parse, uri, why):
    with pytest.raises(InvalidInput, match=why) as caught:
        parse(uri)
    assert str(caught.value).isprintable()
