"""Random sets of policy documents over a small world, in which everything has a fair chance to match."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.policy.naive import ROOT, Connection, Doc, Side, principal_of

NAMESPACES = ("shop", "bank", ROOT)
SIDES = (
    Side("shop", {"app": "web", "tier": "front"}, "web", "10.0.0.1"),
    Side("shop", {"app": "db"}, "db", "10.0.1.2"),
    Side("bank", {"app": "web"}, "ledger", "10.1.0.3"),
    Side("bank", {}, "legacy", "fd00::4"),
    Side(ROOT, {"app": "db", "tier": "back"}, "probe", "10.0.0.5"),
)
PORTS = (80, 443, 5432)
PEERS: tuple[tuple[str, str | None], ...] = (
    *((side.address, principal_of(side)) for side in SIDES),
    ("10.0.0.9", "other.org/ns/shop/sa/web"),
    ("10.0.0.1", None),
    ("fd00::9", None),
    ("192.0.2.7", None),
)
CONNECTIONS = tuple(
    Connection(to, port, address, principal) for to in SIDES for port in PORTS for address, principal in PEERS
)
UNKNOWN = ("10.0.0.200", "fd00::99")

MODES = ("STRICT", "PERMISSIVE", "DISABLE", "UNSET")
BLOCKS = (
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.1",
    "fd00::/64",
    "fd00::9",
    "0.0.0.0/0",
    "::/0",
    "192.0.2.0/24",
)
PRINCIPALS = (
    *(principal_of(side) for side in SIDES),
    "spiffe://cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/*",
    "spiffe://cluster.local/*",
    "*/sa/web",
    "*",
    "nobody.example/ns/a/sa/b",
)
EXPIRIES = ("2026-01-01", "2027-06-30")
AT = 1_800_000_000.0  # 2027-01-15


def some(values: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


@st.composite
def fields(draw: st.DrawFn, choice: dict[str, st.SearchStrategy[Any]], least: int = 1) -> Doc:
    """Some of the fields, mostly few."""
    names = draw(st.lists(st.sampled_from(sorted(choice)), min_size=least, max_size=2, unique=True))
    return {name: draw(choice[name]) for name in names}


ports = some(tuple(str(port) for port in PORTS))
blocks = some(BLOCKS)
principals = some(PRINCIPALS)
names = some(("shop", "bank", "sh*", "*p", "*", "none"))
accounts = some(("web", "shop/web", "bank/ledger", "shop/db"))
sources = st.one_of(
    fields(
        {
            "principals": principals,
            "notPrincipals": principals,
            "namespaces": names,
            "notNamespaces": names,
            "ipBlocks": blocks,
            "notIpBlocks": blocks,
        }
    ),
    fields({"serviceAccounts": accounts, "notServiceAccounts": accounts, "ipBlocks": blocks}),
)
operations = fields({"ports": ports, "notPorts": ports})
conditions = st.sampled_from(
    [
        ("source.ip", blocks),
        ("destination.ip", blocks),
        ("destination.port", ports),
        ("source.namespace", names),
        ("source.principal", principals),
    ]
).flatmap(
    lambda pair: fields({"values": pair[1], "notValues": pair[1]}).map(
        lambda found: {"key": pair[0], **found}
    )
)
rules = fields(
    {
        "from": st.lists(st.builds(lambda s: {"source": s}, sources), min_size=1, max_size=2),
        "to": st.lists(st.builds(lambda o: {"operation": o}, operations), min_size=1, max_size=2),
        "when": st.lists(conditions, min_size=1, max_size=2),
    },
    least=0,
)
selectors = st.sampled_from(
    [None, None, None, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "front"}, {"app": "none"}]
)
namespaces = st.sampled_from(NAMESPACES)


def document(
    group: str, kind: str, spec: Doc, namespace: str, selector: dict[str, str] | None, dry_run: bool = False
) -> Doc:
    if selector is not None:
        spec = {"selector": {"matchLabels": selector}, **spec}
    metadata: Doc = {"namespace": namespace}
    if dry_run:
        metadata["annotations"] = {"istio.io/dry-run": "true"}
    return {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "spec": spec}


def authorization(actions: tuple[str, ...] = ("ALLOW", "DENY")) -> st.SearchStrategy[Doc]:
    return st.builds(
        lambda action, found, namespace, selector, dry: document(
            "security.istio.io",
            "AuthorizationPolicy",
            {"action": action, "rules": found} if found else {"action": action},
            namespace,
            selector,
            dry,
        ),
        st.sampled_from(actions),
        st.lists(rules, max_size=3),
        namespaces,
        selectors,
        st.sampled_from([False, False, False, True]),
    )


def peer_authentication(modes: tuple[str, ...] = MODES) -> st.SearchStrategy[Doc]:
    mtls = st.sampled_from(modes).map(lambda word: {"mode": word})
    by_port = st.dictionaries(st.sampled_from([str(port) for port in PORTS]), mtls, min_size=1, max_size=2)
    return st.builds(
        lambda spec, namespace, selector: document(
            "security.istio.io",
            "PeerAuthentication",
            spec,
            "shop" if selector and namespace == ROOT else namespace,
            selector,
        ),
        st.one_of(
            st.fixed_dictionaries({"mtls": mtls}, optional={"portLevelMtls": by_port}),
            st.fixed_dictionaries({"portLevelMtls": by_port}),
        ),
        namespaces,
        selectors,
    )


def exception() -> st.SearchStrategy[Doc]:
    return st.builds(
        lambda direction, cidrs, found, expires, namespace, selector: document(
            "policy.interceptor.io",
            "LegacyException",
            {
                "direction": direction,
                "cidrs": cidrs,
                **({"ports": found} if found else {}),
                "reason": "cannot do better",
                "owner": "somebody",
                "expires": expires,
            },
            namespace,
            selector,
        ),
        st.sampled_from(["INBOUND", "OUTBOUND"]),
        blocks,
        st.one_of(st.none(), ports),
        st.sampled_from(EXPIRIES),
        namespaces,
        selectors,
    )


def egress() -> st.SearchStrategy[Doc]:
    entries = fields({"cidrs": blocks, "ports": ports, "identities": principals})
    spec = fields(
        {
            "allow": st.lists(entries, max_size=2),
            "refusePlaintextTo": blocks,
            "acceptPlaintextTo": blocks,
        }
    )
    return st.builds(
        lambda found, namespace, selector: document(
            "policy.interceptor.io", "EgressPolicy", found, namespace, selector
        ),
        spec,
        namespaces,
        selectors,
    )


def named(docs: list[Doc]) -> list[Doc]:
    """The documents, each with a name of its own."""
    return [{**doc, "metadata": {"name": f"d{number}", **doc["metadata"]}} for number, doc in enumerate(docs)]


def policy_documents(most: int = 8) -> st.SearchStrategy[list[Doc]]:
    kinds = st.one_of(authorization(), authorization(), peer_authentication(), exception(), egress())
    return st.lists(kinds, min_size=2, max_size=most).map(named)


def as_yaml(docs: list[Doc]) -> str:
    """JSON is YAML, and quicker to write."""
    return "".join(f"---\n{json.dumps(doc)}\n" for doc in docs)
