"""A case for each row of Istio's documented semantics, with the sentence that it checks.

Sources: istio.io, "Reference / Security / Authorization Policy" (AP), ".../PeerAuthentication" (PA), and "Concepts /
Security" (C). Where ours differs, the case says so.
"""

from typing import NamedTuple

import pytest

from interceptor.policy.attempts import InboundAttempt
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.trace import explain_inbound
from tests.policy.world import DB, LEDGER, WEB, authorization, peer_authentication, policies, to, word

FROM_WEB = "[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]"
FROM_LEDGER = "[{from: [{source: {principals: [cluster.local/ns/bank/sa/ledger]}}]}]"
EVERYTHING = "[{}]"
PLAINTEXT = "192.0.2.7"


class Case(NamedTuple):
    """One sentence, documents, a connection, and what becomes of it."""

    sentence: str
    documents: str
    attempt: InboundAttempt
    expected: str


def rules(source: str = "", operation: str = "", when: str = "") -> str:
    """One rule."""
    parts = []
    if source:
        parts.append(f"from: [{{source: {source}}}]")
    if operation:
        parts.append(f"to: [{{operation: {operation}}}]")
    if when:
        parts.append(f"when: [{when}]")
    return f"[{{{', '.join(parts)}}}]"


def allow(source: str = "", operation: str = "", when: str = "") -> str:
    return authorization("a", rules=rules(source, operation, when))


