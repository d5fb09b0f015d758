"""Whether an agent stops because the mesh is being taken out of the cluster, or is to come back.

The namespace is asked of what is known already: it is the first to be deleted, and once it is, the right to ask the
API may go at any moment.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.wire import parse_json
from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.client import ApiRefusal

if TYPE_CHECKING:
    from interceptor.cluster.cluster import Cluster
    from interceptor.kubernetes.client import ApiClient

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 5.0
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_WHAT: Final = "the DaemonSet"
_NOT_FOUND: Final = 404


async def is_being_removed(client: ApiClient, cluster: Cluster, daemonset: ObjectKey) -> bool:
    """Say whether the agents' DaemonSet, or its namespace, is gone or about to go.

    False when that cannot be found out: what is attached stays, and fails closed.
    """
    namespace = cluster.namespaces.get(ObjectKey("", daemonset.namespace))
    if namespace is not None and namespace.is_deleting:
        return True
    path = f"/apis/apps/v1/namespaces/{daemonset.namespace}/daemonsets/{daemonset.name}"
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            answer = await client.get(path, {}, _METADATA)
        metadata = Fields(_WHAT, parse_json(_WHAT, answer)).part("metadata")
        return metadata.optional_text("deletionTimestamp") is not None
    except ApiRefusal as refusal:
        if refusal.status == _NOT_FOUND:
            return True
        error: Exception = refusal
    except (ClusterError, InvalidInput) as other:
        error = other
    except trio.TooSlowError:
        error = ClusterError(f"no answer within {PATIENCE_SECONDS:g} s")
    log.warning(
        "cannot see whether the mesh is being removed (%s): pods stay captured; 'interceptor down' withdraws them",
        error,
    )
    return False
