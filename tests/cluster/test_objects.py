"""Objects of the API are read strictly in what we use, and blindly in what we do not."""

import json
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.cluster.cluster import Kind, parse_object
from interceptor.cluster.endpoint_slice import Backend, EndpointSlice, PodReference
from interceptor.cluster.head import ObjectKey, parse_head, parse_version
from interceptor.cluster.pod import Phase, Pod
from interceptor.cluster.policy_object import PolicyObject
from interceptor.cluster.service import Service, ServicePort
from interceptor.cluster.table import Unreadable
from interceptor.errors import InvalidInput
from tests.cluster.api_objects import endpoint, endpoint_slice, namespace, pod, policy, read, service


def test_pod_with_all_fields_is_read() -> None:
    found = read(Kind.POD, pod("shop/web", "10.0.0.1", "::ffff:10.0.0.1", "fd00::1", labels={"app": "web"}))
    assert isinstance(found, Pod)
    assert (str(found.head.key), found.head.uid, found.head.version) == ("shop/web", "uid-web", 1)
    assert found.addresses == found.own_addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert (found.node, found.service_account, found.phase) == ("node-1", "default", Phase.RUNNING)
    assert dict(found.labels) == {"app": "web"}
    assert (found.is_deleting, found.is_host_network, found.is_finished) == (False, False, False)


def test_pod_without_optional_fields_is_a_pending_one_of_nobody() -> None:
    head = {"metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "5"}}
    found = read(Kind.POD, head)
    assert isinstance(found, Pod)
    assert (found.node, found.service_account, found.phase, found.addresses) == (
        None,
        None,
        Phase.PENDING,
        (),
    )


def test_pod_of_an_old_server_has_one_address() -> None:
    old = pod("shop/web")
    old["status"] = {"phase": "Running", "podIP": "10.0.0.9"}
    found = read(Kind.POD, old)
    assert isinstance(found, Pod)
    assert found.addresses == (ip_address("10.0.0.9"),)


@pytest.mark.parametrize("changes", [{"host_network": True}, {"phase": "Succeeded"}, {"phase": "Failed"}])
def test_pod_that_shares_or_lost_its_addresses_has_none_of_its_own(changes: dict[str, Any]) -> None:
    found = read(Kind.POD, pod("shop/web", "10.0.0.1", **changes))
    assert isinstance(found, Pod)
    assert found.addresses
    assert found.own_addresses == ()


def _replaced(value: dict[str, Any], path: str, new: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    place = value
    for parent in parents:
        place = place[parent]
    place[last] = new
    return value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metadata.labels", {"app": "x" * 10_000}, "pod shop/web: label 'app' has the value 'xxx"),
        ("metadata.labels", {"k" * 10_000: "x"}, "is not valid, use at most 63"),
        (
            "metadata.labels",
            {"app": 5},
            "pod shop/web: metadata: labels is {'app': 5}, expected an object of texts",
        ),
        ("metadata.labels", [], "labels is [], expected an object of texts"),
        ("spec", "no", "pod shop/web: spec is 'no', expected a JSON object"),
        ("spec.nodeName", 5, "pod shop/web: spec: nodeName is 5, expected a text"),
        ("spec.nodeName", "n" * 254, "nodeName has 254 characters, at most 253"),
        ("spec.hostNetwork", "yes", "hostNetwork is 'yes', expected true or false"),
        ("status.phase", "Dancing", "pod shop/web: status: phase is 'Dancing', which is none"),
        ("status.podIPs", [{"ip": "10.0.0.300"}], "'10.0.0.300' is not an IP address"),
        ("status.podIPs", [{}], "pod shop/web: status: podIPs has no ip"),
        ("status.podIPs", [1], "podIPs is 1, expected a JSON object"),
        ("status.podIPs", {}, "podIPs is {}, expected a list"),
        ("status.podIPs", [{}] * 9, "podIPs has 9 entries, at most 8"),
    ],
)
def test_pod_with_a_bad_field_is_unreadable_and_says_which(path: str, value: object, message: str) -> None:
    found = parse_object(Kind.POD, _replaced(pod("shop/web", "10.0.0.1"), path, value))
    assert isinstance(found, Unreadable)
    assert str(found.head.key) == "shop/web"
    assert message in found.problem
    assert len(found.problem) < 500
    assert "\n" not in found.problem


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metadata", None, "pod: metadata has no name"),
        ("metadata.name", "", "pod: metadata has no name"),
        ("metadata.name", "a\ud800", "pod name 'a\\ud800' is not valid"),
        ("metadata.namespace", "A", "pod namespace 'A' is not valid"),
        ("metadata.uid", None, "pod: metadata has no uid"),
        ("metadata.uid", "u" * 129, "uid has 129 characters, at most 128"),
        ("metadata.resourceVersion", "abc", "'abc' is not a resource version, expected a decimal number"),
        ("metadata.resourceVersion", "-1", "'-1' is not a resource version"),
    ],
)
def test_object_without_a_usable_head_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_head("pod", _replaced(pod("shop/web"), path, value))
    assert message in str(caught.value)


