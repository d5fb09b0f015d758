"""Every branch of the two decisions, and what must hold between the modes."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import RESERVED_PORTS, InboundAttempt, OutboundAttempt, PolicySet
from interceptor.policy.verdict import Denial, Permit, Reason, Transport, Verdict
from interceptor.workload import Endpoint, Workload, WorkloadKey


def workload(name: str, address: str) -> Workload:
    identity = SpiffeId.parse(f"spiffe://cluster.local/ns/shop/sa/{name}")
    return Workload(WorkloadKey("shop", name), identity, (ip_address(address),), "node-1")


WEB, DATABASE = workload("web", "10.0.0.1"), workload("database", "10.0.0.2")
STRICT, PERMISSIVE, DISABLE = (PolicySet(mode) for mode in MtlsMode)
every_mode = pytest.mark.parametrize("policy", [STRICT, PERMISSIVE, DISABLE])
every_reserved_port = pytest.mark.parametrize("port", sorted(RESERVED_PORTS))


def outbound(destination: str, to: Workload | None = DATABASE) -> OutboundAttempt:
    return OutboundAttempt(WEB, Endpoint.parse(destination), to)


def inbound(identity: SpiffeId | None, port: int = 5432) -> InboundAttempt:
    destination = Endpoint(DATABASE.addresses[0], port)
    return InboundAttempt(DATABASE, destination, WEB.addresses[0], identity, WEB if identity else None)


def reason(verdict: Verdict) -> Reason:
    assert isinstance(verdict, Denial)
    assert verdict.detail
    return verdict.reason


def test_outbound_to_workload_is_encrypted_unless_disabled() -> None:
    attempt = outbound("10.0.0.2:5432")
    assert STRICT.decide_outbound(attempt) == Permit(Transport.MUTUAL_TLS)
    assert PERMISSIVE.decide_outbound(attempt) == Permit(Transport.MUTUAL_TLS)
    assert DISABLE.decide_outbound(attempt) == Permit(Transport.PLAINTEXT)


@every_mode
def test_outbound_to_unknown_destination_is_denied_in_every_mode(policy: PolicySet) -> None:
    assert reason(policy.decide_outbound(outbound("10.0.0.9:80", None))) is Reason.UNKNOWN_DESTINATION


@every_mode
@pytest.mark.parametrize("destination", ["169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.1.1]:80"])
def test_outbound_to_link_local_is_denied(policy: PolicySet, destination: str) -> None:
    assert reason(policy.decide_outbound(outbound(destination))) is Reason.LINK_LOCAL_DESTINATION


@every_mode
@every_reserved_port
def test_outbound_to_reserved_port_is_denied(policy: PolicySet, port: int) -> None:
    assert reason(policy.decide_outbound(outbound(f"10.0.0.2:{port}"))) is Reason.RESERVED_PORT


@every_mode
def test_inbound_with_identity_is_permitted(policy: PolicySet) -> None:
    assert policy.decide_inbound(inbound(WEB.identity)) == Permit(Transport.MUTUAL_TLS)


def test_inbound_plaintext_is_refused_in_strict_only() -> None:
    assert reason(STRICT.decide_inbound(inbound(None))) is Reason.PLAINTEXT_REFUSED
    assert PERMISSIVE.decide_inbound(inbound(None)) == Permit(Transport.PLAINTEXT)
    assert DISABLE.decide_inbound(inbound(None)) == Permit(Transport.PLAINTEXT)


@every_mode
@every_reserved_port
@pytest.mark.parametrize("identity", [None, WEB.identity])
def test_inbound_to_reserved_port_is_denied(policy: PolicySet, port: int, identity: SpiffeId | None) -> None:
    assert reason(policy.decide_inbound(inbound(identity, port))) is Reason.RESERVED_PORT


endpoints = st.builds(
    Endpoint,
    st.one_of(st.ip_addresses(), st.sampled_from([ip_address("10.0.0.2"), ip_address("169.254.0.1")])),
    st.one_of(st.integers(1, 65535), st.sampled_from(sorted(RESERVED_PORTS))),
)
workloads = st.sampled_from([WEB, DATABASE])
outbound_attempts = st.builds(OutboundAttempt, workloads, endpoints, st.one_of(st.none(), workloads))
inbound_attempts = st.builds(
    InboundAttempt, workloads, endpoints, st.ip_addresses(), st.sampled_from([None, WEB.identity])
)


@given(outbound_attempts, inbound_attempts)
def test_strict_never_permits_more_than_permissive(
    outbound_attempt: OutboundAttempt, inbound_attempt: InboundAttempt
) -> None:
    for strict, permissive in (
        (STRICT.decide_outbound(outbound_attempt), PERMISSIVE.decide_outbound(outbound_attempt)),
        (STRICT.decide_inbound(inbound_attempt), PERMISSIVE.decide_inbound(inbound_attempt)),
    ):
        if isinstance(strict, Permit):
            assert permissive == strict


@given(outbound_attempts, inbound_attempts)
def test_strict_never_permits_plaintext(
    outbound_attempt: OutboundAttempt, inbound_attempt: InboundAttempt
) -> None:
    plaintext = Permit(Transport.PLAINTEXT)
    assert STRICT.decide_outbound(outbound_attempt) != plaintext
    assert STRICT.decide_inbound(inbound_attempt) != plaintext


@given(outbound_attempts)
def test_outbound_without_known_workload_is_never_permitted(attempt: OutboundAttempt) -> None:
    if attempt.destination_workload is None:
        for policy in (STRICT, PERMISSIVE, DISABLE):
            assert isinstance(policy.decide_outbound(attempt), Denial)
