"""A Secret or ConfigMap that is ours: read at one version, and replaced only while it still has that one.

Source: kubernetes.io, "Kubernetes API Concepts", "Updates to existing resources": an update that names a
resourceVersion is refused with status 409 when the object has another by now.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.wire import parse_json
from interceptor.errors import InvalidInput

MAX_CONTENT_BYTES: Final = 1024 * 1024  # "a Secret is limited to 1MiB in size", and so is a ConfigMap
MAX_OBJECT_BYTES: Final = 2 * MAX_CONTENT_BYTES  # base64 and metadata around it
MAX_VERSION: Final = 64  # opaque, says the API; decimal, in fact
LABELS: Final = {"app.kubernetes.io/name": "interceptor", "app.kubernetes.io/component": "authority"}


class Holder(StrEnum):
    """The kinds of objects that hold content."""

    SECRET = "Secret"  # noqa: S105 -- the name of a kind
    CONFIG_MAP = "ConfigMap"

    def collection(self, namespace: str) -> str:
        """The path under which one is created."""
        return f"/api/v1/namespaces/{namespace}/{self.value.lower()}s"

    def path(self, key: ObjectKey) -> str:
        """The path of one."""
        return f"{self.collection(key.namespace)}/{key.name}"


@dataclass(frozen=True, slots=True)
class Stored:
    """What an object held at a version; what others have put on its metadata stays there when it is replaced."""

    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    content: Mapping[str, bytes] = field(repr=False)


def parse_stored(holder: Holder, data: bytes) -> Stored:
    """Raises InvalidInput, whose message shows nothing of the content."""
    what = f"the {holder}"
    fields = Fields(what, parse_json(what, data))
    metadata = fields.part("metadata")
    content = {name: _decoded(holder, name, text) for name, text in fields.mapping("data").items()}
    return Stored(
        metadata.text("resourceVersion", MAX_VERSION),
        metadata.mapping("labels"),
        metadata.mapping("annotations"),
        content,
    )


def body(holder: Holder, key: ObjectKey, content: Mapping[str, bytes], before: Stored | None) -> bytes:
    """What is to be sent to create the object, or to replace `before`; raises InvalidInput for too much of it."""
    size = sum(len(name) + len(value) for name, value in content.items())
    if size > MAX_CONTENT_BYTES:
        raise InvalidInput(
            f"{holder} {key} would have {size} bytes, at most {MAX_CONTENT_BYTES} can be kept: take back revocations of "
            "certificates that have ended"
        )
    metadata: dict[str, Any] = {"name": key.name, "namespace": key.namespace, "labels": LABELS}
    if before is not None:
        metadata |= {
            "labels": {**before.labels, **LABELS},
            "annotations": dict(before.annotations),
            "resourceVersion": before.version,
        }
    document = {
        "apiVersion": "v1",
        "kind": holder.value,
        "metadata": metadata,
        "data": {name: _encoded(holder, value) for name, value in sorted(content.items())},
    }
    return json.dumps(document).encode("ascii")


def _decoded(holder: Holder, name: str, text: str) -> bytes:
    if holder is Holder.CONFIG_MAP:
        return text.encode()
    try:
        return b64decode(text, validate=True)
    except (Error, ValueError):
        raise InvalidInput(f"the {holder}: {name} is not in base64") from None


def _encoded(holder: Holder, value: bytes) -> str:
    return value.decode() if holder is Holder.CONFIG_MAP else b64encode(value).decode("ascii")
