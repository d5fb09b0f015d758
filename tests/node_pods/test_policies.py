"""Policy objects are in force as they are written; a broken one neither opens anything nor stops the others."""

from typing import Any

import pytest

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.errors import PolicyError
from interceptor.node_pods.policies import PolicyObjects
from interceptor.policy.documents import AuthorizationPolicy, Document, PeerAuthentication
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_file
from interceptor.policy.peer_authentication import MtlsMode
from tests.cluster.api_objects import Json, changed, listed, policy

ALLOW = {"action": "ALLOW", "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]}
BROKEN = {"action": "PERHAPS"}


class Parser:
    """Counts what is parsed."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def __call__(self, place: str, text: str) -> tuple[Document, ...]:
        self.places.append(place)
        return parse_file(place, text, MeshNames())


def with_policies(*objects: tuple[Kind, Json], cluster: Cluster | None = None) -> Cluster:
    if cluster is None:
        cluster = Cluster().apply(listed(Kind.PEER_AUTHENTICATION, 100))
        cluster = cluster.apply(listed(Kind.AUTHORIZATION_POLICY, 100))
    for kind, value in objects:
        cluster = cluster.apply(changed(kind, value))
    return cluster


def allow(spec: Any = ALLOW, *, version: int = 101, uid: str = "uid-a") -> tuple[Kind, Json]:
    made = policy("shop/a", spec, version=version)
    made["metadata"]["uid"] = uid
    return Kind.AUTHORIZATION_POLICY, made


def test_what_is_told_of_a_policy_in_its_status_is_no_change_of_it() -> None:
    parser = Parser()
    objects = PolicyObjects(parser)
    found = objects.read(with_policies(allow()))
    assert objects.read(with_policies(allow(version=105))) == found
    assert len(parser.places) == 1
    objects.read(with_policies(allow(BROKEN, version=106)))
    assert objects.read(with_policies(allow(version=107))) == found
    assert len(parser.places) == 3


def test_objects_are_documents_and_what_did_not_change_is_not_parsed_again() -> None:
    parser = Parser()
    objects = PolicyObjects(parser)
    strict = Kind.PEER_AUTHENTICATION, policy("shop/default", {"mtls": {"mode": "STRICT"}}, version=102)
    cluster = with_policies(allow(), strict)
    found = objects.read(cluster)
    assert {str(document.head.name) for document in found.documents} == {
        "AuthorizationPolicy shop/a",
        "PeerAuthentication shop/default",
    }
    assert (found.problems, set(found.texts)) == (
        (),
        {"AuthorizationPolicy shop/a", "PeerAuthentication shop/default"},
    )
    assert objects.read(cluster) == found
    assert len(parser.places) == 2
    changed_one = with_policies(allow({**ALLOW, "action": "DENY"}, version=103), cluster=cluster)
    assert objects.read(changed_one).documents != found.documents
    assert parser.places[2:] == ["AuthorizationPolicy shop/a"]


def test_object_that_is_broken_keeps_its_last_good_state_with_a_line() -> None:
    objects = PolicyObjects(Parser())
    good = with_policies(allow())
    before = objects.read(good)
    for broken in (allow(BROKEN, version=103), allow({"action": "x" * 300_000}, version=104)):
        now = objects.read(with_policies(broken, cluster=good))
        assert now.documents == before.documents
        (line,) = now.problems
        assert "AuthorizationPolicy shop/a" in line
        assert line.endswith("until that is repaired its last good state stays in force")
    assert objects.read(with_policies(allow(version=105), cluster=good)).problems == ()


def test_object_that_never_was_any_good_refuses_what_it_might_forbid_in_its_namespace() -> None:
    objects = PolicyObjects(Parser())
    peer = Kind.PEER_AUTHENTICATION, policy("bank/default", {"mtls": {"mode": "MAYBE"}}, version=102)
    found = objects.read(with_policies(allow(BROKEN), peer))
    by_name = {str(document.head.name): document for document in found.documents}
    denial, strict = by_name["AuthorizationPolicy shop/a"], by_name["PeerAuthentication bank/default"]
    assert isinstance(denial, AuthorizationPolicy)
    assert isinstance(strict, PeerAuthentication)
    assert (denial.action, len(denial.rules), strict.mode) == ("DENY", 1, MtlsMode.STRICT)
    assert len(found.problems) == 2
    assert "everything in namespace shop that it might forbid is refused" in found.problems[0]


def test_object_that_was_replaced_by_a_broken_one_of_its_name_leaves_nothing() -> None:
    objects = PolicyObjects(Parser())
    cluster = with_policies(allow())
    objects.read(cluster)
    (document,) = objects.read(
        with_policies(allow(BROKEN, version=103, uid="uid-b"), cluster=cluster)
    ).documents
    assert isinstance(document, AuthorizationPolicy)
    assert document.action == "DENY"


def test_object_whose_strictest_form_cannot_be_read_either_is_told() -> None:
    def refuse(_place: str, _text: str) -> tuple[Document, ...]:
        raise PolicyError("nothing can be read")

    with pytest.raises(PolicyError, match="nothing can be read"):
        PolicyObjects(refuse).read(with_policies(allow()))


def test_object_whose_name_no_document_may_have_is_stood_in_for_by_one_with_another() -> None:
    def parse(place: str, text: str) -> tuple[Document, ...]:
        if '"shop-a"' in text or '"a"' in text:
            raise PolicyError(f"{place}: the name is not valid")
        return parse_file(place, text, MeshNames())

    (document,) = PolicyObjects(parse).read(with_policies(allow())).documents
    assert isinstance(document, AuthorizationPolicy)
    assert (document.action, document.head.name.namespace) == ("DENY", "shop")
    assert document.head.name.name.startswith("unusable-")
