"""Facts and patterns beyond what the cases of Istio's semantics show."""

from ipaddress import ip_address

from interceptor.policy.documents import FieldMatch
from interceptor.policy.matching import Attribute, Facts, Pattern
from interceptor.workload import Endpoint
from tests.policy.world import DB, WEB

FACTS = Facts(ip_address("::ffff:10.0.0.1"), Endpoint(ip_address("10.0.0.2"), 80), None, DB.identity)


def test_mapped_source_address_is_seen_as_ipv4() -> None:
    assert Pattern.block("10.0.0.0/8").matches(FACTS.values[Attribute.SOURCE_IP])
    assert not Pattern.block("::/0").matches(FACTS.values[Attribute.SOURCE_IP])


def test_patterns_of_one_family_never_match_the_other() -> None:
    six = Facts(ip_address("fd00::1"), Endpoint(ip_address("fd00::2"), 80), None)
    for text in ("0.0.0.0/0", "253.0.0.0/8"):
        assert not Pattern.block(text).matches(six.values[Attribute.SOURCE_IP])


def test_why_not_names_the_values() -> None:
    wanted = FieldMatch(Attribute.NAMESPACE, "namespaces", tuple(Pattern.parse(c) for c in "abcde"))
    assert wanted.why_not(FACTS) == "source.namespace is not known, not a, b, c or 2 more (namespaces)"
    excluded = FieldMatch(Attribute.DESTINATION_IP, "notValues", not_patterns=(Pattern.block("10.0.0.2"),))
    assert excluded.why_not(FACTS) == "destination.ip is 10.0.0.2, which notValues excludes with 10.0.0.2"
    assert FieldMatch(Attribute.SOURCE_IP, "x", (Pattern.block("10.0.0.0/8"),)).why_not(FACTS) is None
    source = FieldMatch(Attribute.SOURCE_IP, "ipBlocks", (Pattern.block("192.0.2.0/24"),))
    assert source.why_not(FACTS) == "source.ip is ::ffff:a00:1, not 192.0.2.0/24 (ipBlocks)"
    port = FieldMatch(Attribute.DESTINATION_PORT, "ports", (Pattern.port("81"),))
    assert port.why_not(FACTS) == "destination.port is 80, not 81 (ports)"


def test_identity_of_the_destination_is_its_own_attribute() -> None:
    principal = Pattern.principal(str(DB.identity))
    assert principal.matches(FACTS.values[Attribute.DESTINATION_PRINCIPAL])
    assert not principal.matches(FACTS.values[Attribute.PRINCIPAL])
    assert WEB.identity != DB.identity
