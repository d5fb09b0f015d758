"""However many rules there are and whatever they share, few of them are tried, and the verdict is that of trying all."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.policy import remembered, rule_grid, rule_index
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.documents import Kind, PolicyName, Rule
from interceptor.policy.matching import Facts, Projection
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from interceptor.policy.pattern_table import PatternTable
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.remembered import Remembered
from interceptor.policy.verdict import Denial, Permit, Reason
from interceptor.workload import Endpoint, parse_address
from tests.policy import naive
from tests.policy.random_policies import AT, CONNECTIONS, as_yaml, authorization, egress, exception, named
from tests.policy.test_properties import INBOUND, OUTBOUND, WORKLOADS, fewer_sets, modes, policy_set, word

MANY = 300
SPELT = "cluster.local/ns/shop/sa/web"
WEB, DB = WORKLOADS["10.0.0.1"], WORKLOADS["10.0.1.2"]
ENDPOINT = Endpoint(DB.addresses[0], 80)
ARRIVED = InboundAttempt(DB, ENDPOINT, WEB.addresses[0], WEB.identity, WEB, AT)
IN_PLAINTEXT = InboundAttempt(DB, ENDPOINT, WEB.addresses[0], None, None, AT)
LEAVING = OutboundAttempt(WEB, ENDPOINT, DB, AT)
TO_NOBODY = OutboundAttempt(WEB, Endpoint(parse_address("10.0.0.200"), 80), None, AT)


@pytest.fixture(scope="module")
def everything_in_grids() -> Iterator[None]:
    """No rule is found by its key alone, and every limit of a grid is reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_index, "FEW", 0)
        patch.setattr(rule_grid, "BLOCK", 2)
        patch.setattr(rule_grid, "SPARSE", 1)
        patch.setattr(rule_grid, "MOST_ROWS", 3)
        patch.setattr(remembered, "MOST", 2)
        yield


@fewer_sets
@given(modes, st.lists(st.one_of(authorization(), egress(), exception()), min_size=4, max_size=8).map(named))
@pytest.mark.usefixtures("everything_in_grids")
def test_verdict_from_grids_is_that_of_the_naive_evaluator(mode: MtlsMode, docs: list[naive.Doc]) -> None:
    policies = policy_set(mode, docs)
    for connection, attempt in zip(CONNECTIONS, INBOUND, strict=True):
        assert word(policies.decide_inbound(attempt)) == naive.inbound(docs, mode.value, connection, AT)
    for side, target, address, port, leaving in OUTBOUND:
        expected = naive.outbound(docs, mode.value, side, target, address, port, AT)
        assert word(policies.decide_outbound(leaving)) == expected


def deny(number: int, *rules: naive.Doc, selector: dict[str, str] | None = None) -> naive.Doc:
    spec: naive.Doc = {"action": "DENY", "rules": list(rules)}
    return of_kind("security.istio.io", "AuthorizationPolicy", number, spec, selector)


def of_kind(
    group: str, kind: str, number: int, spec: naive.Doc, selector: dict[str, str] | None = None
) -> naive.Doc:
    if selector:
        spec = {**spec, "selector": {"matchLabels": selector}}
    metadata = {"name": f"d{number:05}", "namespace": "shop"}
    return {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "spec": spec}


def source(**fields: list[str]) -> naive.Doc:
    return {"from": [{"source": fields}]}


def named_in(doc: naive.Doc) -> PolicyName:
    return PolicyName(doc["metadata"]["namespace"], doc["metadata"]["name"], Kind(doc["kind"]))


def exception_to(direction: str, number: int) -> naive.Doc:
    spec = {"direction": direction, "cidrs": ["10.0.0.0/8"], "ports": [str(1000 + number)]}
    spec |= {"reason": "r", "owner": "o", "expires": "2028-01-01"}
    return of_kind("policy.interceptor.io", "LegacyException", number, spec)


