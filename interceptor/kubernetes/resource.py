"""What is asked of the API for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from interceptor.cluster.cluster import Kind

_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind, or a part of it: `selector` is a field selector.

    `is_metadata_only` asks for names and labels alone ("Kubernetes API Concepts", "Metadata-only fetches").
    """

    kind: Kind
    path: str
    selector: str = ""
    is_metadata_only: bool = False

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of every request."""
        return {"fieldSelector": self.selector} if self.selector else {}

    @property
    def accept_list(self) -> str:
        """The Accept header of a list."""
        return self._accept("PartialObjectMetadataList")

    @property
    def accept_watch(self) -> str:
        """The Accept header of a watch."""
        return self._accept("PartialObjectMetadata")

    def _accept(self, metadata: str) -> str:
        return f"{_JSON};as={metadata};g=meta.k8s.io;v=v1,{_JSON}" if self.is_metadata_only else _JSON


NAMESPACES: Final = Resource(Kind.NAMESPACE, "/api/v1/namespaces", is_metadata_only=True)
# What has ended needs nothing of us, and there may be many of it: for us it is as if it were deleted.
_NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"
PODS: Final = Resource(Kind.POD, "/api/v1/pods", _NOT_ENDED)
SERVICES: Final = Resource(Kind.SERVICE, "/api/v1/services")
ENDPOINT_SLICES: Final = Resource(Kind.ENDPOINT_SLICE, "/apis/discovery.k8s.io/v1/endpointslices")

POLICIES: Final = (
    Resource(Kind.PEER_AUTHENTICATION, "/apis/security.istio.io/v1/peerauthentications"),
    Resource(Kind.AUTHORIZATION_POLICY, "/apis/security.istio.io/v1/authorizationpolicies"),
)

EVERYTHING: Final = (NAMESPACES, PODS, SERVICES, ENDPOINT_SLICES)


def pods_of_node(node: str) -> Resource:
    """The pods that are scheduled on one node."""
    return Resource(Kind.POD, PODS.path, f"spec.nodeName={node},{_NOT_ENDED}")


def pods_of_account(namespace: str, name: str) -> Resource:
    """The pods of one service account."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    return Resource(Kind.POD, path, f"spec.serviceAccountName={name},{_NOT_ENDED}")
