"""The identities of what runs the mesh itself: its nodes, and the authority's service. Workloads have SpiffeId.

All three lie in one trust domain and are told apart by their path, so none can ever be taken for another:
`spiffe://<trust domain>/node/<name>`, `spiffe://<trust domain>/authority`.
"""

from dataclasses import dataclass
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import (
    AUTHORITY,
    MAX_LABEL_LENGTH,
    NODE,
    SCHEME,
    SpiffeId,
    TrustDomain,
    is_subdomain,
    split_uri,
)

NODE_FORM: Final = f"{SCHEME}<trust domain>/{NODE}/<name>"
AUTHORITY_FORM: Final = f"{SCHEME}<trust domain>/{AUTHORITY}"


def validate_node_name(value: str) -> str:
    """Return `value` if it names a node: a DNS-1123 subdomain as Kubernetes has it, of at most 63 characters.

    Raises InvalidInput.
    """
    if not 0 < len(value) <= MAX_LABEL_LENGTH or not is_subdomain(value):
        raise InvalidInput(
            f"node name {quoted(value)} is not valid, use at most {MAX_LABEL_LENGTH} lower-case letters, digits, "
            "'-' and '.', beginning and ending with a letter or digit"
        )
    return value


@dataclass(frozen=True, slots=True)
class NodeId:
    """The identity of a node; every instance is valid, and `NodeId.parse(str(x)) == x`."""

    trust_domain: TrustDomain
    name: str

    def __post_init__(self) -> None:
        """Raise InvalidInput unless the name is one."""
        validate_node_name(self.name)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Turn exactly `spiffe://<trust domain>/node/<name>` into a value; raises InvalidInput for all else."""
        trust_domain, segments = split_uri(uri, NODE_FORM)
        if len(segments) != 2 or segments[0] != NODE:
            raise InvalidInput(f"SPIFFE ID {quoted(uri)} names no node, expected {NODE_FORM}")
        return cls(trust_domain, segments[1])

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/{NODE}/{self.name}"


@dataclass(frozen=True, slots=True)
class AuthorityId:
    """The identity with which the authority's service answers; `AuthorityId.parse(str(x)) == x`."""

    trust_domain: TrustDomain

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Turn exactly `spiffe://<trust domain>/authority` into a value; raises InvalidInput for all else."""
        trust_domain, segments = split_uri(uri, AUTHORITY_FORM)
        if segments != (AUTHORITY,):
            raise InvalidInput(f"SPIFFE ID {quoted(uri)} names no authority, expected {AUTHORITY_FORM}")
        return cls(trust_domain)

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/{AUTHORITY}"


Identity = SpiffeId | NodeId | AuthorityId  # whatever a certificate of ours can prove
