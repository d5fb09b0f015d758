"""The two verdicts and the closed set of reasons: the same word reaches record, metric, command line and test."""

from dataclasses import dataclass
from enum import StrEnum


class Transport(StrEnum):
    """How the bytes travel between the two proxies; the values are Istio's `connection_security_policy`."""

    MUTUAL_TLS = "mutual_tls"
    PLAINTEXT = "none"


class Reason(StrEnum):
    """Why a connection was denied, failed or was closed by us. `explanation` is one sentence for a person."""

    explanation: str

    def __new__(cls, value: str, explanation: str) -> "Reason":
        """Make a member whose value is the word and which carries its sentence, so that none can lack one."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        return member

    # What policy decides.
    UNKNOWN_DESTINATION = (
        "unknown_destination",
        (
            "the destination is inside the mesh's address ranges but no enrolled workload has this address; "
            "enrol the workload, or take the address out of mesh.cidrs"
        ),
    )
    LINK_LOCAL_DESTINATION = (
        "link_local_destination",
        "a link-local address does not say which workload is meant; connect to one of its other addresses",
    )
    RESERVED_PORT = (
        "reserved_port",
        "ports 15001, 15006 and 15008 belong to the proxy; let the application use another port",
    )
    PLAINTEXT_REFUSED = (
        "plaintext_refused",
        "plaintext arrived at a workload in STRICT mode; enrol the source, or set mode PERMISSIVE",
    )
    POLICY_DENIED = (
        "policy_denied",
        "a DENY policy matches the connection; 'interceptor explain' shows which of its rules, change it or the source",
    )
    NO_ALLOW_MATCHED = (
        "no_allow_matched",
        (
            "the workload has ALLOW policies and none of them matches; add the source to one, "
            "'interceptor explain' shows why each did not match"
        ),
    )
    POLICY_PENDING = (
        "policy_pending",
        (
            "a policy that must be there is not, so nobody knows what it would say; "
            "see 'interceptor policies' for what is missing or wrong"
        ),
    )
    EGRESS_DENIED = (
        "egress_denied",
        "no egress policy of the source allows the destination; add it to spec.allow of an EgressPolicy",
    )
    PLAINTEXT_EGRESS_REFUSED = (
        "plaintext_egress_refused",
        (
            "the destination wants plaintext and the source's side has not agreed to send any there; "
            "set the destination's mode to PERMISSIVE, or agree in an EgressPolicy or LegacyException"
        ),
    )
    SOURCE_ADDRESS_MISMATCH = (
        "source_address_mismatch",
        (
            "the peer proved an identity and connected from an address that does not belong to it; check that the address "
            "was not given to another workload, that nothing between the nodes rewrites addresses, and that both nodes "
            "have the same registry"
        ),
    )
    # What this node could not establish about the connection.
    NO_ORIGINAL_DESTINATION = (
        "no_original_destination",
        "the kernel does not know where the application meant to connect; do not connect to port 15001 directly",
    )
    IDENTITY_MISMATCH = (
        "identity_mismatch",
        (
            "the peer proved another identity than the one registered for this address; check that the address was "
            "not given to another workload, and that both nodes have the same registry"
        ),
    )
    AUTHORITY_MISMATCH = (
        "authority_mismatch",
        "the peer asked for an address that is not this workload's; check that both nodes have the same registry",
    )
    CERTIFICATE_MISSING = (
        "certificate_missing",
        "this workload has no valid certificate; see 'interceptor certificates' for why it could not be renewed",
    )
    TOO_MANY_CONNECTIONS = (
        "too_many_connections",
        "the workload has reached its limit of connections or handshakes; close some, or raise limits.* in config.yaml",
    )
    RESOURCES_EXHAUSTED = (
        "resources_exhausted",
        (
            "the agent could get no socket from the kernel, most likely all its file descriptors are in use; close "
            "connections, lower limits.connectionsPerWorkload, or raise the agent's limit of open files (ulimit -n)"
        ),
    )
    # What was wrong with the TLS peer.
    PEER_UNTRUSTED = (
        "peer_untrusted",
        "the peer's certificate does not lead to a root of its trust domain; check that both nodes share a trust bundle",
    )
    PEER_CERTIFICATE_EXPIRED = (
        "peer_certificate_expired",
        "the peer's certificate has expired; check the clocks of both nodes and the renewal on the peer's node",
    )
    PEER_CERTIFICATE_NOT_YET_VALID = (
        "peer_certificate_not_yet_valid",
        "the peer's certificate is not valid yet; check the clocks of both nodes",
    )
    PEER_IDENTITY_INVALID = (
        "peer_identity_invalid",
        "the peer's certificate does not carry exactly one valid SPIFFE ID; check the authority that issued it",
    )
    PEER_REVOKED = (
        "peer_revoked",
        "the peer's identity or certificate was revoked; 'interceptor ca revocations' on the authority says why",
    )
    PEER_WITHOUT_CERTIFICATE = (
        "peer_without_certificate",
        "the peer showed no certificate; only the proxy of an enrolled workload may connect to port 15008",
    )
    HANDSHAKE_FAILED = (
        "handshake_failed",
        "the TLS handshake failed; both ends must speak TLS 1.3, see the detail and the peer's own record",
    )
    HANDSHAKE_TIMEOUT = (
        "handshake_timeout",
        "the TLS handshake took too long; check the load of the peer's node, or raise limits.handshakeTimeout",
    )
    # What happened inside the tunnel and behind it.
    NOT_A_TUNNEL_REQUEST = (
        "not_a_tunnel_request",
        "what arrived on port 15008 was not a CONNECT request; only another proxy may connect there",
    )
    DENIED_BY_PEER = (
        "denied_by_peer",
        "policy on the destination's node denied the connection; its record there has the reason",
    )
    DESTINATION_REFUSED = (
        "destination_refused",
        "nothing accepts connections on this port of the destination; check that the application is listening",
    )
    DESTINATION_TIMEOUT = (
        "destination_timeout",
        "the destination did not answer in time; check that nothing drops packets to its port or to port 15008",
    )
    DESTINATION_UNREACHABLE = (
        "destination_unreachable",
        "there is no route to the destination; check the network between the nodes",
    )
    # Why we closed a connection that had been permitted.
    WITHDRAWN = (
        "withdrawn",
        "the workload was withdrawn from the mesh while it was connected; connect again",
    )
    IDENTITY_REVOKED = (
        "identity_revoked",
        "this workload's own identity or certificate was revoked; 'interceptor ca revocations' on the authority says why",
    )
    CONNECTION_TOO_OLD = (
        "connection_too_old",
        "the connection reached limits.connectionMaxAge; connect again, or raise the limit in config.yaml",
    )
    PEER_CERTIFICATE_EXPIRED_SINCE = (
        "peer_certificate_expired_since",
        (
            "the peer's certificate ended while it was connected, and certificates.expiredPeerGrace has passed; connect "
            "again, and check the renewal on the peer's node"
        ),
    )
    AGENT_STOPPING = ("agent_stopping", "the agent is stopping; start it again with 'interceptor up'")


@dataclass(frozen=True, slots=True)
class Permit:
    """The connection may be made, in this way and no other.

    `policy` names the document that permitted it (none: nothing forbade it), `exception` the one that let plaintext
    through; `note` is what was found odd, `dry_run` what policies in dry run would change.
    """

    transport: Transport
    policy: str = ""
    exception: str = ""
    note: str = ""
    dry_run: str = ""


@dataclass(frozen=True, slots=True)
class Denial:
    """The connection must not be made; `detail` names the values that led to the reason, `policy` the document."""

    reason: Reason
    detail: str = ""
    policy: str = ""
    dry_run: str = ""


Verdict = Permit | Denial
