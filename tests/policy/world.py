"""Three workloads and a shorthand for policies and attempts, for the tests of single rules."""

from ipaddress import ip_address

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Permit, Verdict
from interceptor.workload import Endpoint, Workload, WorkloadKey

AT = 1_800_000_000.0  # 2027-01-15


def workload(namespace: str, name: str, address: str, **labels: str) -> Workload:
    identity = SpiffeId.parse(f"spiffe://cluster.local/ns/{namespace}/sa/{name}")
    return Workload(WorkloadKey(namespace, name), identity, (ip_address(address),), "node-1", Labels(labels))


WEB = workload("shop", "web", "10.0.0.1", app="web", tier="front")
DB = workload("shop", "db", "10.0.0.2", app="db")
LEDGER = workload("bank", "ledger", "10.1.0.3", app="ledger")
WORKLOADS = {each.name: each for each in (WEB, DB, LEDGER)}


def policies(text: str, mode: MtlsMode = MtlsMode.PERMISSIVE, root: str = "istio-system") -> PolicySet:
    return PolicySet(mode, parse_policies([("policies.yaml", text)], MeshNames(root)), root)


def to(
    target: Workload, source: Workload | str, port: int = 80, *, holder: Workload | None = None
) -> InboundAttempt:
    """What arrives at `target`: from a workload by mutual TLS, or from an address in plaintext."""
    endpoint = Endpoint(target.addresses[0], port)
    if isinstance(source, str):
        return InboundAttempt(target, endpoint, ip_address(source), None, holder, AT)
    return InboundAttempt(target, endpoint, source.addresses[0], source.identity, holder or source, AT)


def out(source: Workload, target: Workload | str, port: int = 80, at: float = AT) -> OutboundAttempt:
    """What leaves `source`: to a workload, or to an address that is nobody's."""
    if isinstance(target, str):
        return OutboundAttempt(source, Endpoint(ip_address(target), port), None, at)
    return OutboundAttempt(source, Endpoint(target.addresses[0], port), target, at)


def word(verdict: Verdict) -> str:
    """`mutual_tls`, `none`, or the reason of the denial."""
    return str(verdict.transport) if isinstance(verdict, Permit) else str(verdict.reason)


def authorization(name: str, namespace: str = "shop", action: str = "ALLOW", **spec: str) -> str:
    """An AuthorizationPolicy; `spec` in YAML, with keys such as rules="[{...}]"."""
    lines = "".join(f"  {key}: {value}\n" for key, value in {"action": action, **spec}.items())
    return (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}"
    )


def peer_authentication(name: str, namespace: str = "shop", **spec: str) -> str:
    lines = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}"
    )


def egress(name: str, namespace: str = "shop", **spec: str) -> str:
    lines = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return (
        "---\napiVersion: policy.interceptor.io/v1\nkind: EgressPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}"
    )


def exception(name: str, direction: str, namespace: str = "shop", **spec: str) -> str:
    given = {
        "direction": direction,
        "reason": "speaks no TLS",
        "owner": "ops",
        "expires": "2027-06-30",
        **spec,
    }
    lines = "".join(f"  {key}: {value}\n" for key, value in given.items())
    return (
        "---\napiVersion: policy.interceptor.io/v1\nkind: LegacyException\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}"
    )