AUTHORIZATION = [
    Case("AP: If there are no ALLOW policies for the workload, allow the request.", "", to(DB, WEB), "mutual_tls"),
    Case(
        "AP: If there are any DENY policies that match the request, deny the request. (before ALLOW)",
        authorization("a", rules=EVERYTHING) + authorization("z", action="DENY", rules=FROM_WEB),
        to(DB, WEB),
        "policy_denied",
    ),
    Case(
        "AP: If any of the ALLOW policies match the request, allow the request.",
        authorization("a", rules=FROM_LEDGER) + authorization("b", rules=FROM_WEB),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case("AP: Deny the request. (when ALLOW policies are there and none matches)",
         authorization("a", rules=FROM_LEDGER), to(DB, WEB), "no_allow_matched"),
    Case(
        "AP: If there are no ALLOW policies for the workload: a DENY that does not match leaves it so",
        authorization("a", action="DENY", rules=FROM_LEDGER),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case(
        "AP rules: If not set, the match will never occur. This is equivalent to setting a default of deny for the "
        "target workloads if the action is ALLOW.",
        authorization("a"),
        to(DB, WEB),
        "no_allow_matched",
    ),
    Case("AP rules: If not set, the match will never occur. (DENY)",
         authorization("a", action="DENY"), to(DB, WEB), "mutual_tls"),
    Case("AP Rule: An empty rule is always matched. (ALLOW)",
         authorization("a", rules=EVERYTHING), to(DB, PLAINTEXT), "none"),
    Case("AP Rule: An empty rule is always matched. (DENY)",
         authorization("a", action="DENY", rules=EVERYTHING), to(DB, WEB), "policy_denied"),
    Case("AP example: spec {} allows nothing and effectively denies all requests to workloads in namespace foo.",
         "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
         "metadata: {name: allow-nothing, namespace: shop}\nspec:\n  {}\n",
         to(DB, WEB), "no_allow_matched"),
    Case("AP action: Default is ALLOW if not specified.",
         "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n"
         f"metadata: {{name: a, namespace: shop}}\nspec:\n  rules: {FROM_LEDGER}\n",
         to(DB, WEB), "no_allow_matched"),
    Case(
        "AP scope: metadata/namespace tells which namespace the policy applies.",
        authorization("a", namespace="bank", action="DENY", rules=EVERYTHING),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case(
        "AP scope: If set to root namespace, the policy applies to all namespaces in a mesh.",
        authorization("a", namespace="istio-system", action="DENY", rules=EVERYTHING),
        to(DB, WEB),
        "policy_denied",
    ),
    Case(
        "AP scope: workload selector can be used to further restrict where a policy applies. (selected)",
        authorization("a", action="DENY", rules=EVERYTHING, selector="{matchLabels: {app: db}}"),
        to(DB, WEB),
        "policy_denied",
    ),
    Case(
        "AP scope: workload selector can be used to further restrict where a policy applies. (not selected)",
        authorization("a", action="DENY", rules=EVERYTHING, selector="{matchLabels: {app: db, tier: back}}"),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case(
        "AP selector: If the authorization policy is in the root namespace, the selector will additionally match with "
        "workloads in all namespaces.",
        authorization(
            "a", "istio-system", action="DENY", rules=EVERYTHING, selector="{matchLabels: {app: ledger}}"
        ),
        to(LEDGER, WEB),
        "policy_denied",
    ),
    Case("AP selector: If not set, the selector will match all workloads. (empty is not set)",
         authorization("a", action="DENY", rules=EVERYTHING, selector="{}"), to(DB, WEB), "policy_denied"),
    Case("AP: an ALLOW policy that selects another workload is none for this one",
         authorization("a", rules=FROM_LEDGER, selector="{matchLabels: {app: web}}"), to(DB, WEB), "mutual_tls"),
    Case(
        "AP Rule: A match occurs when at least one source, one operation and all conditions matches. (all do)",
        allow(
            "{namespaces: [shop]}",
            '{ports: ["80"]}',
            "{key: source.ip, values: [10.0.0.0/24]}, {key: destination.port, values: ['80']}",
        ),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case(
        "AP Rule: A match occurs when at least one source, one operation and all conditions matches. (operation fails)",
        allow("{namespaces: [shop]}", '{ports: ["443"]}'),
        to(DB, WEB),
        "no_allow_matched",
    ),
    Case(
        "AP Rule: A match occurs when at least one source, one operation and all conditions matches. (one condition fails)",
        allow(when="{key: source.ip, values: [10.0.0.0/24]}, {key: destination.port, values: ['443']}"),
        to(DB, WEB),
        "no_allow_matched",
    ),
    Case(
        "AP Rule from: at least one source. (the second one)",
        authorization(
            "a", rules="[{from: [{source: {namespaces: [bank]}}, {source: {principals: ['*/sa/web']}}]}]"
        ),
        to(DB, WEB),
        "mutual_tls",
    ),
    Case(
        "AP Source: Fields in the source are ANDed together.",
        allow("{namespaces: [shop], ipBlocks: [10.9.0.0/16]}"),
        to(DB, WEB),
        "no_allow_matched",
    ),
    Case("AP match: Exact match: abc will match on value abc.",
         allow("{namespaces: [shop]}"), to(DB, WEB), "mutual_tls"),
    Case("AP match: Exact match, and not on what contains it.",
         allow("{namespaces: [sho]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP match: Prefix match: abc* will match on value abc and abcd. (abc)",
         allow("{namespaces: [shop*]}"), to(DB, WEB), "mutual_tls"),
    Case("AP match: Prefix match: abc* will match on value abc and abcd. (abcd)",
         allow("{namespaces: [sh*]}"), to(DB, WEB), "mutual_tls"),
    Case("AP match: Suffix match: *abc will match on value abc and xabc.",
         allow("{principals: ['*/sa/web']}"), to(DB, WEB), "mutual_tls"),
    Case("AP match: Suffix match, and not in the middle.",
         allow("{principals: ['*/ns/shop']}"), to(DB, WEB), "no_allow_matched"),
    Case("AP match: Presence match: * will match when value is not empty.",
         allow("{principals: ['*']}"), to(DB, WEB), "mutual_tls"),
    Case("AP match: Presence match: plaintext has no principal.",
         allow("{principals: ['*']}"), to(DB, PLAINTEXT), "no_allow_matched"),
    Case("AP match, CVE-2026-39350: a dot is a dot.",
         allow("{serviceAccounts: [shop/w.b]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP principals: <TRUST_DOMAIN>/ns/<NAMESPACE>/sa/<SERVICE_ACCOUNT>; with spiffe:// it is the same (ours)",
         allow("{principals: ['spiffe://cluster.local/ns/shop/sa/web']}"), to(DB, WEB), "mutual_tls"),
    Case("AP principals: the same for a prefix with spiffe://",
         allow("{principals: ['spiffe://cluster.local/ns/shop/*']}"), to(DB, WEB), "mutual_tls"),
    Case("AP principals: another trust domain is another identity",
         allow("{principals: [other.org/ns/shop/sa/web]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP notPrincipals: A list of negative match of peer identities. (excluded)",
         allow("{notPrincipals: [cluster.local/ns/shop/sa/web]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP notPrincipals: A list of negative match of peer identities. (another)",
         allow("{notPrincipals: [cluster.local/ns/shop/sa/web]}"), to(DB, LEDGER), "mutual_tls"),
    Case("AP notPrincipals: plaintext has no principal, so none is excluded (as in ztunnel's rbac)",
         allow("{notPrincipals: [cluster.local/ns/shop/sa/web]}"), to(DB, PLAINTEXT), "none"),
    Case("AP: DENY notPrincipals ['*'] is how Istio's users refuse plaintext by policy",
         authorization("a", action="DENY", rules=rules("{notPrincipals: ['*']}")), to(DB, PLAINTEXT), "policy_denied"),
    Case("AP: DENY notPrincipals ['*'] denies nobody who has proven an identity",
         authorization("a", action="DENY", rules=rules("{notPrincipals: ['*']}")), to(DB, WEB), "mutual_tls"),
    Case("AP namespaces: derived from the peer certificate. This field requires mTLS enabled.",
         allow("{namespaces: ['*']}"), to(DB, "10.0.0.1"), "no_allow_matched"),
    Case("AP notNamespaces: A list of negative match of namespaces.",
         allow("{notNamespaces: [bank]}"), to(DB, LEDGER), "no_allow_matched"),
    Case("AP serviceAccounts: <namespace>/<serviceaccount>",
         allow("{serviceAccounts: [bank/ledger]}"), to(DB, LEDGER), "mutual_tls"),
    Case("AP serviceAccounts: without a namespace, that of the policy",
         allow("{serviceAccounts: [web]}"), to(DB, WEB), "mutual_tls"),
    Case("AP serviceAccounts: without a namespace, and nobody else's",
         allow("{serviceAccounts: [ledger]}"), to(DB, LEDGER), "no_allow_matched"),
    Case("AP notServiceAccounts: a list of negative match",
         allow("{notServiceAccounts: [web]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP ipBlocks: populated from the source address of the IP packet. CIDR is supported.",
         allow("{ipBlocks: [192.0.2.0/24]}"), to(DB, PLAINTEXT), "none"),
    Case("AP ipBlocks: Single IP is supported.", allow("{ipBlocks: [192.0.2.7]}"), to(DB, PLAINTEXT), "none"),
    Case("AP ipBlocks: outside", allow("{ipBlocks: [192.0.2.8/29]}"), to(DB, PLAINTEXT), "no_allow_matched"),
    Case("AP ipBlocks: an address of the other family is outside of everything",
         allow("{ipBlocks: ['::/0']}"), to(DB, PLAINTEXT), "no_allow_matched"),
    Case("AP notIpBlocks: A list of negative match of IP blocks.",
         allow("{notIpBlocks: [192.0.2.0/24]}"), to(DB, PLAINTEXT), "no_allow_matched"),
    Case("AP ports: A list of ports as specified in the connection.",
         allow(operation='{ports: ["80", "443"]}'), to(DB, WEB, 443), "mutual_tls"),
    Case("AP notPorts: A list of negative match of ports as specified in the connection.",
         allow(operation='{notPorts: ["443"]}'), to(DB, WEB, 443), "no_allow_matched"),
    Case("AP when: source.ip", allow(when="{key: source.ip, notValues: [10.0.0.0/8]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP when: source.namespace", allow(when="{key: source.namespace, values: [shop]}"), to(DB, WEB), "mutual_tls"),
    Case("AP when: source.principal",
         allow(when="{key: source.principal, values: ['*/web']}"), to(DB, WEB), "mutual_tls"),
    Case("AP when: destination.ip",
         allow(when="{key: destination.ip, values: [10.0.0.2]}"), to(DB, WEB), "mutual_tls"),
    Case("AP when: destination.port",
         allow(when="{key: destination.port, values: ['81']}"), to(DB, WEB), "no_allow_matched"),
    Case("AP when: values and notValues together",
         allow(when="{key: source.ip, values: [10.0.0.0/8], notValues: [10.0.0.1]}"), to(DB, WEB), "no_allow_matched"),
    Case("AP dry-run: dry-run the policy without actually enforcing it. (DENY)",
         authorization("a", action="DENY", rules=EVERYTHING).replace(
             "namespace: shop}", 'namespace: shop, annotations: {istio.io/dry-run: "true"}}'),
         to(DB, WEB), "mutual_tls"),
    Case("AP dry-run: dry-run the policy without actually enforcing it. (an ALLOW does not switch on 'deny the rest')",
         authorization("a", rules=FROM_LEDGER).replace(
             "namespace: shop}", 'namespace: shop, annotations: {istio.io/dry-run: "true"}}'),
         to(DB, WEB), "mutual_tls"),
]  # fmt: skip

STRICT_DB = "{matchLabels: {app: db}}"
MODES = [
    Case("PA STRICT: Connection is an mTLS tunnel (TLS with client cert must be presented). (plaintext)",
         peer_authentication("a", mtls="{mode: STRICT}"), to(DB, PLAINTEXT), "plaintext_refused"),
    Case("PA STRICT: Connection is an mTLS tunnel (TLS with client cert must be presented).",
         peer_authentication("a", mtls="{mode: STRICT}"), to(DB, WEB), "mutual_tls"),
    Case("PA PERMISSIVE: Connection can be either plaintext or mTLS tunnel.",
         peer_authentication("a", mtls="{mode: PERMISSIVE}"), to(DB, PLAINTEXT), "none"),
    Case("PA DISABLE: Connection is not tunneled.",
         peer_authentication("a", mtls="{mode: DISABLE}"), to(DB, PLAINTEXT), "none"),
    Case("PA UNSET: Inherit from parent, if has one. (namespace from mesh)",
         peer_authentication("a", mtls="{mode: UNSET}")
         + peer_authentication("m", "istio-system", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "plaintext_refused"),
    Case("PA mtls: If not defined, inherit from parent.",
         peer_authentication("a", selector=STRICT_DB, mtls="{}") + peer_authentication("n", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "plaintext_refused"),
    Case("PA UNSET: Otherwise treated as PERMISSIVE. (ours: as the agent's configured mode, here PERMISSIVE)",
         peer_authentication("m", "istio-system", mtls="{mode: UNSET}"), to(DB, PLAINTEXT), "none"),
    Case("C: Istio applies the narrowest matching policy: 1. workload-specific 2. namespace-wide",
         peer_authentication("a", mtls="{mode: STRICT}")
         + peer_authentication("z", selector=STRICT_DB, mtls="{mode: PERMISSIVE}"),
         to(DB, PLAINTEXT), "none"),
    Case("C: Istio applies the narrowest matching policy: 2. namespace-wide 3. mesh-wide",
         peer_authentication("a", mtls="{mode: PERMISSIVE}")
         + peer_authentication("m", "istio-system", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "none"),
    Case("C: mesh-wide where nothing narrower is",
         peer_authentication("a", "bank", mtls="{mode: PERMISSIVE}")
         + peer_authentication("m", "istio-system", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "plaintext_refused"),
    Case("PA selector: determines the workloads to apply (another one)",
         peer_authentication("a", selector="{matchLabels: {app: web}}", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "none"),
    Case("PA selector: If not set, the policy will be applied to all workloads in the same namespace as the policy.",
         peer_authentication("a", "bank", mtls="{mode: STRICT}"), to(DB, PLAINTEXT), "none"),
    Case("C: There can be only one namespace-wide policy per namespace, Istio ignores the newer policies. (ours: files "
         "have no age, the strictest counts)",
         peer_authentication("a", mtls="{mode: PERMISSIVE}") + peer_authentication("b", mtls="{mode: STRICT}"),
         to(DB, PLAINTEXT), "plaintext_refused"),
    Case("C: When more than one workload-specific peer authentication policy matches, Istio picks the oldest one. "
         "(ours: the strictest)",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: STRICT}")
         + peer_authentication("b", selector=STRICT_DB, mtls="{mode: DISABLE}"),
         to(DB, PLAINTEXT), "plaintext_refused"),
    Case("PA portLevelMtls: Port specific mutual TLS settings. (that port)",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: STRICT}", portLevelMtls="{80: {mode: DISABLE}}"),
         to(DB, PLAINTEXT, 80), "none"),
    Case("PA portLevelMtls: Port specific mutual TLS settings. (another port)",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: STRICT}", portLevelMtls="{80: {mode: DISABLE}}"),
         to(DB, PLAINTEXT, 81), "plaintext_refused"),
    Case("PA example: inherit mTLS mode from namespace settings, and overwrite settings for port 8080",
         peer_authentication("n", mtls="{mode: STRICT}")
         + peer_authentication("a", selector=STRICT_DB, mtls="{mode: UNSET}", portLevelMtls="{80: {mode: DISABLE}}"),
         to(DB, PLAINTEXT, 81), "plaintext_refused"),
    Case("PA portLevelMtls: UNSET for a port inherits the workload's mode",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: STRICT}", portLevelMtls="{80: {mode: UNSET}}"),
         to(DB, PLAINTEXT, 80), "plaintext_refused"),
    Case("PA portLevelMtls: These only apply when a workload selector is specified.",
         peer_authentication("a", mtls="{mode: STRICT}", portLevelMtls="{80: {mode: DISABLE}}"),
         to(DB, PLAINTEXT, 80), "plaintext_refused"),
    Case("istio#54146: several STRICT ports are all STRICT (80)",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: PERMISSIVE}",
                             portLevelMtls="{80: {mode: STRICT}, 81: {mode: STRICT}}"),
         to(DB, PLAINTEXT, 80), "plaintext_refused"),
    Case("istio#54146: several STRICT ports are all STRICT (81)",
         peer_authentication("a", selector=STRICT_DB, mtls="{mode: PERMISSIVE}",
                             portLevelMtls="{80: {mode: STRICT}, 81: {mode: STRICT}}"),
         to(DB, PLAINTEXT, 81), "plaintext_refused"),
    Case("C: in PERMISSIVE mode AuthorizationPolicies still apply to plaintext",
         peer_authentication("a", mtls="{mode: PERMISSIVE}") + allow("{namespaces: [shop]}"),
         to(DB, PLAINTEXT), "no_allow_matched"),
]  # fmt: skip


@pytest.mark.parametrize("case", [*AUTHORIZATION, *MODES], ids=lambda case: case.sentence[:60])
def test_documented_sentence_holds(case: Case) -> None:
    found = policies(case.documents)
    verdict = found.decide_inbound(case.attempt)
    assert word(verdict) == case.expected, case.sentence
    assert explain_inbound(found, case.attempt).verdict == verdict, case.sentence


def test_mode_without_any_document_is_the_configured_one() -> None:
    assert word(policies("", MtlsMode.STRICT).decide_inbound(to(DB, PLAINTEXT))) == "plaintext_refused"
    assert word(policies("", MtlsMode.DISABLE).decide_inbound(to(DB, PLAINTEXT))) == "none"


def test_root_namespace_is_configurable() -> None:
    text = peer_authentication("m", "mesh-config", mtls="{mode: STRICT}")
    assert word(policies(text).decide_inbound(to(DB, PLAINTEXT))) == "none"
    assert word(policies(text, root="mesh-config").decide_inbound(to(DB, PLAINTEXT))) == "plaintext_refused"
