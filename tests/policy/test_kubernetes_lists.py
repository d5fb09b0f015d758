"""What `kubectl get authorizationpolicy,peerauthentication -A -o yaml` prints, with what the API server adds."""

import pytest

from interceptor.errors import PolicyError
from interceptor.policy.documents import AuthorizationPolicy, PeerAuthentication
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies

LIST = """\
apiVersion: v1
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","spec":{"rules":[{}]}}
    creationTimestamp: "2026-11-01T10:00:00Z"
    generation: 2
    labels:
      app.kubernetes.io/managed-by: Helm
    managedFields:
    - apiVersion: security.istio.io/v1
      fieldsType: FieldsV1
      fieldsV1:
        f:spec:
          .: {}
          f:rules: {}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2026-11-01T10:00:00Z"
    name: db
    namespace: shop
    resourceVersion: "4711"
    uid: 3f0e8a4c-0b5e-4a59-8f3a-1d1f2f5f9d3e
  spec:
    action: ALLOW
    rules:
    - from:
      - source:
          principals:
          - cluster.local/ns/shop/sa/web
    selector:
      matchLabels:
        app: db
  status:
    conditions:
    - lastTransitionTime: "2026-11-01T10:00:00Z"
      message: attached to ztunnel
      reason: Accepted
      status: "True"
      type: ZtunnelAccepted
    observedGeneration: "2"
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata:
    name: strict
    namespace: istio-system
    resourceVersion: "4712"
  spec:
    mtls:
      mode: STRICT
kind: List
metadata:
  resourceVersion: ""
"""


def read(text: str) -> tuple[object, ...]:
    return parse_policies([("all.yaml", text)], MeshNames())


def test_items_of_a_list_are_documents_with_their_own_places() -> None:
    policy, mode = parse_policies([("all.yaml", LIST)], MeshNames())
    assert isinstance(policy, AuthorizationPolicy)
    assert isinstance(mode, PeerAuthentication)
    assert (str(policy.head.name), str(policy.head.place)) == ("AuthorizationPolicy shop/db", "all.yaml:3")
    line = LIST.splitlines().index("- apiVersion: security.istio.io/v1", 3) + 1
    assert str(mode.head.place) == f"all.yaml:{line}"


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: List\nitems: []\n",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicyList\nmetadata: {continue: ''}\nitems: []\n",
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthenticationList\nitems: []\n",
    ],
)
def test_empty_list_is_no_documents(text: str) -> None:
    assert read(text) == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("          principals:\n", "          paths:\n", "all.yaml:32:11: items[0].spec.rules[0].from[0].source.paths: unk"),
        ("      mode: STRICT", "      mode: STRCT", "all.yaml:53:7: items[1].spec.mtls.mode: 'STRCT' is not a mode"),
        ("    name: strict\n", "", "items[1].metadata: 'name' is missing"),
        ("    name: strict\n", "    name: db\n    names: x\n", "items[1].metadata.names: unknown field, did you mean"),
        ("  kind: PeerAuthentication\n", "  kind: Gateway\n", "items[1].kind: 'Gateway' is not a kind of policy"),
        ("  kind: PeerAuthentication\n", "", "items[1]: a document needs apiVersion and kind"),
        ("apiVersion: v1\n", "apiVersion: v2\n", "all.yaml:1:1: apiVersion: 'v2' has no List, use v1"),
        ("apiVersion: v1\n", "", "all.yaml:1:1: 'apiVersion' is missing"),
        ("kind: List\n", "kind: List\nspec: {}\n", "spec: unknown field, known are kind, apiVersion, items, metadata"),
    ],
)  # fmt: skip
def test_mistake_in_an_item_is_told_with_its_number_and_place(old: str, new: str, message: str) -> None:
    assert old in LIST
    with pytest.raises(PolicyError) as caught:
        read(LIST.replace(old, new, 1))
    assert message in str(caught.value)


def test_items_that_are_none_are_refused() -> None:
    for items, message in (
        ("x", "items: expected a list, not the value 'x'"),
        ("[7]", "items[0]: expected a document"),
    ):
        with pytest.raises(PolicyError) as caught:
            read(f"apiVersion: v1\nkind: List\nitems: {items}\n")
        assert message in str(caught.value)


def test_name_that_is_twice_on_lists_is_told_with_both_places() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policies([("all.yaml", LIST), ("more.yaml", LIST)], MeshNames())
    assert caught.value.problems == (
        "more.yaml:3:3: metadata.name: AuthorizationPolicy shop/db is there twice, first in all.yaml:3",
        "more.yaml:45:3: metadata.name: PeerAuthentication istio-system/strict is there twice, first in all.yaml:45",
    )
