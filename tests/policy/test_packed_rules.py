"""Packed rules are the rules; and a rule is filed under keys that whatever it matches has."""

from dataclasses import replace

from interceptor.policy.documents import AuthorizationPolicy
from interceptor.policy.filing import file_rules
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.packed_rules import PackedRules, pack
from interceptor.policy.parse import parse_policies
from tests.policy.world import authorization

TWO_RULES = (
    "[{from: [{source: {principals: [a/ns/x/sa/y], ipBlocks: ['fd00::/8']}}]}, "
    "{when: [{key: source.namespace, notValues: [x]}]}]"
)


def policy(rules: str) -> AuthorizationPolicy:
    (found,) = parse_policies([("p.yaml", authorization("a", rules=rules))], MeshNames())
    assert isinstance(found, AuthorizationPolicy)
    return found


def test_packed_rules_are_a_sequence_of_the_same_rules() -> None:
    plain = policy(TWO_RULES)
    (packed,) = pack([plain])
    assert isinstance(packed, AuthorizationPolicy)
    rules = packed.rules
    assert isinstance(rules, PackedRules)
    assert (len(rules), rules[0], rules[-1], rules[0:1]) == (
        2,
        plain.rules[0],
        plain.rules[1],
        plain.rules[0:1],
    )
    assert (rules == plain.rules, plain.rules == rules, hash(rules) == hash(plain.rules)) == (
        True,
        True,
        True,
    )
    assert rules == PackedRules(tuple(rules.packed), (None, None))
    assert rules != PackedRules(rules.packed[:1], rules.keys[:1])
    assert rules != 7
    assert replace(packed, rules=plain.rules) == plain


def test_rule_is_filed_under_the_rarest_field_also_among_those_that_are_filed() -> None:
    first, second = policy(TWO_RULES).rules
    (keys, none) = file_rules([first, second])
    assert none is None
    assert keys is not None
    ((_, value),) = keys
    assert value == "a/ns/x/sa/y"
    (again,) = file_rules([first], [keys, None])
    assert again != keys  # somebody is there already
