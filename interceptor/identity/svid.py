"""The certificate and key that prove one identity, held in memory only."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from interceptor.errors import InvalidInput, PeerRejected
from interceptor.identity.leaf_profile import authority_id_of, node_id_of, spiffe_id_of
from interceptor.identity.node_id import AuthorityId, Identity, NodeId
from interceptor.identity.spiffe_id import SpiffeId

_IdentityT = TypeVar("_IdentityT", bound=Identity)


@dataclass(frozen=True, slots=True, repr=False)
class Svid(Generic[_IdentityT]):
    """An identity with its proof; consistent by construction, wherever chain and key came from.

    `chain` is leaf first, then intermediates, without the root. `issued_at` is when we received it (aware, UTC), from
    which its life is counted. The key is no part of repr, of comparison, and can be neither pickled nor copied.
    """

    spiffe_id: _IdentityT
    chain: tuple[x509.Certificate, ...]
    private_key: ec.EllipticCurvePrivateKey = field(compare=False)
    issued_at: datetime

    def __post_init__(self) -> None:
        """Raise InvalidInput unless the leaf proves this very identity with this very key."""
        if not self.chain:
            raise InvalidInput(
                f"SVID of {self.spiffe_id} has no certificate, ask the authority for a new one"
            )
        try:
            certified_key, proven = self.leaf.public_key(), _identity_of(self.leaf, self.spiffe_id)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidInput(
                f"certificate for {self.spiffe_id} has an unusable key, request a new one"
            ) from None
        except PeerRejected as error:
            raise InvalidInput(f"certificate for {self.spiffe_id} is no SVID: {error}") from None
        if certified_key != self.private_key.public_key():
            raise InvalidInput(
                f"certificate for {self.spiffe_id} does not belong to its key, request a new one"
            )
        if proven != self.spiffe_id:
            raise InvalidInput(f"certificate for {self.spiffe_id} names {proven}, request a new one")

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def not_before(self) -> datetime:
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        return self.leaf.not_valid_after_utc

    @property
    def serial_number(self) -> str:
        """The leaf's serial number, lower-case hexadecimal."""
        return f"{self.leaf.serial_number:x}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spiffe_id}, serial {self.serial_number}, not after {self.not_after.isoformat()})"

    def __reduce__(self) -> NoReturn:
        """Refuse pickle and copy: a private key stays where it was made."""
        raise TypeError(f"an {type(self).__name__} holds a private key and cannot be pickled or copied")


@dataclass(frozen=True, slots=True, repr=False)
class X509Svid(Svid[SpiffeId]):
    """What a workload proves its identity with."""


@dataclass(frozen=True, slots=True, repr=False)
class NodeSvid(Svid[NodeId]):
    """What a node proves its identity to the authority with."""


@dataclass(frozen=True, slots=True, repr=False)
class AuthoritySvid(Svid[AuthorityId]):
    """What the authority's service answers with."""


def _identity_of(leaf: x509.Certificate, expected: Identity) -> Identity:
    if isinstance(expected, SpiffeId):
        return spiffe_id_of(leaf)
    return node_id_of(leaf) if isinstance(expected, NodeId) else authority_id_of(leaf)
