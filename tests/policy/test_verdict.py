"""The set of reasons is closed, and each can be explained."""

import re

import pytest

from interceptor.policy.verdict import Reason, Transport


@pytest.mark.parametrize("reason", Reason)
def test_reason_value_is_its_name_in_lower_case(reason: Reason) -> None:
    assert reason.value == reason.name.lower() == str(reason)
    assert Reason(reason.value) is reason


@pytest.mark.parametrize("reason", Reason)
def test_reason_explanation_is_one_sentence_with_a_remedy(reason: Reason) -> None:
    assert re.fullmatch(r"[a-zA-Z][^\n]+; [^\n]+[^.\n]", reason.explanation)


def test_reasons_are_the_documented_set() -> None:
    assert len(Reason) == 28


def test_transport_values_are_those_of_istio() -> None:
    assert [str(transport) for transport in Transport] == ["mutual_tls", "none"]
