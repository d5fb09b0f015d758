"""What is asked of the API about a node's token, and what its answer proves.

Source: kubernetes.io, "TokenReview v1" and "Managing Service Accounts", "Bound service account tokens": a projected
token is bound to a pod, and the API no longer accepts it when that pod is gone. The names in `extra` are those of
"ServiceAccountTokenPodNodeInfo"; the node's came with Kubernetes 1.29, the pod's are older.
"""

import json
from dataclasses import dataclass
from typing import Final

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.fields import Fields
from interceptor.cluster.head import MAX_UID, ObjectKey
from interceptor.cluster.wire import parse_json
from interceptor.errors import InvalidInput, quoted

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
AUDIENCE: Final = "interceptor-ca"  # a token for the API server itself must not be shown to anybody else
MAX_TOKEN: Final = 16 * 1024
MAX_ERROR: Final = 4096
_WHAT: Final = "the token's review"
_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_POD_NAME, _POD_UID, _NODE_NAME = (
    f"authentication.kubernetes.io/{name}" for name in ("pod-name", "pod-uid", "node-name")
)


@dataclass(frozen=True, slots=True)
class ProvenPod:
    """The pod to which a token is bound, as the API says; `node` is None where the API does not say it."""

    pod: ObjectKey
    uid: str
    service_account: str
    node: str | None


def review_request(token: str) -> bytes:
    """The body to POST to PATH; Refused for what cannot be a token."""
    if not 0 < len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Refused(Code.POD_TOKEN_REFUSED, "what was sent is no token of a service account")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    return json.dumps(review).encode("ascii")


def parse_review(answer: bytes) -> ProvenPod:
    """What a review proves.  Refused when it proves nothing, InvalidInput when the answer is none of the API's."""
    status = Fields(_WHAT, parse_json(_WHAT, answer)).part("status")
    if not status.flag("authenticated", default=False):
        said = status.optional_text("error", MAX_ERROR) or "it gave no reason"
        raise Refused(Code.POD_TOKEN_REFUSED, f"the API does not accept the token: {quoted(said)}")
    # "A client that sets spec.audiences should validate that a compatible audience is returned": an API server that
    # knows nothing of audiences would accept a token that was meant for itself.
    if AUDIENCE not in status.texts("audiences", limit=100):
        raise Refused(Code.POD_TOKEN_REFUSED, f"the token is not for the audience {AUDIENCE}")
    user = status.part("user")
    namespace, account = _account(user.text("username", 1024))
    extra = user.part("extra")
    pod, uid = _only(extra, _POD_NAME), _only(extra, _POD_UID)
    if pod is None or uid is None:
        raise Refused(Code.POD_TOKEN_REFUSED, f"the token of {namespace}/{account} is not bound to a pod")
    return ProvenPod(ObjectKey(namespace, pod), uid, account, _only(extra, _NODE_NAME))


def _account(username: str) -> tuple[str, str]:
    namespace, colon, account = username.removeprefix(_ACCOUNT_PREFIX).partition(":")
    if not username.startswith(_ACCOUNT_PREFIX) or not colon or not namespace or not account:
        raise Refused(Code.POD_TOKEN_REFUSED, f"{quoted(username)} is not a service account")
    return namespace, account


def _only(extra: Fields, name: str) -> str | None:
    """The value of a field of `extra`, whose values are lists; None without any."""
    values = extra.texts(name, limit=10, characters=MAX_UID if name == _POD_UID else 253)
    if len(values) > 1:
        raise InvalidInput(f"{_WHAT}: {name} has {len(values)} values, expected one")
    return values[0] if values and values[0] else None
