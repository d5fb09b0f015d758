"""TLS between the nodes and the authority: as strict as that of the workloads, but for what is answered later.

A node whose certificate has expired, or whose clock is wrong, must be told so: with a code and a sentence, and not
with a TLS alert that says "certificate expired" on one side only.  So the times are forgiven in the handshake, and
whoever reads the peer's identity (`TrustBundles.identify_node`, `identify_authority`) checks them, beside revocation.
A chain that does not lead to one of the roots, a certificate for other uses, or a bad signature ends the handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from interceptor.transport.tls import EXPIRED, NOT_YET_VALID, new_context, refuse_unverified

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509
    from OpenSSL.crypto import X509

    from interceptor.transport.tls import Proof

_FORGIVEN = (EXPIRED, NOT_YET_VALID)


def authority_context(proof: Proof, roots: Iterable[x509.Certificate]) -> SSL.Context:
    """The authority's side; a client without a certificate may be one that joins only now."""
    context = new_context(roots, proof, server_side=True)
    context.set_verify(SSL.VERIFY_PEER, _forgive_times)
    return context


def node_context(proof: Proof | None, roots: Iterable[x509.Certificate]) -> SSL.Context:
    """A node's side; without a certificate of its own, it can only join."""
    context = new_context(roots, proof, server_side=False)
    context.set_verify(SSL.VERIFY_PEER, _forgive_times)
    return context


def unverified_context() -> SSL.Context:
    """A client that believes nothing and proves nothing: only to look at what a server shows; send it no secret."""
    context = new_context((), None, server_side=False)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def _forgive_times(connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:
    return error in _FORGIVEN or refuse_unverified(connection, certificate, error, depth, ok)
