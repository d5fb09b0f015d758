"""Each document as values, and each mistake with its file, line, column and field."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.errors import PolicyError
from interceptor.labels import Labels
from interceptor.policy.documents import (
    Action,
    AuthorizationPolicy,
    EgressPolicy,
    Kind,
    LegacyException,
    PeerAuthentication,
    PolicyName,
    Rule,
)
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import MAX_CHARACTERS, parse_file, parse_policies, require_unique
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.workload import Direction
from tests.policy.random_policies import as_yaml, policy_documents
from tests.policy.world import authorization, egress, exception, peer_authentication

ROOT = MeshNames()
HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n"


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policies([("p.yaml", text)], ROOT)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_peer_authentication_is_read() -> None:
    text = peer_authentication(
        "a",
        selector="{matchLabels: {app: db}}",
        mtls="{mode: STRICT}",
        portLevelMtls="{80: {mode: UNSET}, 81: {}}",
    )
    (found,) = parse_file("p.yaml", text, ROOT)
    assert isinstance(found, PeerAuthentication)
    assert str(found.head.name) == "PeerAuthentication shop/a"
    assert str(found.head.place) == "p.yaml:2"
    assert (found.head.selector, found.mode, found.ports) == (
        Labels({"app": "db"}), MtlsMode.STRICT, {80: None, 81: None}
    )  # fmt: skip


def test_what_kubectl_adds_is_ignored_and_the_namespace_has_a_default() -> None:
    text = (
        "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n"
        "metadata:\n  name: a\n  uid: x\n  generation: 3\n  creationTimestamp: 2026-01-01T00:00:00Z\n"
        "  labels: {a: b}\n  annotations: {other: x}\nspec:\n  selector:\n  rules: []\nstatus: {a: [1]}\n"
        "---\n# nothing here\n---\n"
        + HEAD.replace("name: a", "name: b")
        + "spec: {selector: {matchLabels: }}\n"
    )
    first, second = parse_file("p.yaml", text, ROOT)
    assert isinstance(first, AuthorizationPolicy)
    assert first.head.name == PolicyName("default", "a", Kind.AUTHORIZATION_POLICY)
    assert (first.action, first.rules, first.dry_run) == (Action.ALLOW, (), False)
    assert second.head.name.name == "b"


def test_same_name_in_another_namespace_or_kind_is_another_document() -> None:
    text = (
        authorization("a", "shop")
        + authorization("a", "bank")
        + peer_authentication("a", mtls="{mode: STRICT}")
    )
    assert len(parse_policies([("p.yaml", text)], ROOT)) == 3


def test_legacy_exception_is_read() -> None:
    (found,) = parse_file(
        "p.yaml",
        exception("x", "OUTBOUND", cidrs="[10.9.0.0/16]", ports='["80"]', expires="2027-01-31"),
        ROOT,
    )
    assert isinstance(found, LegacyException)
    assert (found.direction, found.owner, found.reason) == (Direction.OUTBOUND, "ops", "speaks no TLS")
    assert found.expires == datetime(2027, 2, 1, tzinfo=UTC)
    (at_noon,) = parse_file(
        "p.yaml", exception("x", "INBOUND", cidrs="[10.9.0.0/16]", expires="2027-01-31T12:00:00Z"), ROOT
    )
    assert isinstance(at_noon, LegacyException)
    assert (at_noon.expires, at_noon.last_day) == (
        datetime(2027, 1, 31, 12, tzinfo=UTC),
        "2027-01-31T12:00:00Z",
    )
    (by_selector,) = parse_file("p.yaml", exception("x", "INBOUND", selector="{matchLabels: {a: b}}"), ROOT)
    assert isinstance(by_selector, LegacyException)
    assert by_selector.match == Rule()


def test_egress_policy_is_read() -> None:
    (found,) = parse_file("p.yaml", egress("x", allow="[]", refusePlaintextTo="[10.0.0.0/8]"), ROOT)
    assert isinstance(found, EgressPolicy)
    assert (found.allow, len(found.refuse_plaintext), found.accept_plaintext) == ((), 1, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # What is no document.
        ("- a\n", "p.yaml:1:1: expected a document of 'key: value' lines, not a list"),
        ("hello\n", "p.yaml:1:1: expected a document of 'key: value' lines, not the value 'hello'"),
        ("a: [1\n", "p.yaml:2:1: cannot be read, "),
        ("a:\n\t- 1\n", "p.yaml:2:1: cannot be read, found character that cannot start any token; it is a tab"),
        ("a: '\0'\n", "p.yaml:1:5: cannot be read, '\\x00' must not be in YAML, remove it"),
        ("a: &x 1\nb: *x\n", "p.yaml:1:4: cannot be read, anchors and aliases are not allowed"),
        ("a: 1\na: 2\n", "p.yaml:2:1: key 'a' is there twice, first in line 1"),
        ("#" * (MAX_CHARACTERS + 1), "p.yaml: has 4194305 characters, at most 4194304 are allowed"),
        ("kind: AuthorizationPolicy\n", "p.yaml:1:1: a document needs apiVersion and kind, such as security.istio"),
        (HEAD.replace("Authorization", "Request"), "p.yaml:2:1: kind: 'RequestPolicy' is not a kind of policy"),
        (HEAD.replace("io/v1", "io/v2"), "p.yaml:1:1: apiVersion: 'security.istio.io/v2' has no AuthorizationPolicy, use"),
        (HEAD + "sepc: {}\n", "p.yaml:4:1: sepc: unknown field, did you mean 'spec'?"),
        (HEAD + "zzz: {}\n", "p.yaml:4:1: zzz: unknown field, known are apiVersion, kind, metadata, spec, status"),
        ("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n", "p.yaml:1:1: metadata: is missing"),
        # Names.
        (HEAD.replace("name: a,", ""), "p.yaml:3:1: metadata: 'name' is missing"),
        (HEAD.replace("name: a,", "name: A,"), "p.yaml:3:12: metadata.name: name 'A' is not a valid name"),
        (HEAD.replace("name: a,", "name: 7,"), "p.yaml:3:12: metadata.name: '7' is not text to YAML, put it in quotes"),
        (HEAD.replace("name: a,", "name: ,"), "p.yaml:3:12: metadata.name: has no value, give one or remove the line"),
        (HEAD.replace("name: a,", "name: [a],"), "p.yaml:3:12: metadata.name: expected text, not a list"),
        (HEAD.replace("{name: a, namespace: shop}", "a"), "p.yaml:3:1: metadata: expected 'key: value' lines, not the"),
        (HEAD.replace("namespace: shop", "namespace: S"), "p.yaml:3:21: metadata.namespace: namespace 'S' is not a valid"),
        (HEAD.replace("namespace: shop", "nmespace: shop"), "metadata.nmespace: unknown field, did you mean 'namespace'?"),
        (HEAD * 1 + "---\n" + HEAD, "p.yaml:5:1: metadata.name: AuthorizationPolicy shop/a is there twice, first in p.yaml:1"),
        # Selectors.
        (HEAD + "spec: {selector: [a]}\n", "p.yaml:4:8: spec.selector: expected 'key: value' lines, not a list"),
        (HEAD + "spec: {selector: {matchExpressions: []}}\n", "spec.selector.matchExpressions: unknown field, known are"),
        (HEAD + "spec: {selector: {matchLabels: {a: 1}}}\n", "spec.selector.matchLabels.a: '1' is not text to YAML"),
        (HEAD + "spec: {selector: {matchLabels: {a: 'x y'}}}\n", "spec.selector.matchLabels: label 'a' has the value"),
        # What cannot be enforced here.
        (HEAD + "spec:\n  rules:\n  - to:\n    - operation:\n        methods: [GET]\n",
         "p.yaml:8:9: spec.rules[0].to[0].operation.methods: cannot be enforced, this proxy carries bytes"),
        (HEAD + "spec: {rules: [{to: [{operation: {paths: [/a], ports: ['80']}}]}]}\n", "operation.paths: cannot be"),
        (HEAD + "spec: {rules: [{to: [{operation: {notHosts: [a]}}]}]}\n", "operation.notHosts: cannot be enforced"),
        (HEAD + "spec: {rules: [{from: [{source: {requestPrincipals: [a]}}]}]}\n",
         "p.yaml:4:34: spec.rules[0].from[0].source.requestPrincipals: cannot be enforced, this proxy reads no tokens"),
        (HEAD + "spec: {rules: [{from: [{source: {remoteIpBlocks: [a]}}]}]}\n", "source.remoteIpBlocks: cannot be"),
        (HEAD + "spec: {rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]}\n",
         "spec.rules[0].when[0].key: 'request.headers[x]' cannot be enforced here, this proxy knows source.ip,"),
        (HEAD + "spec: {targetRefs: [{kind: Gateway}]}\n", "spec.targetRefs: gateways and waypoints are not part"),
        (HEAD + "spec: {provider: {name: x}}\n", "spec.provider: there are no extension providers"),
        (HEAD + "spec: {action: AUDIT}\n", "p.yaml:4:8: spec.action: AUDIT cannot be enforced, use ALLOW or DENY"),
        (HEAD + "spec: {action: CUSTOM}\n", "spec.action: CUSTOM cannot be enforced"),
        (HEAD + "spec: {action: allow}\n", "spec.action: 'allow' is not an action, use ALLOW or DENY"),
        (HEAD.replace("shop}", "shop, annotations: {istio.io/dry-run: 'yes'}}"),
         "p.yaml:3:52: metadata.annotations.istio.io/dry-run: 'yes' is neither \"true\" nor \"false\""),
        (peer_authentication("a", mtls="{mode: STRICT}").replace("shop}", "shop, annotations: {istio.io/dry-run: 'true'}}"),
         "p.yaml:4:52: metadata.annotations.istio.io/dry-run: only an AuthorizationPolicy can be tried out"),
        (egress("a", allow="[]").replace("shop}", "shop, annotations: {istio.io/dry-run: 'true'}}"),
         "metadata.annotations.istio.io/dry-run: only an AuthorizationPolicy can be tried out"),
        # Rules.
        (HEAD + "spec: {rules: {}}\n", "spec.rules: expected a list, not a mapping"),
        (HEAD + "spec: {rules: [x]}\n", "spec.rules[0]: expected 'key: value' lines, not the value 'x'"),
        (HEAD + "spec: {rules: [{form: []}]}\n", "spec.rules[0].form: unknown field, did you mean 'from'?"),
        (HEAD + "spec: {rules: [{from: []}]}\n", "spec.rules[0].from: has 0 items, expected 1 to 1000; without any, leave"),
        (HEAD + "spec: {rules: [{from: [{}]}]}\n", "spec.rules[0].from[0]: 'source' is missing"),
        (HEAD + "spec: {rules: [{from: [{source: {}}]}]}\n", "spec.rules[0].from[0].source: is empty, name at least one"),
        (HEAD + "spec: {rules: [{to: [{operation: {}}]}]}\n", "spec.rules[0].to[0].operation: is empty, name at least"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: []}}]}]}\n", "source.principals: has 0 items"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: a}}]}]}\n", "source.principals: expected a list, not the"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: [a*b]}}]}]}\n",
         "p.yaml:4:47: spec.rules[0].from[0].source.principals[0]: 'a*b' has a '*' inside"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: ['*a*']}}]}]}\n", "'*a*' has a '*' inside"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: ['**']}}]}]}\n", "'**' has a '*' inside"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: ['']}}]}]}\n", "'' is not a pattern, use 1 to 512"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: ['spiffe://']}}]}]}\n", "'' is not a pattern, use 1 to 512"),
        (HEAD + "spec: {rules: [{from: [{source: {namespaces: [\"a\\nb\"]}}]}]}\n", "'a\\nb' is not a pattern"),
        (HEAD + "spec: {rules: [{from: [{source: {serviceAccounts: ['a/b/c']}}]}]}\n", "namespace 'a/b' is not a valid"),
        (HEAD + "spec: {rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]}\n", "service account '*' is not a valid"),
        (HEAD + "spec: {rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}\n",
         "source: serviceAccounts cannot be together with principals or namespaces"),
        (HEAD + "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.1/8]}}]}]}\n", "'10.0.0.1/8' is not an address or CIDR"),
        (HEAD + "spec: {rules: [{from: [{source: {ipBlocks: ['fe80::1%eth0']}}]}]}\n", "is not an address or CIDR"),
        (HEAD + "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/0.255.255.255]}}]}]}\n", "is not an address or CIDR"),
        (HEAD + "spec: {rules: [{from: [{source: {principals: ['*spiffe://a/ns/b/sa/c']}}]}]}\n",
         "principals[0]: '*spiffe://a/ns/b/sa/c' matches nobody, leave out spiffe:// and what is before it"),
        (HEAD + "spec: {rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/104']}}]}]}\n", "IPv4-mapped addresses"),
        (HEAD + "spec: {rules: [{to: [{operation: {ports: [80]}}]}]}\n", "ports[0]: '80' is not text to YAML, put it in"),
        (HEAD + "spec: {rules: [{to: [{operation: {ports: ['0']}}]}]}\n", "'0' is not a port number, expected 1 to 65535"),
        (HEAD + "spec: {rules: [{to: [{operation: {ports: ['65536']}}]}]}\n", "'65536' is not a port number"),
        (HEAD + "spec: {rules: [{to: [{operation: {ports: ['80*']}}]}]}\n", "'80*' is not a port number"),
        (HEAD + "spec: {rules: [{to: [{operation: {ports: ['\u0668\u0660']}}]}]}\n", "is not a port number"),
        (HEAD + "spec: {rules: [{when: [{values: [a]}]}]}\n", "spec.rules[0].when[0]: 'key' is missing"),
        (HEAD + "spec: {rules: [{when: [{key: source.ip}]}]}\n", "spec.rules[0].when[0]: needs values or notValues"),
        (HEAD + "spec: {rules: [" + "{}," * 1001 + "]}\n", "spec.rules: has 1001 items, expected 1 to 1000"),
        # Modes.
        (peer_authentication("a", mtls="{mode: strict}"), "spec.mtls.mode: 'strict' is not a mode, use STRICT, PERM"),
        (peer_authentication("a", mtls="STRICT"), "spec.mtls: expected 'key: value' lines, not the value 'STRICT'"),
        (peer_authentication("a", portLevelMtls="{99999: {}}"), "spec.portLevelMtls.99999: '99999' is not a port number"),
        (peer_authentication("a", "istio-system", selector="{matchLabels: {a: b}}"),
         "spec: a selector in the root namespace istio-system selects nothing (Istio ignores the whole document)"),
        (peer_authentication("a", targetRef="{}"), "spec.targetRef: unknown field, known are selector, mtls, portLevel"),
        # Exceptions.
        # What would write into a terminal.
        ('"a\\n\\e[2J": 1\n' + HEAD, "p.yaml:1:1: 'a\\n\\x1b[2J': unknown field, known are"),
        (HEAD + 'spec: {"\\u202e": 1}\n', "p.yaml:4:8: spec.'\\u202e': unknown field, known are"),
        (HEAD + f"spec: {{{'k' * 200}: 1}}\n", "p.yaml:4:8: spec.'kkkkkkkkkkkkkkkkkkkkkkk"),
        # What is only big.
        (HEAD + "spec: {" + "".join(f"k{n}: 0, " for n in range(1001)) + "}\n", "a mapping has more than 1000 keys"),
        ("---\n" * 20_002, "p.yaml: has 20001 marks of documents, at most 20000 are allowed"),
        ("a: b\n---\n#" + "#" * MAX_CHARACTERS, "p.yaml:2: the document has 4194309 characters, at most 4194304 are"),
        (exception("a", "OUTBOUND"), "spec: an OUTBOUND exception needs cidrs: plaintext to everywhere is not"),
        (exception("a", "INBOUND"), "spec: names nothing, give a selector, ports or cidrs"),
        (exception("a", "inbound"), "spec.direction: 'inbound' is not a direction, use INBOUND or OUTBOUND"),
        (exception("a", "INBOUND", ports="['80']", expires="soon"), "spec.expires: is not a date up to 9999-12-30 ('soon'), expected the last day"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-02-30"), "spec.expires: is not a date up to 9999-12-30"),
        (exception("a", "INBOUND", ports="['80']", expires="9999-12-31"), "spec.expires: is not a date up to 9999-12-30"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-01-31T25:00:00Z"), "spec.expires: is not a date up to 9999-12-30"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-01-31T12:00:00+01:00"), "spec.expires: is not a date up to 9999-12-30"),
        (exception("a", "INBOUND", ports="['80']", expires="[x]"), "spec.expires: is not a date up to 9999-12-30"),
        (exception("a", "INBOUND", ports="['80']", owner="' '"), "spec.owner: ' ' is not a line of 1 to 500"),
        (exception("a", "INBOUND", ports="['80']").replace("  owner: ops\n", ""), "spec: 'owner' is missing"),
        # Egress.
        (egress("a"), "p.yaml:2:1: spec: says nothing, give allow"),
        (egress("a", selector="{}"), "spec: says nothing, give allow, refusePlaintextTo or acceptPlaintextTo"),
        (egress("a", allow="[{}]"), "spec.allow[0]: is empty, give cidrs, ports or identities"),
        (egress("a", allow="x"), "spec.allow: expected a list, not the value 'x'"),
        (egress("a", acceptPlaintextTo="[10.0.0.0/33]"), "spec.acceptPlaintextTo[0]: '10.0.0.0/33' is not an address"),
    ],
)  # fmt: skip
def test_mistake_is_refused_with_its_place(text: str, message: str) -> None:
    assert message in refused(text)


def test_set_is_refused_as_a_whole_with_the_first_problem_of_each_file() -> None:
    files = [("a.yaml", HEAD), ("b.yaml", "x: 1\n"), ("c.yaml", "[1\n")]
    with pytest.raises(PolicyError) as caught:
        parse_policies(files, ROOT)
    assert len(caught.value.problems) == 2
    assert str(caught.value).endswith("(and 1 more)")


def test_set_with_too_many_documents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interceptor.policy.parse.MAX_DOCUMENTS", 1)
    documents = parse_file("p.yaml", authorization("a") + authorization("b"), ROOT)
    with pytest.raises(PolicyError, match="there are 2 policy documents, at most 1 are allowed"):
        require_unique(documents)


def test_ten_thousand_lines_are_read() -> None:
    principals = "".join(f"      - cluster.local/ns/shop/sa/p{number}\n" for number in range(999))
    rule = f"  - from:\n    - source:\n      principals:\n{principals}".replace(
        "      principals:", "        principals:"
    ).replace("      - cluster", "        - cluster")
    text = HEAD + "spec:\n  rules:\n" + rule * 10
    assert text.count("\n") > 10_000
    (found,) = parse_file("p.yaml", text, ROOT)
    assert isinstance(found, AuthorizationPolicy)
    assert len(found.rules) == 10


SNIPPETS = st.lists(
    st.sampled_from([
        "spec:", "rules:", "- from:", "- source:", "principals:", "[", "]", "{", "}", "a*", "'*'", "\t", "&a", "*a", "---",
        "!!str", "80", "mtls:", "mode:", "STRICT", "selector:", "matchLabels:", "\n", "\n  ", "\n    ", ": ", "- ", ",", '"',
        "when:", "key:", "values:", "metadata:", "name:", "\x00", "\ud800", "%YAML 1.1", "<<", "?", "|", ">",
        "apiVersion: security.istio.io/v1\n", "kind: AuthorizationPolicy\n", "kind: PeerAuthentication\n",
    ]),
    max_size=30,
).map("".join)  # fmt: skip


@pytest.mark.timeout(60)  # two seconds of CPU; other work may have the rest
@settings(max_examples=400, deadline=None)
@given(SNIPPETS, policy_documents(most=3), st.integers(0, 2000), st.integers(0, 40), st.booleans())
def test_any_text_is_documents_or_one_line(
    inserted: str, docs: list[dict[str, object]], at: int, cut: int, valid: bool
) -> None:
    text = as_yaml(docs) if valid else HEAD
    text = text[:at] + inserted + text[at + cut :]
    try:
        parse_policies([("p.yaml", text)], ROOT)
    except PolicyError as error:
        for problem in error.problems:
            assert problem.startswith("p.yaml")
            assert len(problem.splitlines()) == 1


def test_bomb_is_refused_at_once() -> None:
    started = time.perf_counter()
    assert "nested deeper" in refused("a: " + "[" * 100_000)
    assert "anchors" in refused("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n")
    assert time.perf_counter() - started < 1
