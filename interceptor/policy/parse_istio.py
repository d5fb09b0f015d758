"""The two documents of Istio: PeerAuthentication and AuthorizationPolicy, with what a layer-4 proxy can enforce.

A field that it cannot enforce refuses the document: Istio's ztunnel drops DENY rules with such fields and turns ALLOW
rules with them into "deny all", and its users learn of either too late.
"""

from collections.abc import Callable, Mapping
from typing import Final

from interceptor.errors import InvalidInput, quoted
from interceptor.policy.documents import (
    Action,
    Alternative,
    AuthorizationPolicy,
    Clause,
    FieldMatch,
    Head,
    PeerAuthentication,
    Rule,
)
from interceptor.policy.matching import Attribute, Pattern
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.reader import Field, Fields
from interceptor.strict_yaml import ListNode

DRY_RUN_ANNOTATION: Final = "istio.io/dry-run"
UNSET: Final = "UNSET"

_NEEDS_HTTP: Final = "cannot be enforced, this proxy carries bytes and does not read HTTP; remove it, or enforce it in the application"
_NEEDS_JWT: Final = (
    "cannot be enforced, this proxy reads no tokens; use principals, namespaces or serviceAccounts"
)
_NO_FORWARDING: Final = "cannot be enforced, it comes from an HTTP header; use ipBlocks"
_SOURCE_UNSUPPORTED: Final = {
    "requestPrincipals": _NEEDS_JWT,
    "notRequestPrincipals": _NEEDS_JWT,
    "remoteIpBlocks": _NO_FORWARDING,
    "notRemoteIpBlocks": _NO_FORWARDING,
}
_OPERATION_UNSUPPORTED: Final = dict.fromkeys(
    ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"), _NEEDS_HTTP
)
_SOURCE: Final = (
    "serviceAccounts",
    "notServiceAccounts",
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "ipBlocks",
    "notIpBlocks",
)
_OPERATION: Final = ("ports", "notPorts")
_CONDITIONS: Final[Mapping[str, tuple[Attribute, Callable[[str], Pattern]]]] = {
    "source.ip": (Attribute.SOURCE_IP, Pattern.block),
    "source.namespace": (Attribute.NAMESPACE, Pattern.parse),
    "source.principal": (Attribute.PRINCIPAL, Pattern.principal),
    "destination.ip": (Attribute.DESTINATION_IP, Pattern.block),
    "destination.port": (Attribute.DESTINATION_PORT, Pattern.port),
}


def parse_peer_authentication(
    head: Head, spec: Fields, _dry_run: bool, mesh: MeshNames
) -> PeerAuthentication:
    """The spec of a PeerAuthentication, whose selector is in the head already."""
    mtls, ports = spec.get("mtls"), spec.get("portLevelMtls")
    if head.selector and head.name.namespace == mesh.root_namespace:
        raise spec.owner.error(
            f"a selector in the root namespace {mesh.root_namespace} selects nothing (Istio ignores the whole document), "
            "put the document into the namespace of the workloads"
        )
    by_port: dict[int, MtlsMode | None] = {}
    for key, field in ports.mapping().all() if ports is not None else ():
        try:
            number = int(Pattern.port(key).key)
        except InvalidInput as error:
            raise field.error(str(error)) from None
        by_port[number] = _mode(field)
    return PeerAuthentication(head, None if mtls is None else _mode(mtls), by_port)


def _mode(field: Field) -> MtlsMode | None:
    fields = field.mapping()
    mode = fields.get("mode")
    fields.end()
    if mode is None or mode.text() == UNSET:
        return None
    try:
        return MtlsMode(mode.text())
    except ValueError:
        raise mode.error(
            f"{quoted(mode.text())} is not a mode, use STRICT, PERMISSIVE, DISABLE or UNSET"
        ) from None


def parse_authorization_policy(
    head: Head, spec: Fields, dry_run: bool, mesh: MeshNames
) -> AuthorizationPolicy:
    """The spec of an AuthorizationPolicy, whose selector is in the head already."""
    action, rules = spec.get("action"), spec.get("rules")
    return AuthorizationPolicy(
        head,
        Action.ALLOW if action is None else _action(action),
        () if rules is None or _is_empty(rules) else tuple(_rule(rule, head, mesh) for rule in rules.items()),
        dry_run,
    )


