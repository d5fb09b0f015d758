"""What the status of a pod says, in every state in which a pod can be."""

from typing import Any

import pytest

from interceptor.cluster.condition import MAX_MESSAGE, Condition
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.membership import Why
from interceptor.cluster_status.events import Happening, Subject
from interceptor.cluster_status.pod_condition import (
    CertificateFacts,
    PodReason,
    PodState,
    is_worth_a_warning,
    pod_condition,
    reason_of,
)
from interceptor.cluster_status.pod_events import pod_happening, pod_subject
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.node_pods.pods import NodePod, pods_of_node
from tests.cluster.api_objects import MESH, cluster_of, namespace, pod

DOMAIN = TrustDomain("cluster.local")
VALID = CertificateFacts("valid")
TOLD = {"type": "interceptor.io/Enrolled", "status": "True", "reason": "Enrolled", "message": "m"}


def node_pod(space: Any = MESH, *, told: bool = False, **changes: Any) -> NodePod:
    """The pod `shop/web` in a namespace with these labels, None for one that is not known."""
    addresses = changes.pop("addresses", ["10.0.0.1"])
    value = pod("shop/web", *addresses, account=changes.pop("account", "web"), **changes)
    if told:
        value["status"]["conditions"] = [TOLD]
    spaces = [] if space is None else [namespace("shop", labels=space)]
    cluster = cluster_of(namespaces=spaces, pods=[value])
    return pods_of_node(cluster, "node-1", DOMAIN)["uid-web"]


def said(state: PodState) -> Condition:
    found = pod_condition(state)
    assert found is not None
    return found


def test_pod_with_a_certificate_in_force_is_in_the_mesh() -> None:
    expected = Condition(True, "Enrolled", "in the mesh as spiffe://cluster.local/ns/shop/sa/web")
    assert said(PodState(node_pod(), certificate=VALID)) == expected


@pytest.mark.parametrize(
    ("certificate", "holds", "reason", "message"),
    [
        (CertificateFacts("late", "no answer"), True, "CertificateLate", "will end: no answer"),
        (CertificateFacts("missing"), False, "NoCertificate", "its connections wait"),
        (CertificateFacts("missing", "no answer"), False, "NoCertificate", "wait: no answer"),
        (
            CertificateFacts("missing", "pod_not_on_node: it is not", "pod_not_on_node"),
            False,
            "RefusedByAuthority",
            "no certificate: pod_not_on_node: it is not",
        ),
        (CertificateFacts("expired"), False, "CertificateExpired", "all its connections are refused"),
        (CertificateFacts("not_yet_valid"), False, "CertificateNotYetValid", "set the clock"),
        (
            CertificateFacts("valid", revocation="stolen"),
            False,
            "CertificateRevoked",
            "all its connections are refused: stolen",
        ),
    ],
)
def test_pod_whose_certificate_is_not_as_it_must_be_is_told_so(
    certificate: CertificateFacts, holds: bool, reason: str, message: str
) -> None:
    found = said(PodState(node_pod(), certificate=certificate))
    assert (found.holds, found.reason) == (holds, reason)
    assert message in found.message


def test_pod_whose_capture_or_change_failed_is_not_well_though_it_has_a_certificate() -> None:
    broken = said(PodState(node_pod(), certificate=VALID, fault="the kernel does not capture it"))
    assert broken == Condition(False, "NotCaptured", "the kernel does not capture it")
    failed = said(PodState(node_pod(), "its labels could not be changed", VALID))
    assert failed == Condition(False, "EnrolmentFailed", "its labels could not be changed")


def test_pod_that_is_not_enrolled_yet_is_told_what_it_waits_for() -> None:
    assert said(PodState(node_pod())).reason == PodReason.ENROLLING
    failed = said(PodState(node_pod(), "no cgroup is that of the pod yet"))
    assert failed.reason == PodReason.ENROLMENT_FAILED
    assert failed.message.endswith("nothing of it passes in plaintext: no cgroup is that of the pod yet")
    twins = [pod(f"shop/{name}", "10.0.0.1") for name in ("one", "two")]
    cluster = cluster_of(namespaces=[namespace("shop", labels=MESH)], pods=twins)
    for each in pods_of_node(cluster, "node-1", DOMAIN).values():
        assert said(PodState(each)).reason == PodReason.ADDRESS_NOT_UNIQUE


@pytest.mark.parametrize(
    ("labels", "changes", "reason"),
    [
        (MESH, {"addresses": []}, "NoAddress"),
        (MESH, {"host_network": True}, "HostNetwork"),
        (MESH, {"account": None}, "NoIdentity"),
        (MESH, {"account": "Not_a_name"}, "NameUnsupported"),
        (MESH, {"labels": {"interceptor.io/mesh": "none"}}, "PodExcepted"),
        ({"interceptor.io/mesh": "perhaps"}, {}, "LabelNotUnderstood"),
        (None, {}, "NamespaceUnknown"),
    ],
)
def test_pod_that_is_not_in_the_mesh_is_told_why(labels: Any, changes: dict[str, Any], reason: str) -> None:
    found = said(PodState(node_pod(labels, **changes)))
    assert (found.holds, found.reason) == (False, reason)
    assert is_worth_a_warning(found.reason) is (reason != "PodExcepted")


def test_pod_that_nobody_wants_in_the_mesh_is_told_of_only_if_it_was_before() -> None:
    assert pod_condition(PodState(node_pod({}))) is None
    assert pod_condition(PodState(node_pod(None, host_network=True))) is None
    left = said(PodState(node_pod({}, told=True)))
    assert (left.holds, left.reason) == (False, "NamespaceNotLabelled")
    assert not is_worth_a_warning(left.reason)


@pytest.mark.parametrize("changes", [{"deleting": True}, {"phase": "Succeeded"}])
def test_pod_that_ends_is_told_nothing_any_more(changes: dict[str, Any]) -> None:
    assert pod_condition(PodState(node_pod(told=True, **changes), certificate=VALID)) is None


def test_message_is_bounded_whatever_failed() -> None:
    assert len(said(PodState(node_pod(), "x\n" * 5000)).message) == MAX_MESSAGE


def test_every_reason_is_a_word_as_conditions_have_them() -> None:
    for reason in (*map(str, PodReason), *map(reason_of, Why)):
        assert reason.isalpha()
        assert reason[0].isupper()


@pytest.mark.parametrize(
    ("holds", "reason", "was_well", "is_warning", "word"),
    [
        (True, "Enrolled", False, False, "Enrolled"),
        (True, "CertificateLate", True, True, "Degraded"),
        (True, "CertificateLate", False, True, "Degraded"),
        (False, "NoCertificate", True, True, "Degraded"),
        (False, "NoCertificate", False, True, "NotEnrolled"),
        (False, "NamespaceNotLabelled", True, False, "NotEnrolled"),
        (False, "PodExcepted", False, False, "NotEnrolled"),
    ],
)
def test_event_tells_whether_a_pod_became_better_or_worse(
    holds: bool, reason: str, was_well: bool, is_warning: bool, word: str
) -> None:
    subject = pod_subject(ObjectKey("shop", "web"), "u")
    assert subject == Subject("v1", "Pod", "shop", "web", "u")
    found = pod_happening(subject, Condition(holds, reason, ""), was_well=was_well)
    assert found == Happening(subject, is_warning, word, "Enrol")