def test_object_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="namespace is \\['a'\\], expected a JSON object"):
        parse_object(Kind.NAMESPACE, ["a"])
    assert parse_version("0") == 0


def test_namespace_is_its_labels() -> None:
    found = read(Kind.NAMESPACE, namespace("shop", labels={"interceptor.io/mesh": "enabled"}))
    assert str(found.head.key) == "shop"


def test_service_with_all_fields_is_read() -> None:
    value = service(
        "shop/web",
        "10.96.0.1",
        "fd96::1",
        ports=[{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}, {"name": "none"}],
        externalIPs=["203.0.113.1", "10.96.0.1"],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        internalTrafficPolicy="Local",
    )
    value["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}, {"hostname": "lb.example"}]}}
    found = read(Kind.SERVICE, value)
    assert isinstance(found, Service)
    assert found.cluster_addresses == (ip_address("10.96.0.1"), ip_address("fd96::1"))
    assert [str(each) for each in found.other_addresses] == ["203.0.113.1", "10.96.0.1", "203.0.113.2"]
    assert found.addresses == (*found.cluster_addresses, *found.other_addresses)
    assert found.ports == (ServicePort("http", 80),)
    assert (found.port(80), found.port(53)) == (ServicePort("http", 80), None)
    assert (found.affinity_seconds, found.is_node_local, found.is_headless) == (60, True, False)


def test_service_without_optional_fields_has_the_defaults_of_the_api() -> None:
    value = service("shop/web", sessionAffinity="ClientIP", clusterIP="10.96.0.7", clusterIPs=None)
    found = read(Kind.SERVICE, value)
    assert isinstance(found, Service)
    assert found.cluster_addresses == (ip_address("10.96.0.7"),)
    assert (found.affinity_seconds, found.is_node_local) == (10_800, False)


def test_service_that_is_headless_has_no_address() -> None:
    found = read(Kind.SERVICE, service("shop/db", "None"))
    assert isinstance(found, Service)
    assert found.is_headless
    assert found.addresses == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"clusterIPs": "10.96.0.1"}, "spec: clusterIPs is '10.96.0.1', expected a list"),
        ({"clusterIPs": [5]}, "clusterIPs is [5], expected a list of texts of at most 253 characters"),
        ({"ports": [{"port": 70_000}]}, "ports: port is 70000, expected a whole number from 1 to 65535"),
        ({"ports": [{"port": True}]}, "ports: port is True, expected a whole number"),
    ],
)
def test_service_with_a_bad_field_is_unreadable(spec: dict[str, Any], message: str) -> None:
    value = service("shop/web", "10.96.0.1")
    value["spec"].update(spec)
    found = parse_object(Kind.SERVICE, value)
    assert isinstance(found, Unreadable)
    assert message in found.problem


