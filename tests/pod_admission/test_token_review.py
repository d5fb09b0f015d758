"""What the API's answer about a token proves, and which answers prove nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.head import ObjectKey
from interceptor.errors import InvalidInput
from interceptor.pod_admission.token_review import (
    AUDIENCE,
    MAX_TOKEN,
    ProvenPod,
    parse_review,
    review_request,
)

EXTRA = {
    "authentication.kubernetes.io/credential-id": ["JTI=1"],
    "authentication.kubernetes.io/node-name": ["node-1"],
    "authentication.kubernetes.io/pod-name": ["agent-x"],
    "authentication.kubernetes.io/pod-uid": ["uid-1"],
}


def review(*, extra: dict[str, Any] | None = None, username: str | None = None, **status: Any) -> bytes:
    user = {
        "username": "system:serviceaccount:mesh:agent" if username is None else username,
        "groups": ["system:authenticated"],
        "extra": EXTRA if extra is None else extra,
    }
    whole = {"authenticated": True, "audiences": [AUDIENCE], "user": user, **status}
    return json.dumps({"kind": "TokenReview", "status": whole}).encode()


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in EXTRA.items() if not key.endswith(names)}


def refusal(answer: bytes) -> str:
    with pytest.raises(Refused) as caught:
        parse_review(answer)
    assert caught.value.code is Code.POD_TOKEN_REFUSED
    assert str(caught.value).isprintable()
    return caught.value.message


def test_review_asks_for_our_audience_alone():
    assert json.loads(review_request("a.b-c_d")) == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": "a.b-c_d", "audiences": ["interceptor-ca"]},
    }


@pytest.mark.parametrize("token", ["", "a b", "a\n", "ä", "a" * (MAX_TOKEN + 1)])
def test_text_that_is_no_token_is_refused_without_showing_it(token):
    with pytest.raises(Refused) as caught:
        review_request(token)
    assert caught.value.code is Code.POD_TOKEN_REFUSED
    assert str(caught.value) == "pod_token_refused: what was sent is no token of a service account"


def test_token_that_is_bound_to_a_pod_proves_the_pod_and_its_node():
    assert parse_review(review()) == ProvenPod(ObjectKey("mesh", "agent-x"), "uid-1", "agent", "node-1")


@pytest.mark.parametrize(
    "extra", [without("node-name"), {**EXTRA, "authentication.kubernetes.io/node-name": [""]}]
)
def test_server_that_says_nothing_of_the_node_leaves_it_open(extra):
    assert parse_review(review(extra=extra)).node is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"status": {}}', "the API does not accept the token: 'it gave no reason'"),
        (b"{}", "the API does not accept the token: 'it gave no reason'"),
        (review(authenticated=False, error="expired\n"), r"the API does not accept the token: 'expired\n'"),
        (review(authenticated=None), "does not accept"),
        (
            review(audiences=["https://kubernetes.default.svc"]),
            "the token is not for the audience interceptor-ca",
        ),
        (review(audiences=[]), "the token is not for the audience"),
        (review(audiences=None), "the token is not for the audience"),
        (review(username="system:node:node-1"), "'system:node:node-1' is not a service account"),
        (review(username="system:serviceaccount:mesh"), "is not a service account"),
        (review(username="system:serviceaccount::agent"), "is not a service account"),
        (review(username="system:serviceaccount:mesh:"), "is not a service account"),
        (review(extra=without("pod-uid")), "the token of mesh/agent is not bound to a pod"),
        (review(extra=without("pod-name")), "the token of mesh/agent is not bound to a pod"),
        (review(extra={}), "the token of mesh/agent is not bound to a pod"),
    ],
)
def test_answer_that_proves_no_pod_is_refused(answer, message):
    assert message in refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"status": 1}',
        review(authenticated="yes"),
        review(audiences="interceptor-ca"),
        review(user={}),
        review(user={"username": 5}),
        review(extra={**EXTRA, "authentication.kubernetes.io/pod-uid": "uid-1"}),
        review(extra={**EXTRA, "authentication.kubernetes.io/pod-uid": ["uid-1", "uid-2"]}),
        review(extra={**EXTRA, "authentication.kubernetes.io/pod-name": ["x" * 10_000]}),
    ],
)
def test_answer_that_is_none_of_the_api_is_invalid(answer):
    with pytest.raises(InvalidInput):
        parse_review(answer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["authenticated", "audiences", "user", "username", "extra", "error"]), inner
            )
        ),
    )
)
def test_any_status_is_refused_or_invalid(status):
    with pytest.raises((Refused, InvalidInput)):
        parse_review(json.dumps({"status": status}).encode())
