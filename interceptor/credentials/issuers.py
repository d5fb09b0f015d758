"""Which root a certificate leads to: what a rotation of the root asks of every node."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from interceptor.identity.certificates import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography import x509


def root_of(chain: Sequence[x509.Certificate], roots: tuple[x509.Certificate, ...]) -> str | None:
    """The fingerprint of the root that signed the last certificate of a chain; None when it is not among `roots`."""
    return _root_above(chain[-1], roots)


def roots_of(
    chains: Iterable[Sequence[x509.Certificate]], roots: tuple[x509.Certificate, ...]
) -> tuple[str, ...]:
    """The fingerprints of all roots that these chains lead to, sorted."""
    return tuple(sorted({found for chain in chains if (found := root_of(chain, roots)) is not None}))


# A node has one intermediate, or two while it changes; a signature costs a tenth of a millisecond to check.
@lru_cache(maxsize=16)
def _root_above(intermediate: x509.Certificate, roots: tuple[x509.Certificate, ...]) -> str | None:
    for root in roots:
        try:
            intermediate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return fingerprint(root)
    return None
