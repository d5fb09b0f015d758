"""The two documents that Istio lacks: LegacyException and EgressPolicy (policy.interceptor.io/v1)."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from interceptor.errors import InvalidInput, quoted
from interceptor.policy.documents import EgressPolicy, FieldMatch, Head, LegacyException, Rule
from interceptor.policy.matching import Attribute, Pattern
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.reader import Field, Fields
from interceptor.strict_yaml import ListNode, ScalarNode
from interceptor.workload import Direction

MAX_TEXT: Final = 500
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(_DATE.pattern + r"T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def parse_legacy_exception(head: Head, spec: Fields, _dry_run: bool, _mesh: MeshNames) -> LegacyException:
    """The spec of a LegacyException, whose selector is in the head already."""
    direction = spec.require("direction").parse(_direction)
    ports, cidrs = spec.get("ports"), spec.get("cidrs")
    if direction is Direction.OUTBOUND and cidrs is None:
        raise spec.owner.error(
            "an OUTBOUND exception needs cidrs: plaintext to everywhere is not an exception"
        )
    if not (head.selector or ports or cidrs):
        raise spec.owner.error("names nothing, give a selector, ports or cidrs")
    remote = Attribute.SOURCE_IP if direction is Direction.INBOUND else Attribute.DESTINATION_IP
    matches = (
        _match(ports, Attribute.DESTINATION_PORT, "ports", Pattern.port),
        _match(cidrs, remote, "cidrs", Pattern.block),
    )
    alternative = tuple(match for match in matches if match is not None)
    return LegacyException(
        head,
        direction,
        Rule((((alternative),),)) if alternative else Rule(),
        spec.require("reason").parse(_sentence),
        spec.require("owner").parse(_sentence),
        _expiry(spec.require("expires")),
    )


def parse_egress_policy(head: Head, spec: Fields, _dry_run: bool, mesh: MeshNames) -> EgressPolicy:
    """The spec of an EgressPolicy, whose selector is in the head already."""
    allow, refuse, accept = spec.get("allow"), spec.get("refusePlaintextTo"), spec.get("acceptPlaintextTo")
    if allow is None and refuse is None and accept is None:
        raise spec.owner.error("says nothing, give allow, refusePlaintextTo or acceptPlaintextTo")
    return EgressPolicy(
        head,
        None if allow is None else _allow_list(allow, mesh),
        () if refuse is None else refuse.parse_each(Pattern.block),
        () if accept is None else accept.parse_each(Pattern.block),
    )


def _allow_list(field: Field, mesh: MeshNames) -> tuple[Rule, ...]:
    """`allow: []` is a list too, on which there is nothing."""
    if isinstance(field.node, ListNode) and not field.node.items:
        return ()
    return tuple(_allowed(item, mesh) for item in field.items())


def _allowed(item: Field, mesh: MeshNames) -> Rule:
    fields = item.mapping()
    matches = (
        _match(fields.get("cidrs"), Attribute.DESTINATION_IP, "cidrs", Pattern.block),
        _match(fields.get("ports"), Attribute.DESTINATION_PORT, "ports", Pattern.port),
        _match(fields.get("identities"), Attribute.DESTINATION_PRINCIPAL, "identities", mesh.principal),
    )
    fields.end()
    alternative = tuple(match for match in matches if match is not None)
    if not alternative:
        raise item.error("is empty, give cidrs, ports or identities")
    return Rule(((alternative,),))


def _match(
    field: Field | None, attribute: Attribute, name: str, parse: Callable[[str], Pattern]
) -> FieldMatch | None:
    return None if field is None else FieldMatch(attribute, name, field.parse_each(parse))


def _direction(text: str) -> Direction:
    if text not in ("INBOUND", "OUTBOUND"):
        raise InvalidInput(f"{quoted(text)} is not a direction, use INBOUND or OUTBOUND")
    return Direction(text.lower())


def _sentence(text: str) -> str:
    if not text.strip() or len(text) > MAX_TEXT or not text.isprintable():
        raise InvalidInput(
            f"{quoted(text)} is not a line of 1 to {MAX_TEXT} characters that a person can read"
        )
    return text


def _expiry(field: Field) -> datetime:
    """The end of that day in UTC, or that moment; YAML takes either as such without quotes, both are fine."""
    text = field.node.text if isinstance(field.node, ScalarNode) else ""
    try:
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text)
        if _DATE.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        pass  # no such day
    raise field.error(
        f"is not a date up to 9999-12-30 ({quoted(text)}), expected the last day on which it holds, such as 2027-01-31, "
        "or a moment such as 2027-01-31T18:00:00Z"
    )