def test_endpoint_slice_with_all_fields_is_read() -> None:
    ready = endpoint(
        "10.0.0.1", "web-1", zones=["a", "b"], nodes=["n"], hostname="web-1", ready=True, serving=True
    )
    ending = endpoint("10.0.0.2", None, node=None, ready=False, terminating=True)
    ports = [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "all"}]
    found = read(Kind.ENDPOINT_SLICE, endpoint_slice("shop/web-x", "web", ready, ending, ports=ports))
    assert isinstance(found, EndpointSlice)
    assert found.service == ObjectKey("shop", "web")
    assert (found.ports, found.port("http"), found.port("dns")) == ((("http", 8080),), 8080, None)
    web = PodReference(ObjectKey("shop", "web-1"), "uid-web-1")
    assert found.backends == (
        Backend(ip_address("10.0.0.1"), web, "node-1", ("a", "b"), ("n",), "web-1", True, True, False),
        Backend(ip_address("10.0.0.2"), None, None, (), (), None, False, False, True),
    )


def test_endpoint_without_conditions_is_ready_and_serves() -> None:
    value = endpoint_slice("shop/web-x", None, {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Node"}})
    found = read(Kind.ENDPOINT_SLICE, value)
    assert isinstance(found, EndpointSlice)
    assert found.service is None
    backend = found.backends[0]
    assert (backend.is_ready, backend.is_serving, backend.is_terminating, backend.pod) == (
        True,
        True,
        False,
        None,
    )


def test_endpoint_slice_of_host_names_has_no_backends() -> None:
    value = endpoint_slice("shop/x", "web", {"addresses": ["db.example"]}, family="FQDN")
    found = read(Kind.ENDPOINT_SLICE, value)
    assert isinstance(found, EndpointSlice)
    assert found.backends == ()


def test_endpoint_without_an_address_makes_its_slice_unreadable() -> None:
    found = parse_object(Kind.ENDPOINT_SLICE, endpoint_slice("shop/x", "web", {"addresses": []}))
    assert isinstance(found, Unreadable)
    assert "'' is not an IP address" in found.problem


def test_policy_object_is_its_document_without_what_the_api_adds() -> None:
    spec = {"mtls": {"mode": "STRICT"}}
    found = read(Kind.PEER_AUTHENTICATION, policy("shop/strict", spec, **{"istio.io/dry-run": "true"}))
    assert isinstance(found, PolicyObject)
    assert found.place == "PeerAuthentication shop/strict"
    assert json.loads(found.text) == {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "shop", "annotations": {"istio.io/dry-run": "true"}},
        "spec": spec,
    }
    plain = read(Kind.AUTHORIZATION_POLICY, policy("shop/allow"))
    assert isinstance(plain, PolicyObject)
    assert json.loads(plain.text)["metadata"] == {"name": "allow", "namespace": "shop"}


def test_policy_object_without_an_end_is_unreadable() -> None:
    found = parse_object(Kind.AUTHORIZATION_POLICY, policy("shop/big", {"rules": ["x" * 300_000]}))
    assert isinstance(found, Unreadable)
    assert "AuthorizationPolicy shop/big has 300" in found.problem
    assert "at most 262144 are allowed" in found.problem


_FIELDS = st.sampled_from(
    ["metadata", "name", "uid", "resourceVersion", "labels", "spec", "status", "podIPs", "ip", "ports", "port",
     "endpoints", "addresses", "addressType", "conditions", "targetRef", "kind", "hints", "forZones", "clusterIPs"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_FIELDS, inner, max_size=4),
    max_leaves=12,
)
_HEADS = st.sampled_from([pod("a/b", "10.0.0.1"), service("a/b", "10.96.0.1"), endpoint_slice("a/b", "web")])


@given(
    st.sampled_from(Kind),
    _JSON | st.tuples(_HEADS, st.dictionaries(_FIELDS, _JSON)).map(lambda p: {**p[0], **p[1]}),
)
def test_garbage_is_an_object_or_unreadable_or_invalid_input(kind: Kind, value: object) -> None:
    with suppress(InvalidInput):
        assert parse_object(kind, value).head.version >= 0
