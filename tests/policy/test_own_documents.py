"""What Istio lacks: the source's own side, exceptions that end, identity bound to address, policies that must be there."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import REQUIRED_POLICY_LABEL, AddressCheck, PolicySet
from interceptor.policy.trace import explain_inbound, explain_outbound
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from tests.policy.world import (
    AT,
    DB,
    LEDGER,
    WEB,
    authorization,
    egress,
    exception,
    out,
    peer_authentication,
    policies,
    to,
    word,
)

DISABLE_LEDGER = peer_authentication("plain", "bank", mtls="{mode: DISABLE}")
LEGACY = "10.0.9.9"
EVERYTHING = "[{}]"


def decided(found: PolicySet, attempt: InboundAttempt | OutboundAttempt) -> Permit | Denial:
    """The verdict, which its explanation must end in too."""
    if isinstance(attempt, InboundAttempt):
        verdict = found.decide_inbound(attempt)
        assert explain_inbound(found, attempt).verdict == verdict
    else:
        verdict = found.decide_outbound(attempt)
        assert explain_outbound(found, attempt).verdict == verdict
    return verdict


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (DISABLE_LEDGER, "plaintext_egress_refused"),
        (DISABLE_LEDGER + egress("agreed", acceptPlaintextTo="[10.1.0.0/16]"), "none"),
        (DISABLE_LEDGER + egress("agreed", acceptPlaintextTo="[10.2.0.0/16]"), "plaintext_egress_refused"),
        (
            DISABLE_LEDGER
            + egress("agreed", acceptPlaintextTo="[10.1.0.0/16]")
            + egress("refuse", "istio-system", refusePlaintextTo="[10.0.0.0/8]"),
            "plaintext_egress_refused",
        ),
        (DISABLE_LEDGER + exception("old", "OUTBOUND", cidrs="[10.1.0.3]"), "none"),
        (DISABLE_LEDGER + exception("old", "OUTBOUND", cidrs="[10.1.0.3]", ports="['81']"), "plaintext_egress_refused"),
        (DISABLE_LEDGER + exception("old", "INBOUND", cidrs="[10.1.0.3]"), "plaintext_egress_refused"),
        (peer_authentication("plain", "istio-system", mtls="{mode: DISABLE}"), "none"),
        (
            peer_authentication("plain", "istio-system", mtls="{mode: DISABLE}")
            + egress("refuse", refusePlaintextTo="[0.0.0.0/0]"),
            "plaintext_egress_refused",
        ),
    ],
)  # fmt: skip
def test_plaintext_leaves_only_where_the_sources_side_agrees(documents: str, expected: str) -> None:
    assert word(decided(policies(documents), out(WEB, LEDGER))) == expected


def test_disable_of_the_own_namespace_is_the_own_side() -> None:
    documents = peer_authentication(
        "plain", selector="{matchLabels: {app: db}}", portLevelMtls="{80: {mode: DISABLE}}"
    )
    assert word(decided(policies(documents), out(WEB, DB, 80))) == "none"
    assert word(decided(policies(documents), out(WEB, DB, 81))) == "mutual_tls"
    assert word(decided(policies(documents), out(LEDGER, DB, 80))) == "plaintext_egress_refused"


def test_refusal_of_plaintext_says_who_wanted_it() -> None:
    verdict = decided(policies(DISABLE_LEDGER), out(WEB, LEDGER))
    assert isinstance(verdict, Denial)
    assert verdict.policy == "PeerAuthentication bank/plain"
    assert verdict.detail == (
        "PeerAuthentication bank/plain wants plaintext and is of another namespace than shop/web"
    )


@pytest.mark.parametrize(
    ("allow", "port", "expected"),
    [
        ("[{cidrs: [10.0.0.0/24]}]", 80, "mutual_tls"),
        ("[{cidrs: [10.0.0.0/24], ports: ['81']}]", 80, "egress_denied"),
        ("[{ports: ['81']}, {identities: ['*/sa/db']}]", 80, "mutual_tls"),
        ("[{identities: ['*/sa/ledger']}]", 80, "egress_denied"),
        ("[]", 80, "egress_denied"),
    ],
)
def test_egress_allow_list_is_all_that_is_let_out(allow: str, port: int, expected: str) -> None:
    verdict = decided(policies(egress("out", allow=allow)), out(WEB, DB, port))
    assert word(verdict) == expected
    assert verdict.policy == "EgressPolicy shop/out"


def test_egress_allow_lists_add_up_and_bind_only_whom_they_select() -> None:
    documents = egress("a", allow="[{ports: ['81']}]") + egress("b", allow="[{ports: ['80']}]")
    assert decided(policies(documents), out(WEB, DB, 80)).policy == "EgressPolicy shop/b"
    other = egress("a", selector="{matchLabels: {app: db}}", allow="[]")
    assert word(decided(policies(other), out(WEB, DB))) == "mutual_tls"


def test_unknown_address_is_reached_by_exception_only_and_in_plaintext() -> None:
    old = exception("erp", "OUTBOUND", cidrs="[10.0.9.0/24]", ports="['1521']")
    assert word(decided(policies(""), out(WEB, LEGACY, 1521))) == "unknown_destination"
    verdict = decided(policies(old), out(WEB, LEGACY, 1521))
    assert verdict == Permit(Transport.PLAINTEXT, exception="LegacyException shop/erp")
    assert word(decided(policies(old), out(WEB, LEGACY, 80))) == "unknown_destination"
    assert word(decided(policies(old), out(LEDGER, LEGACY, 1521))) == "unknown_destination"
    assert (
        word(decided(policies(old + egress("none", allow="[]")), out(WEB, LEGACY, 1521))) == "egress_denied"
    )


def test_known_workload_is_reached_encrypted_whatever_is_excepted() -> None:
    old = exception("erp", "OUTBOUND", cidrs="[0.0.0.0/0]")
    assert word(decided(policies(old), out(WEB, DB))) == "mutual_tls"


def test_inbound_exception_lets_plaintext_into_strict_but_not_past_policies() -> None:
    old = exception(
        "probe", "INBOUND", selector="{matchLabels: {app: db}}", cidrs="[192.0.2.7]", ports="['80']"
    )
    strict = policies(old, MtlsMode.STRICT)
    verdict = decided(strict, to(DB, "192.0.2.7"))
    assert verdict == Permit(Transport.PLAINTEXT, exception="LegacyException shop/probe")
    assert word(decided(strict, to(DB, "192.0.2.8"))) == "plaintext_refused"
    assert word(decided(strict, to(DB, "192.0.2.7", 81))) == "plaintext_refused"
    assert word(decided(strict, to(WEB, "192.0.2.7"))) == "plaintext_refused"
    deny = authorization("deny", action="DENY", rules=EVERYTHING)
    assert word(decided(policies(old + deny, MtlsMode.STRICT), to(DB, "192.0.2.7"))) == "policy_denied"


def test_exception_ends_with_its_last_day() -> None:
    strict = policies(exception("x", "INBOUND", cidrs="[192.0.2.7]", expires="2027-01-31"), MtlsMode.STRICT)
    end = datetime(2027, 2, 1, tzinfo=UTC).timestamp()
    before, after = (replace(to(DB, "192.0.2.7"), at=at) for at in (end - 1, end))
    assert word(decided(strict, before)) == "none"
    assert word(decided(strict, after)) == "plaintext_refused"
    timeless = InboundAttempt(DB, before.destination, before.source_address, None)
    assert word(decided(strict, timeless)) == "plaintext_refused"


def test_identity_from_the_address_of_another_is_refused_or_flagged() -> None:
    forged = to(DB, WEB, holder=LEDGER)
    verdict = decided(policies(""), forged)
    assert isinstance(verdict, Denial)
    assert verdict.reason is Reason.SOURCE_ADDRESS_MISMATCH
    assert "shop/sa/web came from 10.0.0.1, which belongs to bank/ledger" in verdict.detail
    flagging = PolicySet(MtlsMode.STRICT, address_check=AddressCheck.FLAG)
    flagged = decided(flagging, forged)
    assert isinstance(flagged, Permit)
    assert flagged.note == verdict.detail


def test_identity_of_ours_from_an_address_that_nobody_has_is_refused_or_flagged() -> None:
    stolen = replace(to(DB, WEB), address_holder=None)
    verdict = decided(policies(""), stolen)
    assert verdict == Denial(
        Reason.SOURCE_ADDRESS_MISMATCH,
        "spiffe://cluster.local/ns/shop/sa/web came from 10.0.0.1, which no workload is known to have",
    )
    flagging = PolicySet(MtlsMode.STRICT, address_check=AddressCheck.FLAG)
    assert decided(flagging, stolen) == Permit(Transport.MUTUAL_TLS, note=verdict.detail)


def test_identity_of_another_trust_domain_is_let_pass_and_flagged_but_not_from_our_addresses() -> None:
    foreign = SpiffeId.parse("spiffe://other.org/ns/shop/sa/web")
    federated = replace(to(DB, WEB), source_identity=foreign, address_holder=None)
    assert decided(policies(""), federated) == Permit(
        Transport.MUTUAL_TLS,
        note="spiffe://other.org/ns/shop/sa/web is of another trust domain, whose addresses are not known here",
    )
    assert word(decided(policies(""), replace(federated, address_holder=WEB))) == "source_address_mismatch"


def test_required_policy_that_is_not_there_denies_both_ways() -> None:
    pending = replace(DB, labels=Labels({REQUIRED_POLICY_LABEL: "db"}))
    for attempt in (to(pending, WEB), out(pending, WEB)):
        verdict = decided(policies(authorization("db", "bank", rules=EVERYTHING)), attempt)
        assert isinstance(verdict, Denial)
        assert (verdict.reason, verdict.policy) == (Reason.POLICY_PENDING, "AuthorizationPolicy shop/db")
    in_dry_run = authorization("db", rules=EVERYTHING).replace(
        "namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}"
    )
    for useless, why in (
        (in_dry_run, "is in dry run only"),
        (authorization("db", rules=EVERYTHING, selector="{matchLabels: {app: other}}"), "does not select it"),
    ):
        verdict = decided(policies(useless), to(pending, WEB))
        assert isinstance(verdict, Denial)
        assert verdict.detail == f"shop/db requires AuthorizationPolicy shop/db, which {why}"
    there = policies(authorization("db", rules=EVERYTHING))
    assert word(decided(there, to(pending, WEB))) == "mutual_tls"


def test_pending_set_denies_with_its_reason() -> None:
    found = PolicySet(MtlsMode.PERMISSIVE, pending="/etc/x.yaml:1: broken")
    assert decided(found, to(DB, WEB)) == Denial(Reason.POLICY_PENDING, "/etc/x.yaml:1: broken")
    assert word(decided(found, out(WEB, DB))) == "policy_pending"


def test_first_policy_by_name_is_the_one_that_is_named() -> None:
    documents = (
        authorization("m", action="DENY", rules="[{from: [{source: {namespaces: [shop]}}]}]")
        + authorization("z", action="DENY", rules="[{to: [{operation: {ports: ['80']}}]}]")
        + authorization("b", action="DENY", rules="[{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]")
        + authorization("c", action="DENY", rules="[{from: [{source: {notNamespaces: [bank]}}]}]")
    )
    assert decided(policies(documents), to(DB, WEB)).policy == "AuthorizationPolicy shop/b"


def test_first_mode_of_equals_by_name_is_the_one_that_is_named() -> None:
    for first, second in (("{app: web}", "{app: web, tier: front}"), ("{tier: front}", "{app: web}")):
        documents = "".join(
            peer_authentication(name, selector=f"{{matchLabels: {labels}}}", mtls="{mode: STRICT}")
            for name, labels in (("b", second), ("a", first))
        )
        verdict = decided(policies(documents), to(WEB, "192.0.2.7"))
        assert verdict.policy == "PeerAuthentication shop/a"


@pytest.mark.parametrize(
    ("documents", "note"),
    [
        (authorization("t", action="DENY", rules=EVERYTHING), "AuthorizationPolicy shop/t, in dry run, would deny it"),
        (authorization("t"), "no ALLOW policy would match if those in dry run were in force"),
        (authorization("t", rules=EVERYTHING), ""),
    ],
)  # fmt: skip
def test_dry_run_says_what_it_would_change(documents: str, note: str) -> None:
    trial = documents.replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}")
    assert decided(policies(trial), to(DB, WEB)).dry_run == note


def test_dry_run_of_an_allow_says_that_it_would_permit() -> None:
    trial = authorization("t", rules=EVERYTHING).replace(
        "namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}"
    )
    verdict = decided(policies(trial + authorization("none")), to(DB, WEB))
    assert verdict.dry_run == "AuthorizationPolicy shop/t, in dry run, would permit it"


def test_explanation_of_what_the_address_alone_decides() -> None:
    assert decided(policies(""), to(DB, WEB, 15008)).policy == ""
    assert word(decided(policies(""), out(WEB, "169.254.1.1"))) == "link_local_destination"


def test_set_with_a_name_twice_is_refused() -> None:
    document = policies(authorization("a")).documents[0]
    with pytest.raises(ValueError, match="AuthorizationPolicy shop/a is there twice"):
        PolicySet(MtlsMode.STRICT, (document, document))


def test_explanation_says_why_each_document_did_not_match() -> None:
    documents = (
        authorization("ledger", rules="[{from: [{source: {namespaces: [bank]}}]}]")
        + authorization("other", rules=EVERYTHING, selector="{matchLabels: {app: web}}")
        + authorization("empty")
        + authorization("third", rules=EVERYTHING, selector="{matchLabels: {tier: back}}")
        + peer_authentication("a", mtls="{mode: UNSET}")
        + peer_authentication("b", selector="{matchLabels: {app: web}}", mtls="{mode: STRICT}")
    )
    trace = explain_inbound(policies(documents), to(DB, WEB))
    assert [(step.name, step.text) for step in trace.steps] == [
        ("mode", "PeerAuthentication shop/b does not select shop/db: its label app is db, not web"),
        ("mode", "PeerAuthentication shop/a, namespace-wide, leaves it unset for port 80"),
        ("mode", "so it is PERMISSIVE by mode in the configuration"),
        ("policy", "AuthorizationPolicy shop/empty (ALLOW) does not match: it has no rules"),
        (
            "policy",
            "AuthorizationPolicy shop/ledger (ALLOW) does not match: rule 0: source.namespace is shop, not bank (namespaces)",
        ),
        ("policy", "AuthorizationPolicy shop/other does not select shop/db: its label app is db, not web"),
        ("policy", "AuthorizationPolicy shop/third does not select shop/db: it has no label tier=back"),
        ("verdict", "no ALLOW policy of shop/db matches cluster.local/ns/shop/sa/web from 10.0.0.1"),
    ]
    assert not trace.steps[-1].passed


def test_explanation_of_an_exception_says_for_whom_and_when_it_ended() -> None:
    documents = exception("now", "INBOUND", cidrs="[192.0.2.7]") + exception(
        "over", "INBOUND", cidrs="[192.0.2.7]", expires="2026-12-31"
    )
    steps = explain_inbound(policies(documents, MtlsMode.STRICT), to(DB, "192.0.2.7")).steps
    texts = [step.text for step in steps if step.name == "exception"]
    assert texts == [
        "LegacyException shop/now covers it, for ops",
        "LegacyException shop/over does not cover it: its last day was 2026-12-31 (UTC)",
    ]
    assert datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp() == AT


def test_plaintext_to_who_is_certainly_outside_is_let_out_unless_the_source_refuses_it() -> None:
    attempt = replace(out(WEB, LEGACY, 1521), is_outside=True)
    assert decided(policies(""), attempt) == Permit(Transport.PLAINTEXT)
    assert word(decided(policies(""), replace(attempt, is_outside=False))) == "unknown_destination"
    refused = decided(policies(egress("e", refusePlaintextTo="[10.0.9.0/24]")), attempt)
    assert isinstance(refused, Denial)
    assert (refused.reason, refused.detail, refused.policy) == (
        Reason.PLAINTEXT_EGRESS_REFUSED,
        "EgressPolicy shop/e refuses plaintext to 10.0.9.9",
        "EgressPolicy shop/e",
    )
    listed = policies(egress("e", allow="[]"))
    assert word(decided(listed, attempt)) == "egress_denied"
    assert decided(policies(egress("e", allow="[{cidrs: [10.0.9.9], ports: ['1521']}]")), attempt) == Permit(
        Transport.PLAINTEXT, "EgressPolicy shop/e"
    )


@pytest.mark.parametrize(
    ("address", "is_outside", "expected"),
    [
        ("169.254.169.254", True, "none"),
        ("169.254.169.254", False, "link_local_destination"),
        ("fe80::1", True, "link_local_destination"),
    ],
)
def test_link_local_destination_outside_is_decided_by_policy_if_its_link_is_not_needed(
    address: str, is_outside: bool, expected: str
) -> None:
    attempt = replace(out(WEB, address, 80), is_outside=is_outside)
    assert word(decided(policies(egress("e", allow="[{ports: ['80']}]")), attempt)) == expected


@pytest.mark.parametrize(
    ("text", "web", "db"),
    [
        ("", False, False),
        (egress("e", allow="[]"), True, True),
        (egress("e", refusePlaintextTo="[10.0.9.0/24]"), True, True),
        (egress("e", acceptPlaintextTo="[10.0.9.0/24]"), False, False),  # it denies nothing
        (egress("e", selector="{matchLabels: {app: web}}", allow="[]"), True, False),
        (egress("e", "elsewhere", allow="[]"), False, False),
        (authorization("a", rules="[]"), False, False),
    ],
)
def test_everything_is_asked_about_where_an_egress_policy_can_deny_it(text: str, web: bool, db: bool) -> None:
    found = policies(text)
    assert found.capturing(WEB.namespace, WEB.labels) is web
    assert found.capturing(DB.namespace, DB.labels) is db
    assert found.capturing_strangers() is (web or db or "elsewhere" in text)


def test_everything_is_asked_about_while_nobody_knows_what_the_policies_say() -> None:
    found = replace(policies(""), pending="broken")
    assert found.capturing(WEB.namespace, WEB.labels)
    assert found.capturing_strangers()
