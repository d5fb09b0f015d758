"""The closed set of refusals: the same word reaches the node's operator, the audit line and the test."""

from enum import StrEnum
from typing import Final

from interceptor.errors import InterceptorError


class Code(StrEnum):
    """Why the authority refused a request. `explanation` is one sentence for a person, `status` the one of HTTP."""

    explanation: str
    status: int

    def __new__(cls, value: str, status: int, explanation: str) -> "Code":
        """Make a member whose value is the word and which carries status and sentence, so that none can lack them."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        member.explanation = explanation
        return member

    # Joining with a token.
    TOKEN_INVALID = (
        "token_invalid",
        401,
        "the authority knows no such token; make one with 'interceptor ca token create' and copy all of it",
    )
    TOKEN_USED = (
        "token_used",
        401,
        "each token lets one node in, once; if nobody else of yours used it, remove the node that did, and make another",
    )
    TOKEN_EXPIRED = ("token_expired", 401, "the token was not used in time; make another with a longer --ttl")
    TOKEN_FOR_OTHER_NODE = (
        "token_for_other_node",
        403,
        "the token was made for a node of another name; compare 'node' in config.yaml with --node",
    )
    # Coming back with a return token.
    RETURN_TOKEN_UNKNOWN = (
        "return_token_unknown",
        401,
        "the node was removed or revoked since, or the authority is another; let the node join with a token",
    )
    RETURN_TOKEN_USED = (
        "return_token_used",
        401,
        "somebody came back with it already; if that was not this node, a copy of its disk is about: revoke the node",
    )
    RETURN_TOKEN_REPLACED = (
        "return_token_replaced",
        401,
        "the node has a newer one; if it was not restored from a copy of its disk, somebody else has such a copy",
    )
    RETURN_TOKEN_ADVANCED = (
        "return_token_advanced",
        409,
        "an answer of ours was lost; the node goes on by itself with its next token",
    )
    RETURN_TOKEN_EXPIRED = (
        "return_token_expired",
        401,
        "the node was away for longer than nodes may be (ca serve --return-period); let it join with a token",
    )
    # Joining with the token of a pod.
    POD_TOKEN_REFUSED = (
        "pod_token_refused",
        401,
        "the Kubernetes API does not vouch for the token; see that the pod is there, and the token's audience interceptor-ca",
    )
    NOT_A_NODE_AGENT = (
        "not_a_node_agent",
        403,
        "the token is not that of the agent's pod on a node; if no test of yours did that, look who can read the agents' tokens",
    )
    # Who the node is.
    NODE_NOT_AUTHORISED = (
        "node_not_authorised",
        401,
        "the request came with no certificate of a node that the authority knows; let the node join with a token",
    )
    NODE_REVOKED = (
        "node_revoked",
        403,
        "the node was revoked; 'interceptor ca revocations' on the authority says why",
    )
    NODE_SUPERSEDED = (
        "node_superseded",
        401,
        "somebody joined as this node since, and it still asks: two have its name; find out whose the other one is",
    )
    NODE_IDENTITY_EXPIRED = (
        "node_identity_expired",
        401,
        "the node's own certificate has expired; compare the clocks, or let the node join again with a new token",
    )
    NODE_IDENTITY_NOT_YET_VALID = (
        "node_identity_not_yet_valid",
        401,
        "the node's own certificate is not valid yet; compare the clocks of node and authority",
    )
    # What it may ask for.
    IDENTITY_NOT_ON_NODE = (
        "identity_not_on_node",
        403,
        "the node may not have this identity; allow it with 'interceptor ca node allow' if it should",
    )
    POD_NOT_ON_NODE = (
        "pod_not_on_node",
        403,
        "the Kubernetes API shows no such pod on the node; if the node goes on asking, find out who has its certificate",
    )
    IDENTITY_REVOKED = (
        "identity_revoked",
        403,
        "the identity was revoked; 'interceptor ca revocations' on the authority says why",
    )
    TRUST_DOMAIN_MISMATCH = (
        "trust_domain_mismatch",
        403,
        "the authority issues for its own trust domain only; compare 'trustDomain' in config.yaml on both sides",
    )
    ADDRESS_TAKEN = (
        "address_taken",
        409,
        "a workload of another node has this name or address already; give each its own, or remove the node that is gone",
    )
    # The request itself.
    REQUEST_MALFORMED = (
        "request_malformed",
        400,
        "the request is not one that this version of the authority reads; use the same version on both sides",
    )
    REQUEST_TOO_LARGE = (
        "request_too_large",
        413,
        "the request is larger than any honest one; use the same version on both sides",
    )
    SIGNING_REQUEST_REFUSED = (
        "signing_request_refused",
        400,
        "the signing request is not exactly for the identity; use the same version on both sides",
    )
    REQUEST_REPLAYED = (
        "request_replayed",
        409,
        "the same request was answered before; look for somebody who records the node's traffic",
    )
    CLOCK_SKEW = (
        "clock_skew",
        400,
        "the clocks of node and authority differ by more than 60 s; set them by NTP",
    )
    RATE_LIMITED = ("rate_limited", 429, "the node asks too often; it goes on by itself a little later")
    NOT_FOUND = ("not_found", 404, "the authority has no such resource; use the same version on both sides")
    # The authority itself.
    AUTHORITY_UNAVAILABLE = (
        "authority_unavailable",
        503,
        "the authority cannot issue now; its log and 'interceptor ca status' there say why",
    )


# What may be answered otherwise when it is asked again.
PASSING: Final = frozenset({Code.RATE_LIMITED, Code.AUTHORITY_UNAVAILABLE, Code.CLOCK_SKEW})
# What is about one workload and says nothing of its node.
OF_IDENTITY: Final = frozenset({Code.IDENTITY_NOT_ON_NODE, Code.POD_NOT_ON_NODE, Code.IDENTITY_REVOKED})


class Refused(InterceptorError):  # noqa: N818 -- a verdict on the request, and expected
    """The authority refused; `str(e)` is the one line that the node's operator sees, the code first."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code
        self.message = message
