"""The objects of an authority of several replicas in the Kubernetes API: read, and written at the version that was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.client import ApiRefusal
from interceptor.shared_authority.objects import MAX_OBJECT_BYTES, body, parse_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.client import ApiClient
    from interceptor.shared_authority.objects import Holder, Stored

JSON: Final = "application/json"
NOT_FOUND: Final = 404
CONFLICT: Final = 409


async def read(client: ApiClient, holder: Holder, key: ObjectKey) -> Stored | None:
    """What the object holds now, None when there is none; ClusterError."""
    try:
        answer = await client.get(holder.path(key), {}, JSON, MAX_OBJECT_BYTES)
    except ApiRefusal as refusal:
        if refusal.status == NOT_FOUND:
            return None
        raise
    try:
        return parse_stored(holder, answer)
    except InvalidInput as error:
        raise ClusterError(f"{holder} {key}: the API's answer cannot be used: {error}") from None


async def write(
    client: ApiClient, holder: Holder, key: ObjectKey, content: Mapping[str, bytes], before: Stored | None
) -> bool:
    """Create the object, or replace what was `before`; False, with nothing changed, when somebody else was faster.

    ClusterError; after one it is not known whether it was written.  InvalidInput for too much.
    """
    sent = body(holder, key, content, before)
    try:
        if before is None:
            await client.post(holder.collection(key.namespace), sent, MAX_OBJECT_BYTES)
        else:
            await client.put(holder.path(key), sent, MAX_OBJECT_BYTES)
    except ApiRefusal as refusal:
        if refusal.status == CONFLICT:
            return False
        raise
    return True
