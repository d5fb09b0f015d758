"""What is sent: it changes what is ours, at the state that we saw, and nothing else."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from interceptor.cluster.condition import Condition, Told
from interceptor.cluster.head import Head, ObjectKey
from interceptor.cluster_status.bodies import (
    event_body,
    event_name,
    events_path,
    pod_status_patch,
    pod_status_path,
    policy_path,
    policy_status_patch,
    repetition_body,
)
from interceptor.cluster_status.events import Happening, NewEvent, Repetition, Subject
from interceptor.cluster_status.policy_status import PolicyState
from interceptor.errors import InvalidInput

NOW = datetime(2026, 11, 24, 13, 0, 0, 1234, tzinfo=timezone(timedelta(hours=1)))
GOOD = Condition(True, "Accepted", "it is enforced")
BAD = Condition(False, "Invalid", "it is not")
KEY = ObjectKey("shop", "p")
HEAD = Head(KEY, "u", 5)
ISTIOS = {"type": "ZtunnelAccepted", "status": "True", "odd": {"kept": [1]}}
POD = Subject("v1", "Pod", "shop", "web-1", "u1")


def state(condition: Condition = BAD, generation: int | None = 3) -> PolicyState:
    return PolicyState("AuthorizationPolicy", HEAD, condition, generation, None)


def answer(*conditions: Any, **metadata: Any) -> bytes:
    head = {"name": "p", "uid": "u", "resourceVersion": "5", "generation": 3, **metadata}
    return json.dumps({"metadata": head, "status": {"conditions": list(conditions)}}).encode()


def accepted(status: str, reason: str, message: str, generation: int = 3) -> dict[str, Any]:
    return {
        "type": "interceptor.io/Accepted",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": "2026-11-01T00:00:00Z",
    }


def patched(said: bytes, wanted: PolicyState | None = None) -> Any:
    body = policy_status_patch(wanted or state(), said, NOW)
    return None if body is None else json.loads(body)


def test_condition_of_a_pod_is_merged_for_the_pod_that_was_meant() -> None:
    assert pod_status_path(KEY) == "/api/v1/namespaces/shop/pods/p/status?fieldManager=interceptor"
    assert json.loads(pod_status_patch("u1", GOOD, None, NOW)) == {
        "metadata": {"uid": "u1"},
        "status": {
            "conditions": [
                {
                    "type": "interceptor.io/Enrolled",
                    "status": "True",
                    "reason": "Accepted",
                    "message": "it is enforced",
                    "lastTransitionTime": "2026-11-24T12:00:00Z",
                }
            ]
        },
    }


@pytest.mark.parametrize(("before", "is_turn"), [(GOOD, False), (BAD, True)])
def test_since_when_changes_only_with_whether_it_holds(before: Condition, is_turn: bool) -> None:
    (found,) = json.loads(pod_status_patch("u1", GOOD, Told(before), NOW))["status"]["conditions"]
    assert ("lastTransitionTime" in found) is is_turn


def test_condition_of_a_policy_is_put_beside_those_of_others_at_the_version_that_was_read() -> None:
    assert policy_path("authorizationpolicies", KEY) == (
        "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/p"
    )
    body = patched(answer(ISTIOS, resourceVersion="9"))
    assert body["metadata"] == {"resourceVersion": "9"}
    istios, ours = body["status"]["conditions"]
    assert istios == ISTIOS
    assert ours == {**accepted("False", "Invalid", "it is not"), "lastTransitionTime": "2026-11-24T12:00:00Z"}


def test_condition_of_a_policy_that_says_so_already_is_left_alone() -> None:
    assert patched(answer(ISTIOS, accepted("False", "Invalid", "it is not"))) is None


@pytest.mark.parametrize(
    ("present", "since"),
    [
        (accepted("False", "Invalid", "it was not", 2), "2026-11-01T00:00:00Z"),
        (accepted("True", "Accepted", "it was", 2), "2026-11-24T12:00:00Z"),
    ],
)
def test_condition_of_a_policy_keeps_since_when_it_holds(present: dict[str, Any], since: str) -> None:
    (ours,) = patched(answer(present))["status"]["conditions"]
    assert ours == {**accepted("False", "Invalid", "it is not"), "lastTransitionTime": since}


@pytest.mark.parametrize("changed", [{"uid": "another"}, {"generation": 4}])
def test_condition_is_not_put_on_another_policy_than_the_one_that_was_judged(changed: dict[str, Any]) -> None:
    assert patched(answer(**changed)) is None


def test_policy_that_cannot_be_read_is_told_of_at_the_version_that_was_judged() -> None:
    wanted = state(generation=None)
    assert patched(answer(resourceVersion="6"), wanted) is None
    (ours,) = patched(answer(), wanted)["status"]["conditions"]
    assert ours["observedGeneration"] == 3
    without = json.dumps({"metadata": {"name": "p", "uid": "u", "resourceVersion": "5"}}).encode()
    (ours,) = patched(without, wanted)["status"]["conditions"]
    assert ours["observedGeneration"] == 0


@pytest.mark.parametrize(
    "said", [b"<html>", b"[]", b"{}", answer("text"), answer(*[ISTIOS] * 51), answer({"x": "y" * 70_000})]
)
def test_status_that_cannot_be_kept_as_it_is_is_not_written(said: bytes) -> None:
    with pytest.raises(InvalidInput):
        policy_status_patch(state(), said, NOW)


def test_event_is_one_that_the_api_takes() -> None:
    event = NewEvent(Happening(POD, True, "Degraded", "Enrol"), "no\ncertificate", 7)
    assert events_path(POD) == "/apis/events.k8s.io/v1/namespaces/shop/events"
    body = json.loads(event_body(event, "salt", "interceptor.io/agent", "n" * 200, NOW))
    name = body["metadata"]["name"]
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "shop"},
        "eventTime": "2026-11-24T12:00:00.001234Z",
        "reportingController": "interceptor.io/agent",
        "reportingInstance": "n" * 128,
        "action": "Enrol",
        "reason": "Degraded",
        "type": "Warning",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "u1"},
        "note": "no certificate",
    }
    assert name == event_name(Repetition(event.happening, 2, 7), "salt")
    assert name.startswith("web-1.")
    assert name != event_name(event, "other")
    assert json.loads(repetition_body(Repetition(event.happening, 2, 7), NOW)) == {
        "series": {"count": 2, "lastObservedTime": "2026-11-24T12:00:00.001234Z"}
    }


def test_event_about_a_node_is_where_those_are_that_are_in_no_namespace() -> None:
    node = Subject("v1", "Node", "", "node-1", "node-1")
    body = json.loads(event_body(NewEvent(Happening(node, False, "R", "A"), "x", 0), "s", "c", "i", NOW))
    assert events_path(node) == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert (body["metadata"]["namespace"], body["type"]) == ("default", "Normal")
    assert "namespace" not in body["regarding"]
    assert str(node) == "node-1"


def test_event_about_a_long_name_has_a_name_that_is_allowed() -> None:
    pod = Subject("v1", "Pod", "shop", f"{'a' * 199}-.{'b' * 52}", "u")
    name = event_name(NewEvent(Happening(pod, True, "R", "A"), "", 0), "s")
    assert name[:200] == "a" * 199 + "."
    assert len(name) <= 253
    assert NOW.astimezone(UTC).hour == 12
