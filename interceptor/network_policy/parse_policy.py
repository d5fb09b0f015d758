"""One document to a NetworkPolicy, as strictly as the API server validates one."""

import re
from ipaddress import ip_network
from typing import Final

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import is_subdomain, validate_name
from interceptor.network_policy.model import (
    TCP,
    BlockPeer,
    NetworkPolicy,
    Peer,
    PodPeer,
    PortEntry,
    Rule,
    Side,
    is_inside,
)
from interceptor.network_policy.parse_selector import parse_selector
from interceptor.network_policy.values import list_items, scalar
from interceptor.policy.reader import Field, Fields
from interceptor.workload import MAX_PORT, IPNetwork

_PROTOCOLS: Final = (TCP, "UDP", "SCTP")
_TYPES: Final = ("Ingress", "Egress")
_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")  # RFC 6335, 5.1


def parse_network_policy(document: Field, fields: Fields, default_namespace: str) -> NetworkPolicy:
    """Its meaning; `apiVersion` and `kind` were taken out of `fields` already. Raises PolicyError."""
    metadata, spec = fields.require("metadata").mapping(), fields.require("spec").mapping()
    fields.get("status")
    fields.end()
    namespace = metadata.get("namespace")
    selector, types = spec.get("podSelector"), spec.get("policyTypes")
    ingress, egress = spec.get("ingress"), spec.get("egress")
    spec.end()
    rules = {Side.INGRESS: _rules(ingress, "from"), Side.EGRESS: _rules(egress, "to")}
    sides = _sides(types, has_egress_rules=bool(rules[Side.EGRESS]))
    return NetworkPolicy(
        namespace=default_namespace
        if namespace is None
        else namespace.parse(lambda text: validate_name("namespace", text)),
        name=metadata.require("name").parse(_name),
        pods=parse_selector(selector),
        ingress=rules[Side.INGRESS] if Side.INGRESS in sides else None,
        egress=rules[Side.EGRESS] if Side.EGRESS in sides else None,
        file=document.file,
        line=document.line,
    )


def _sides(types: Field | None, *, has_egress_rules: bool) -> set[Side]:
    """Which sides it restricts: as `policyTypes` says, else ingress, and egress if there are rules for it."""
    listed = list(list_items(types))
    if not listed:
        return {Side.INGRESS, Side.EGRESS} if has_egress_rules else {Side.INGRESS}
    for each in listed:
        if each.text() not in _TYPES:
            raise each.error(f"{quoted(each.text())} is not a policy type, use one of {', '.join(_TYPES)}")
    return {Side(each.text().lower()) for each in listed}


def _rules(found: Field | None, peers: str) -> tuple[Rule, ...]:
    return tuple(_rule(each, peers) for each in list_items(found))


def _rule(found: Field, peers_key: str) -> Rule:
    if found.is_null:
        return Rule(line=found.line)
    fields = found.mapping()
    peers, ports = fields.get(peers_key), fields.get("ports")
    fields.end()
    return Rule(
        tuple(_peer(each) for each in list_items(peers)),
        tuple(_port(each) for each in list_items(ports)),
        found.line,
    )


def _peer(found: Field) -> Peer:
    fields = found.mapping()
    block, pods, namespaces = (
        fields.get("ipBlock"),
        fields.get("podSelector"),
        fields.get("namespaceSelector"),
    )
    fields.end()
    if block is None and pods is None and namespaces is None:
        raise found.error("has no peer, give an ipBlock, a podSelector or a namespaceSelector")
    if block is None:
        return PodPeer(parse_selector(pods), None if namespaces is None else parse_selector(namespaces))
    if pods is not None or namespaces is not None:
        raise found.error("has an ipBlock and a selector, make two peers of it")
    return _block(block)


def _block(found: Field) -> BlockPeer:
    fields = found.mapping()
    network = fields.require("cidr").parse(_network)
    excepted = [(each, each.parse(_network)) for each in list_items(fields.get("except"))]
    fields.end()
    for field, each in excepted:
        if each == network or not is_inside(each, network):
            raise field.error(f"{each} is not a part of {network}, which it should be an exception of")
    return BlockPeer(network, tuple(each for _, each in excepted))


def _port(found: Field) -> PortEntry:
    fields = found.mapping()
    protocol, port, end = fields.get("protocol"), fields.get("port"), fields.get("endPort")
    fields.end()
    name = TCP if protocol is None or protocol.is_null else protocol.text()
    if name not in _PROTOCOLS:
        raise found.error(f"protocol {quoted(name)} is not one of {', '.join(_PROTOCOLS)}")
    if port is None or port.is_null:
        if end is not None:
            raise end.error("needs a port, from which the range begins")
        return PortEntry(name)
    if scalar(port).is_text:
        if end is not None:
            raise end.error("needs a port that is a number, not a name")
        return PortEntry(name, name=port.parse(_port_name))
    first = _port_number(port)
    last = first if end is None else _port_number(end)
    if last < first:
        raise found.error(f"the range ends with {last}, before its begin {first}")
    return PortEntry(name, first, last)


def _port_number(found: Field) -> int:
    text = scalar(found).text
    if not _NUMBER.fullmatch(text) or int(text) > MAX_PORT:
        raise found.error(f"{quoted(text)} is not a port, expected 1 to {MAX_PORT}")
    return int(text)


def _port_name(text: str) -> str:
    if not _PORT_NAME.fullmatch(text):
        raise InvalidInput(
            f"{quoted(text)} is not the name of a port, write numbers without quotes, and names with at most 15 of "
            "a-z, 0-9 and '-', at least one of them a letter"
        )
    return text


def _name(text: str) -> str:
    if not is_subdomain(text):
        raise InvalidInput(f"{quoted(text)} is not a name that Kubernetes takes")
    return text


def _network(text: str) -> IPNetwork:
    """A CIDR; bits beyond its prefix mean nothing, as for the API server."""
    try:
        network = ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        network = None
    if network is None:
        raise InvalidInput(f"{quoted(text)} is not a CIDR, expected one such as 10.0.0.0/8")
    return network
