"""What the same document means in one mesh and not in another."""

from dataclasses import dataclass
from typing import Final

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import SCHEME
from interceptor.policy.documents import ROOT_NAMESPACE
from interceptor.policy.matching import Pattern

# "is a pointer to the local trust domain and its aliases" (istio, pilot/pkg/security/trustdomain/bundle.go)
CLUSTER_LOCAL: Final = "cluster.local"
_WHOLE: Final = 5  # pieces of `<trust domain>/ns/<namespace>/sa/<service account>`


@dataclass(frozen=True, slots=True)
class MeshNames:
    """The namespace whose documents are for all, and the trust domain of our own."""

    root_namespace: str = ROOT_NAMESPACE
    trust_domain: str = CLUSTER_LOCAL

    def principal(self, text: str) -> Pattern:
        """A pattern for an identity. `cluster.local` stands for our own trust domain, whatever that is called.

        Istio does so for principals of five pieces, and leaves all others as they are: they would match nobody, and a
        DENY would be open without a word, so they are refused.
        """
        pattern = Pattern.principal(text)
        pieces = text.removeprefix(SCHEME).split("/")
        if pieces[0] != CLUSTER_LOCAL or len(pieces) == 1 or self.trust_domain == CLUSTER_LOCAL:
            return pattern
        ours = "/".join((self.trust_domain, *pieces[1:]))
        if len(pieces) != _WHOLE:
            raise InvalidInput(
                f"{quoted(text)} matches nobody, {CLUSTER_LOCAL} stands for the trust domain {self.trust_domain} only in "
                f"a whole principal, as in Istio: write {ours}"
            )
        return Pattern.principal(ours).written_as(text)
