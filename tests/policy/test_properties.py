"""The product against the naive evaluator, over random policies; and what must never happen whatever the policies are."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.packed_rules import pack
from interceptor.policy.parse import parse_policies
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.trace import explain_inbound, explain_outbound
from interceptor.policy.verdict import Permit, Reason, Transport, Verdict
from interceptor.workload import Endpoint, Workload, WorkloadKey, parse_address
from tests.policy import naive
from tests.policy.random_policies import (
    AT,
    CONNECTIONS,
    PORTS,
    SIDES,
    UNKNOWN,
    as_yaml,
    authorization,
    named,
    peer_authentication,
    policy_documents,
)

# 135 inbound and 105 outbound connections are held against each of these: 108,000 pairs.
SETS = 450
modes = st.sampled_from(list(MtlsMode))
every_set = settings(max_examples=SETS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
fewer_sets = settings(every_set, max_examples=60)


def workload(side: naive.Side) -> Workload:
    return Workload(
        WorkloadKey(side.namespace, side.account),
        SpiffeId.parse(f"spiffe://{naive.principal_of(side)}"),
        (parse_address(side.address),),
        "node-1",
        Labels(side.labels),
    )


WORKLOADS = {side.address: workload(side) for side in SIDES}
INBOUND = tuple(
    InboundAttempt(
        WORKLOADS[each.to.address],
        Endpoint(parse_address(each.to.address), each.port),
        parse_address(each.source_ip),
        SpiffeId.parse(f"spiffe://{each.principal}") if each.principal else None,
        WORKLOADS.get(each.source_ip) if each.principal else None,
        AT,
    )
    for each in CONNECTIONS
)
OUTBOUND = tuple(
    (
        source,
        target,
        address,
        port,
        OutboundAttempt(
            WORKLOADS[source.address],
            Endpoint(parse_address(address), port),
            WORKLOADS[target.address] if target else None,
            AT,
        ),
    )
    for source in SIDES
    for target, address in (*((side, side.address) for side in SIDES), *((None, each) for each in UNKNOWN))
    for port in PORTS
)
ATTEMPTS = (*INBOUND, *(row[-1] for row in OUTBOUND))


def policy_set(mode: MtlsMode, docs: list[naive.Doc]) -> PolicySet:
    return PolicySet(mode, parse_policies([("policies.yaml", as_yaml(docs))], MeshNames(naive.ROOT)))


def decide(policies: PolicySet, attempt: Any) -> Verdict:
    if isinstance(attempt, InboundAttempt):
        return policies.decide_inbound(attempt)
    return policies.decide_outbound(attempt)


def word(verdict: Verdict) -> str:
    return str(verdict.transport) if isinstance(verdict, Permit) else str(verdict.reason)


@pytest.mark.timeout(180)  # about ten seconds of CPU; other work may have the rest
@every_set
@given(modes, policy_documents())
def test_verdict_is_that_of_the_naive_evaluator(mode: MtlsMode, docs: list[naive.Doc]) -> None:
    policies = policy_set(mode, docs)
    for connection, attempt in zip(CONNECTIONS, INBOUND, strict=True):
        expected = naive.inbound(docs, mode.value, connection, AT)
        assert word(policies.decide_inbound(attempt)) == expected, connection
    for source, target, address, port, attempt in OUTBOUND:
        expected = naive.outbound(docs, mode.value, source, target, address, port, AT)
        assert word(policies.decide_outbound(attempt)) == expected, attempt


@settings(every_set, max_examples=100)
@given(modes, policy_documents())
def test_explanation_ends_in_the_verdict(mode: MtlsMode, docs: list[naive.Doc]) -> None:
    policies = policy_set(mode, docs)
    for attempt in INBOUND:
        assert explain_inbound(policies, attempt).verdict == policies.decide_inbound(attempt)
    for *_, attempt in OUTBOUND:
        assert explain_outbound(policies, attempt).verdict == policies.decide_outbound(attempt)


@fewer_sets
@given(modes, policy_documents(), st.randoms(use_true_random=False))
def test_order_of_documents_means_nothing(
    mode: MtlsMode, docs: list[naive.Doc], order: random.Random
) -> None:
    shuffled = docs.copy()
    order.shuffle(shuffled)
    before, after = policy_set(mode, docs), policy_set(mode, shuffled)
    assert before == after
    for attempt in ATTEMPTS:
        assert decide(before, attempt) == decide(after, attempt)


@fewer_sets
@given(modes, policy_documents(), st.integers(0, 8))
def test_packed_policies_decide_as_the_plain_ones(mode: MtlsMode, docs: list[naive.Doc], some: int) -> None:
    plain = policy_set(mode, docs)
    packed = replace(plain, documents=(*pack(plain.documents[:some]), *plain.documents[some:]))
    assert packed == plain
    for attempt in ATTEMPTS:
        assert decide(packed, attempt) == decide(plain, attempt)


@settings(every_set, max_examples=150)
@given(
    modes,
    st.lists(peer_authentication(), max_size=5),
    peer_authentication(("STRICT", "STRICT", "UNSET")),
    st.integers(0, 5),
)
def test_adding_strict_never_permits_more(
    mode: MtlsMode, docs: list[naive.Doc], strict: naive.Doc, place: int
) -> None:
    """Inbound: nothing more at all. Outbound: never in plaintext what was not before; encrypted it may be."""
    docs_after = named_at(docs, strict, place)
    before, after = policy_set(mode, named_at(docs, None, place)), policy_set(mode, docs_after)
    for attempt in INBOUND:
        if isinstance(after.decide_inbound(attempt), Permit):
            assert isinstance(before.decide_inbound(attempt), Permit), attempt
    for *_, attempt in OUTBOUND:
        verdict = after.decide_outbound(attempt)
        if isinstance(verdict, Permit) and verdict.transport is Transport.PLAINTEXT:
            assert word(before.decide_outbound(attempt)) == "none", attempt


@fewer_sets
@given(modes, policy_documents(), authorization(("DENY",)))
def test_adding_a_deny_never_permits_more(mode: MtlsMode, docs: list[naive.Doc], deny: naive.Doc) -> None:
    before, after = policy_set(mode, docs), policy_set(mode, named([*docs, deny]))
    for attempt in ATTEMPTS:
        if isinstance(decide(after, attempt), Permit):
            assert isinstance(decide(before, attempt), Permit), attempt


@fewer_sets
@given(modes, policy_documents(), authorization(("ALLOW",)))
def test_removing_an_allow_never_permits_more_unless_it_was_the_last(
    mode: MtlsMode, docs: list[naive.Doc], allow: naive.Doc
) -> None:
    with_it, without = policy_set(mode, named([*docs, allow])), policy_set(mode, docs)
    for connection, attempt in zip(CONNECTIONS, INBOUND, strict=True):
        if isinstance(without.decide_inbound(attempt), Permit) and any(
            doc["kind"] == "AuthorizationPolicy"
            and doc["spec"]["action"] == "ALLOW"
            and not naive._is_dry_run(doc)
            and naive._applies(doc, connection.to)
            for doc in docs
        ):
            assert isinstance(with_it.decide_inbound(attempt), Permit), attempt


@fewer_sets
@given(modes, policy_documents())
def test_dry_run_changes_no_verdict(mode: MtlsMode, docs: list[naive.Doc]) -> None:
    kept = [doc for doc in docs if not naive._is_dry_run(doc)]
    policies, in_force = policy_set(mode, docs), policy_set(mode, kept)
    for attempt in ATTEMPTS:
        assert word(decide(policies, attempt)) == word(decide(in_force, attempt))


@fewer_sets
@given(modes, policy_documents())
def test_pending_set_denies_everything(mode: MtlsMode, docs: list[naive.Doc]) -> None:
    documents = policy_set(mode, docs).documents
    policies = PolicySet(mode, documents, pending="the policies cannot be read")
    for attempt in ATTEMPTS:
        assert word(decide(policies, attempt)) == Reason.POLICY_PENDING


def named_at(docs: list[naive.Doc], added: naive.Doc | None, place: int) -> list[naive.Doc]:
    """The documents with names in their order, and one more in between (or a gap)."""
    place = min(place, len(docs))
    with_gap = [*docs[:place], added, *docs[place:]]
    return [
        {**doc, "metadata": {**doc["metadata"], "name": f"d{number}"}}
        for number, doc in enumerate(with_gap)
        if doc is not None
    ]
