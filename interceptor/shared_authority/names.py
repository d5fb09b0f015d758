"""Which objects in the API belong to one authority: they are named for its Secret, and stand beside it."""

from dataclasses import dataclass

from interceptor.cluster.head import ObjectKey
from interceptor.identity.spiffe_id import TrustDomain


@dataclass(frozen=True, slots=True)
class SharedAuthority:
    """An authority of one trust domain whose state is in `secret`.

    lease  held by the replica that leads
    roots  the ConfigMap by which agents recognise the authority
    nodes  the ConfigMap of what nodes have told
    """

    trust_domain: TrustDomain
    secret: ObjectKey

    @property
    def lease(self) -> ObjectKey:
        return self.secret

    @property
    def roots(self) -> ObjectKey:
        return self._beside("root")

    @property
    def nodes(self) -> ObjectKey:
        return self._beside("nodes")

    def _beside(self, what: str) -> ObjectKey:
        return ObjectKey(self.secret.namespace, f"{self.secret.name}-{what}")