SHAPES: dict[str, Callable[[int], naive.Doc]] = {
    "excluded_namespace": lambda n: deny(n, source(notNamespaces=["shop", f"n{n}"])),
    "two_excluded_namespaces_that_all_share": lambda n: deny(n, source(notNamespaces=["bank", "shop"])),
    "excluded_ports": lambda n: deny(n, {"to": [{"operation": {"notPorts": ["80", str(1000 + n)]}}]}),
    "excluded_networks": lambda n: deny(n, source(notIpBlocks=[f"10.0.0.0/{8 + n % 16}", f"10.9.{n % 256}.0/24"])),
    "two_sources_that_exclude": lambda n: deny(
        n,
        {
            "from": [
                {"source": {"notNamespaces": ["shop", f"n{n}"]}},
                {"source": {"notPrincipals": ["*/sa/web", f"x{n}"]}},
            ]
        },
    ),
    "one_namespace_and_an_excluded_principal": lambda n: deny(
        n, source(namespaces=["shop"], notPrincipals=[SPELT, f"spiffe://{SPELT}", f"x{n}"])
    ),
    "fields_that_few_share_together": lambda n: deny(
        n,
        {
            "from": [{"source": {"namespaces": ["shop", f"n{n % 7}"], "ipBlocks": [f"10.{n % 5}.0.0/16"]}}],
            "to": [{"operation": {"ports": [str(80 + (n + 1) % 5)]}}],
        },
    ),
    "outbound_exceptions": lambda n: exception_to("OUTBOUND", n),
    "inbound_exceptions": lambda n: exception_to("INBOUND", n),
    "allow_lists": lambda n: of_kind(
        "policy.interceptor.io",
        "EgressPolicy",
        n,
        {"allow": [{"cidrs": ["10.0.0.0/8"], "identities": [f"cluster.local/ns/x/sa/s{n}"]}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_connection_that_none_of_many_rules_matches_tries_few_of_them(
    shape: Callable[[int], naive.Doc], monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = [shape(number) for number in range(MANY)]
    policies = PolicySet(MtlsMode.STRICT, parse_policies([("p.yaml", as_yaml(docs))], MeshNames(naive.ROOT)))
    tried = []
    matches = Rule.matches

    def counted(rule: Rule, facts: Facts) -> bool:
        tried.append(rule)
        return matches(rule, facts)

    monkeypatch.setattr(Rule, "matches", counted)
    verdicts: list[Any] = [policies.decide_inbound(each) for each in (ARRIVED, IN_PLAINTEXT)]
    verdicts += [policies.decide_outbound(each) for each in (LEAVING, TO_NOBODY)]
    assert len(tried) <= 2 * rule_index.FEW, f"{len(tried)} rules were tried"
    denials = {Reason.PLAINTEXT_REFUSED, Reason.UNKNOWN_DESTINATION, Reason.EGRESS_DENIED}
    assert all(isinstance(each, Permit) or each.reason in denials for each in verdicts)


def test_many_documents_about_modes_are_looked_at_once_for_each_workload() -> None:
    docs = [
        of_kind(
            "security.istio.io",
            "PeerAuthentication",
            number,
            {"portLevelMtls": {str(1000 + number): {"mode": "STRICT" if number % 2 else "PERMISSIVE"}}},
            {"app": "db"},
        )
        for number in range(MANY)
    ]
    policies = PolicySet(MtlsMode.DISABLE, parse_policies([("p.yaml", as_yaml(docs))], MeshNames(naive.ROOT)))
    for port in (80, 1000, 1001, 1299):
        decision = policies.modes.at(DB, port)
        side = naive.Side("shop", {"app": "db"}, "db", "10.0.1.2")
        mode, given_by = naive.mode(docs, "DISABLE", side, port)
        expected = None if given_by is None else named_in(given_by)
        assert (decision.mode, decision.given_by) == (mode, expected)
    known = policies.modes._known._values
    assert list(known) == [("shop", DB.labels)]


def test_value_that_is_remembered_is_found_out_once_and_again_after_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    asked: list[str] = []

    def get(key: str) -> str:
        def find_out() -> str:
            asked.append(key)
            return key

        return values.get(key, find_out)

    values: Remembered[str, str] = Remembered()
    assert [get(key) for key in "aabcca"] == list("aabcca")
    assert asked == list("abca")


def test_pattern_longer_than_the_value_is_not_looked_for() -> None:
    table = PatternTable.of(
        [
            (Projection.PREFIX, 2, "sh", 1),
            (Projection.PREFIX, 9, "shop-more", 2),
            (Projection.EXACT, 0, "sh", 3),
        ]
    )
    assert (table.found("sh"), table.found("shop-more"), table.found(None)) == ([1, 3], [1, 2], [])


def test_denial_by_many_allow_lists_names_some_of_them() -> None:
    docs = [SHAPES["allow_lists"](number) for number in range(12)]
    verdict = policy_set(MtlsMode.STRICT, docs).decide_outbound(LEAVING)
    assert isinstance(verdict, Denial)
    assert verdict.policy.startswith("EgressPolicy shop/d00000, EgressPolicy shop/d00001, ")
    assert verdict.policy.endswith("EgressPolicy shop/d00009 and 2 more")