def _is_empty(rules: Field) -> bool:
    """`rules: []` and `rules:` say the same as no rules, "the match will never occur"."""
    return rules.is_null or (isinstance(rules.node, ListNode) and not rules.node.items)


def _action(field: Field) -> Action:
    text = field.text()
    if text in ("AUDIT", "CUSTOM"):
        raise field.error(
            f'{text} cannot be enforced, use ALLOW or DENY; the annotation {DRY_RUN_ANNOTATION}: "true" tries one out'
        )
    try:
        return Action(text)
    except ValueError:
        raise field.error(f"{quoted(text)} is not an action, use ALLOW or DENY") from None


def _rule(field: Field, head: Head, mesh: MeshNames) -> Rule:
    fields = field.mapping()
    sources, operations, conditions = fields.get("from"), fields.get("to"), fields.get("when")
    fields.end()
    clauses: list[Clause] = []
    if sources is not None:
        clauses.append(tuple(_source(item, head, mesh) for item in sources.items()))
    if operations is not None:
        clauses.append(tuple(_operation(item) for item in operations.items()))
    if conditions is not None:
        clauses += [((_condition(item, mesh),),) for item in conditions.items()]
    return Rule(tuple(clauses))


def _source(item: Field, head: Head, mesh: MeshNames) -> Alternative:
    outer = item.mapping()
    source = outer.require("source")
    outer.end()
    fields = source.mapping(_SOURCE_UNSUPPORTED)
    found = fields.those_of(_SOURCE)
    fields.end()

    def service_account(text: str) -> Pattern:
        return Pattern.service_account(text, head.name.namespace)

    accounts = _match(found, Attribute.SERVICE_ACCOUNT, *_SOURCE[0:2], service_account)
    principals = _match(found, Attribute.PRINCIPAL, *_SOURCE[2:4], mesh.principal)
    namespaces = _match(found, Attribute.NAMESPACE, *_SOURCE[4:6], Pattern.parse)
    blocks = _match(found, Attribute.SOURCE_IP, *_SOURCE[6:8], Pattern.block)
    if accounts and (principals or namespaces):
        raise source.error(
            "serviceAccounts cannot be together with principals or namespaces, use one of them"
        )
    return _alternative(source, accounts, principals, namespaces, blocks)


def _operation(item: Field) -> Alternative:
    outer = item.mapping()
    operation = outer.require("operation")
    outer.end()
    fields = operation.mapping(_OPERATION_UNSUPPORTED)
    found = fields.those_of(_OPERATION)
    fields.end()
    return _alternative(operation, _match(found, Attribute.DESTINATION_PORT, *_OPERATION, Pattern.port))


def _condition(item: Field, mesh: MeshNames) -> FieldMatch:
    fields = item.mapping()
    key, values, not_values = fields.require("key"), fields.get("values"), fields.get("notValues")
    fields.end()
    if key.text() not in _CONDITIONS:
        raise key.error(
            f"{quoted(key.text())} cannot be enforced here, this proxy knows {', '.join(_CONDITIONS)}"
        )
    if values is None and not_values is None:
        raise item.error("needs values or notValues")
    attribute, parse = _CONDITIONS[key.text()]
    if attribute is Attribute.PRINCIPAL:
        parse = mesh.principal
    return FieldMatch(
        attribute,
        f"when {key.text()}",
        () if values is None else values.parse_each(parse),
        () if not_values is None else not_values.parse_each(parse),
    )


def _match(
    fields: Mapping[str, Field],
    attribute: Attribute,
    name: str,
    negative: str,
    parse: Callable[[str], Pattern],
) -> FieldMatch | None:
    values, not_values = fields.get(name), fields.get(negative)
    if values is None and not_values is None:
        return None
    return FieldMatch(
        attribute,
        name if not_values is None else negative if values is None else f"{name}, {negative}",
        () if values is None else values.parse_each(parse),
        () if not_values is None else not_values.parse_each(parse),
    )


def _alternative(field: Field, *matches: FieldMatch | None) -> Alternative:
    found = tuple(match for match in matches if match is not None)
    if not found:
        raise field.error("is empty, name at least one field, or leave it out to mean everything")
    return found
