"""Kinds of values that NetworkPolicies have and our own documents do not: lists that may be empty, numbers as such."""

from collections.abc import Iterator
from typing import Final

from interceptor.policy.reader import Field
from interceptor.strict_yaml import ListNode, ScalarNode, kind_of

MAX_ITEMS: Final = 10_000  # of any one list


def list_items(found: Field | None) -> Iterator[Field]:
    """The items of a list that may be empty, null, or left out."""
    if found is None or found.is_null:
        return
    if not isinstance(found.node, ListNode):
        raise found.error(f"expected a list, not {kind_of(found.node)}")
    if len(found.node.items) > MAX_ITEMS:
        raise found.error(f"has {len(found.node.items)} items, at most {MAX_ITEMS} are allowed")
    for number, item in enumerate(found.node.items):
        yield Field(item, f"{found.path}[{number}]", found.file, item.line, item.column)


def scalar(found: Field) -> ScalarNode:
    """The scalar behind the colon, text or not; raises PolicyError for a mapping or list."""
    if not isinstance(found.node, ScalarNode):
        raise found.error(f"expected one value, not {kind_of(found.node)}")
    return found.node
