"""A second, naive evaluator, straight from Istio's documentation: plain documents in, the outcome out.

It shares no code with the product: it reads the documents as the YAML library gives them, knows no index, no snapshot
and no parser, and looks at everything. Where the two differ, one of them is wrong.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

ROOT = "istio-system"
Doc = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """A workload, by what the documents can see of it."""

    namespace: str
    labels: dict[str, str]
    account: str
    address: str


@dataclass(frozen=True)
class Connection:
    """A connection from `source_ip`, with an identity or (None) in plaintext."""

    to: Side
    port: int
    source_ip: str
    principal: str | None


def inbound(docs: list[Doc], default: str, connection: Connection, at: float) -> str:
    """What becomes of it: "mutual_tls", "none", or the reason of a denial."""
    strict = mode(docs, default, connection.to, connection.port)[0] == "STRICT"
    excepted = _excepted(docs, "INBOUND", connection.to, connection.source_ip, connection.port, at)
    if connection.principal is None and strict and not excepted:
        return "plaintext_refused"
    relevant = [doc for doc in docs if doc["kind"] == "AuthorizationPolicy" and _applies(doc, connection.to)]
    relevant = [doc for doc in relevant if not _is_dry_run(doc)]
    denies = [doc for doc in relevant if doc["spec"].get("action", "ALLOW") == "DENY"]
    allows = [doc for doc in relevant if doc["spec"].get("action", "ALLOW") == "ALLOW"]
    if any(_matches(doc, connection) for doc in denies):
        return "policy_denied"
    if allows and not any(_matches(doc, connection) for doc in allows):
        return "no_allow_matched"
    return "none" if connection.principal is None else "mutual_tls"


def outbound(
    docs: list[Doc], default: str, source: Side, target: Side | None, address: str, port: int, at: float
) -> str:
    """What becomes of a connection that leaves: "mutual_tls", "none", or the reason of a denial."""
    excepted = _excepted(docs, "OUTBOUND", source, address, port, at)
    policies = [doc for doc in docs if doc["kind"] == "EgressPolicy" and _applies(doc, source)]
    transport = "mutual_tls"
    if target is None:
        if not excepted:
            return "unknown_destination"
        transport = "none"
    else:
        word, given_by = mode(docs, default, target, port)
        if word == "DISABLE":
            transport = "none"
            if not _agrees(policies, docs, default, source, address, given_by) and not excepted:
                return "plaintext_egress_refused"
    lists = [doc["spec"]["allow"] for doc in policies if "allow" in doc["spec"]]
    if lists and not any(_lets_out(entry, target, address, port) for found in lists for entry in found):
        return "egress_denied"
    return transport


STRICTNESS = ("DISABLE", "PERMISSIVE", "STRICT")


def mode(docs: list[Doc], default: str, to: Side, port: int) -> tuple[str, Doc | None]:
    """The mode of a port, and the document that gave it: the narrowest, and of equals the strictest."""
    mine = [doc for doc in docs if doc["kind"] == "PeerAuthentication" and _applies(doc, to)]
    workload = [doc for doc in mine if _wanted(doc)]
    namespace = [d for d in mine if not _wanted(d) and d["metadata"]["namespace"] != ROOT]
    mesh = [d for d in mine if not _wanted(d) and d["metadata"]["namespace"] == ROOT]
    result: tuple[str, Doc | None] = (default, None)
    for equals in (mesh, namespace, workload):
        parent, found = result, []
        for doc in sorted(equals, key=lambda doc: doc["metadata"]["name"]):
            words = [doc["spec"].get("mtls", {}).get("mode", "UNSET")]
            if equals is workload:
                words.insert(0, doc["spec"].get("portLevelMtls", {}).get(str(port), {}).get("mode", "UNSET"))
            said = [each for each in words if each != "UNSET"]
            found.append((said[0], doc) if said else parent)
        if found:
            result = max(found, key=lambda each: STRICTNESS.index(each[0]))
    return result


def _agrees(
    policies: list[Doc], docs: list[Doc], default: str, source: Side, address: str, given_by: Doc | None
) -> bool:
    if any(_inside(address, doc["spec"].get("refusePlaintextTo", [])) for doc in policies):
        return False
    if any(_inside(address, doc["spec"].get("acceptPlaintextTo", [])) for doc in policies):
        return True
    if mode(docs, default, Side("nowhere", {}, "nobody", address), 0)[0] == "DISABLE":
        return True
    return given_by is not None and given_by["metadata"]["namespace"] == source.namespace


def _lets_out(entry: Doc, target: Side | None, address: str, port: int) -> bool:
    if "cidrs" in entry and not _inside(address, entry["cidrs"]):
        return False
    if "ports" in entry and str(port) not in entry["ports"]:
        return False
    if "identities" not in entry:
        return True
    return target is not None and _is_principal(principal_of(target), entry["identities"])


def principal_of(side: Side) -> str:
    return f"cluster.local/ns/{side.namespace}/sa/{side.account}"


def _excepted(docs: list[Doc], direction: str, side: Side, address: str, port: int, at: float) -> bool:
    for doc in docs:
        if (
            doc["kind"] != "LegacyException"
            or doc["spec"]["direction"] != direction
            or not _applies(doc, side)
        ):
            continue
        spec = doc["spec"]
        end = datetime.fromisoformat(spec["expires"]).replace(tzinfo=UTC) + timedelta(days=1)
        if at >= end.timestamp():
            continue
        if "ports" in spec and str(port) not in spec["ports"]:
            continue
        if "cidrs" in spec and not _inside(address, spec["cidrs"]):
            continue
        return True
    return False


def _wanted(doc: Doc) -> dict[str, str]:
    return doc["spec"].get("selector", {}).get("matchLabels", {})


def _applies(doc: Doc, to: Side) -> bool:
    if doc["metadata"]["namespace"] not in (ROOT, to.namespace):
        return False
    return all(to.labels.get(key) == value for key, value in _wanted(doc).items())


def _is_dry_run(doc: Doc) -> bool:
    return doc["metadata"].get("annotations", {}).get("istio.io/dry-run") == "true"


def _matches(doc: Doc, connection: Connection) -> bool:
    return any(_rule(rule, doc, connection) for rule in doc["spec"].get("rules", []))


def _rule(rule: Doc, doc: Doc, connection: Connection) -> bool:
    if "from" in rule and not any(_source(item["source"], doc, connection) for item in rule["from"]):
        return False
    if "to" in rule and not any(_operation(item["operation"], connection) for item in rule["to"]):
        return False
    return all(_condition(item, connection) for item in rule.get("when", []))


def _source(source: Doc, doc: Doc, connection: Connection) -> bool:
    who = connection.principal
    namespace = who.split("/")[2] if who else None
    account = f"{namespace}/{who.split('/')[4]}" if who else None

    def accounts(texts: list[str]) -> bool:
        own = doc["metadata"]["namespace"]
        return account in [text if "/" in text else f"{own}/{text}" for text in texts]

    tests = {
        "principals": lambda texts: _is_principal(who, texts),
        "namespaces": lambda texts: _like_any(namespace, texts),
        "serviceAccounts": accounts,
        "ipBlocks": lambda texts: _inside(connection.source_ip, texts),
    }
    for name, test in tests.items():
        if name in source and not test(source[name]):
            return False
        negative = f"not{name[0].upper()}{name[1:]}"
        if negative in source and test(source[negative]):
            return False
    return True


def _operation(operation: Doc, connection: Connection) -> bool:
    port = str(connection.port)
    if "ports" in operation and port not in operation["ports"]:
        return False
    return port not in operation.get("notPorts", [])


def _condition(item: Doc, connection: Connection) -> bool:
    who = connection.principal

    def test(texts: list[str]) -> bool:
        match item["key"]:
            case "source.ip":
                return _inside(connection.source_ip, texts)
            case "destination.ip":
                return _inside(connection.to.address, texts)
            case "destination.port":
                return str(connection.port) in texts
            case "source.namespace":
                return _like_any(who.split("/")[2] if who else None, texts)
            case _:
                return _is_principal(who, texts)

    return ("values" not in item or test(item["values"])) and not test(item.get("notValues", []))


def _is_principal(who: str | None, texts: list[str]) -> bool:
    return _like_any(who, [text.removeprefix("spiffe://") for text in texts])


def _like_any(value: str | None, texts: list[str]) -> bool:
    return value is not None and any(_like(value, text) for text in texts)


def _like(value: str, text: str) -> bool:
    if text == "*":
        return True
    if text.startswith("*"):
        return value.endswith(text[1:])
    if text.endswith("*"):
        return value.startswith(text[:-1])
    return value == text


def _inside(address: str, blocks: list[str]) -> bool:
    return any(ip_address(address) in ip_network(block) for block in blocks)
