"""What names one object of the API, and one state of it."""

import re
import sys
from dataclasses import dataclass
from typing import Final

from interceptor.cluster.fields import Fields
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import is_subdomain
from interceptor.labels import Labels

MAX_UID: Final = 128
_VERSION = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """The name of an object among those of its kind; the namespace is empty for kinds that have none."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Head:
    """Which object it is (`uid`: of those that had this name, one after the other), and which state of it.

    `version` grows with each change ("Kubernetes API Concepts", "Resource versions": decimal numbers, comparable for
    objects of one kind).
    """

    key: ObjectKey
    uid: str
    version: int


def parse_version(text: str) -> int:
    """A resource version; raises InvalidInput."""
    if not _VERSION.fullmatch(text):
        raise InvalidInput(f"{quoted(text)} is not a resource version, expected a decimal number")
    return int(text)


def parse_head(what: str, value: object) -> Head:
    """The head of an object of the kind `what`; raises InvalidInput for what nobody could recognise again."""
    metadata = Fields(what, value).part("metadata")
    namespace, name = metadata.optional_text("namespace") or "", metadata.text("name")
    if namespace and not is_subdomain(namespace):
        raise InvalidInput(f"{what} namespace {quoted(namespace)} is not valid")
    if not is_subdomain(name):
        raise InvalidInput(f"{what} name {quoted(name)} is not valid")
    # Few namespaces are in many objects: one copy of each.
    key = ObjectKey(sys.intern(namespace), name)
    return Head(key, metadata.text("uid", MAX_UID), parse_version(metadata.text("resourceVersion")))


def parse_labels(what: str, value: object) -> Labels:
    """The labels of an object; raises InvalidInput, also for those that Kubernetes would not take."""
    values = Fields(what, value).part("metadata").mapping("labels")
    try:
        return Labels({sys.intern(key): sys.intern(text) for key, text in values.items()})
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from None
