"""Our condition in an object's status: found among those of others, and never a reason to refuse the object."""

from typing import Any

import pytest

from interceptor.cluster.cluster import Kind
from interceptor.cluster.condition import MAX_MESSAGE, POD_CONDITION, Condition, Told, one_line, told
from interceptor.cluster.pod import Pod
from interceptor.cluster.policy_object import PolicyObject
from tests.cluster.api_objects import pod, policy, read

OURS = {
    "type": POD_CONDITION,
    "status": "True",
    "reason": "Enrolled",
    "message": "in the mesh",
    "lastTransitionTime": "2026-11-24T12:00:00Z",
}
READY = {"type": "Ready", "status": "True", "lastProbeTime": None}


def of(*conditions: object, **status: object) -> Told | None:
    return told({"status": {"conditions": list(conditions), **status}}, POD_CONDITION)


def test_condition_is_found_among_those_of_others() -> None:
    expected = Told(Condition(True, "Enrolled", "in the mesh"), "2026-11-24T12:00:00Z")
    assert of(READY, OURS) == expected
    value = pod("shop/web", "10.0.0.1")
    value["status"]["conditions"] = [READY, OURS]
    found = read(Kind.POD, value)
    assert isinstance(found, Pod)
    assert found.told == expected


def test_condition_of_a_policy_names_the_generation_as_number_or_text() -> None:
    for generation, expected in ((7, 7), ("7", 7), ("x", None), ("9" * 20, None), (True, None), (None, None)):
        value = policy("shop/p")
        value["metadata"]["generation"] = 8
        condition = {
            "type": "interceptor.io/Accepted",
            "status": "False",
            "reason": "Invalid",
            "observedGeneration": generation,
        }
        value["status"] = {"conditions": [condition]}
        found = read(Kind.AUTHORIZATION_POLICY, value)
        assert isinstance(found, PolicyObject)
        assert found.told == Told(Condition(False, "Invalid", ""), "", expected)
        assert found.generation == 8


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        {},
        {"status": None},
        {"status": []},
        {"status": {"conditions": None}},
        {"status": {"conditions": {"type": POD_CONDITION}}},
        {"status": {"conditions": [3, None, READY]}},
        {"status": {"conditions": [{**OURS, "status": "Unknown"}]}},
        {"status": {"conditions": [{**OURS, "status": True}]}},
        {"status": {"conditions": [{**OURS, "status": []}]}},
        {"status": {"conditions": [{**OURS, "reason": 3}]}},
        {"status": {"conditions": [{**OURS, "message": "x" * (MAX_MESSAGE + 1)}]}},
    ],
)
def test_whatever_else_is_there_is_no_condition_of_ours_and_no_error(value: Any) -> None:
    assert told(value, POD_CONDITION) is None


def test_message_is_one_line_of_ascii_and_bounded() -> None:
    assert one_line("a\nb\tc\x7fd\u2028e") == "a b c d e"
    assert one_line("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
    assert one_line("x" * 5000) == "x" * (MAX_MESSAGE - 3) + "..."
