"""A label selector of a document to its requirements."""

from functools import partial
from typing import Final

from interceptor.errors import InvalidInput, quoted
from interceptor.labels import validate_label_key, validate_label_value
from interceptor.network_policy.selector import Operator, Requirement, Selector
from interceptor.network_policy.values import list_items
from interceptor.policy.reader import Field

_OPERATORS: Final = tuple(Operator)
_WITH_VALUES: Final = (Operator.IN, Operator.NOT_IN)


def parse_selector(found: Field | None) -> Selector:
    """The selector of a field; empty, null or left out it selects everything. Raises PolicyError."""
    if found is None or found.is_null:
        return Selector()
    fields = found.mapping()
    labels, expressions = fields.get("matchLabels"), fields.get("matchExpressions")
    fields.end()
    requirements = []
    if labels is not None and not labels.is_null:
        requirements += [_equality(key, value) for key, value in labels.mapping().all()]
    requirements += [_expression(each) for each in list_items(expressions)]
    return Selector(frozenset(requirements))


def _equality(key: str, found: Field) -> Requirement:
    try:
        validate_label_key(key)
    except InvalidInput as error:
        raise found.error(str(error)) from None
    return Requirement(key, Operator.IN, frozenset([found.parse(partial(_label_value, key))]))


def _expression(found: Field) -> Requirement:
    fields = found.mapping()
    key, operator, values = fields.require("key"), fields.require("operator"), fields.get("values")
    fields.end()
    if operator.text() not in _OPERATORS:
        raise operator.error(f"{quoted(operator.text())} is not one of {', '.join(_OPERATORS)}")
    kind = Operator(operator.text())
    listed = tuple(list_items(values))
    if bool(listed) != (kind in _WITH_VALUES):
        raise found.error(f"operator {kind} {'needs' if kind in _WITH_VALUES else 'takes no'} values")
    checked = key.parse(_label_key)
    return Requirement(
        checked, kind, frozenset(each.parse(partial(_label_value, checked)) for each in listed)
    )


def _label_key(text: str) -> str:
    validate_label_key(text)
    return text


def _label_value(key: str, text: str) -> str:
    validate_label_value(key, text)
    return text
