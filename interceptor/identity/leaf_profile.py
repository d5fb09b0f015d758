"""The shape of a leaf certificate, and the identity that it carries (X509-SVID specification, sections 4 and 5)."""

from collections.abc import Callable
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import InvalidInput, PeerRejected
from interceptor.identity.node_id import AuthorityId, NodeId
from interceptor.identity.spiffe_id import SpiffeId

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_Identity = TypeVar("_Identity", SpiffeId, NodeId, AuthorityId)

UNREADABLE: Final = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
PEER_IDENTITY_INVALID: Final = "peer_identity_invalid"  # in the closed set of policy/verdict.py


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """Return the workload's identity that a leaf certificate carries, if it has the form of an SVID.

    That is: exactly one URI SAN, a valid SPIFFE ID; not a certificate authority; key usage digitalSignature without
    keyCertSign and cRLSign; extended key usage, if present, both serverAuth and clientAuth. Signature and times are
    not looked at. Raises PeerRejected("peer_identity_invalid"), saying which rule was broken.
    """
    return _parsed(SpiffeId.parse, leaf)


def node_id_of(leaf: x509.Certificate) -> NodeId:
    """The same for a node's certificate."""
    return _parsed(NodeId.parse, leaf)


def authority_id_of(leaf: x509.Certificate) -> AuthorityId:
    """The same for the certificate of the authority's service."""
    return _parsed(AuthorityId.parse, leaf)


def shown_name(leaf: x509.Certificate) -> str | None:
    """What a certificate calls itself, for a line about it: its only URI, if it has the form of an SVID."""
    try:
        return _only_uri(leaf)
    except PeerRejected:
        return None


def find_extension(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    """The extension of that kind, or None."""
    return next((extension.value for extension in extensions if isinstance(extension.value, kind)), None)


def _parsed(parse: Callable[[str], _Identity], leaf: x509.Certificate) -> _Identity:
    uri = _only_uri(leaf)
    try:
        return parse(uri)
    except InvalidInput as error:
        raise _invalid(f"has an unusable name: {error}") from None


def _only_uri(leaf: x509.Certificate) -> str:
    try:
        extensions = leaf.extensions
    except UNREADABLE:
        raise _invalid("has extensions that cannot be read") from None
    _require_leaf_usage(extensions)
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _invalid("has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _invalid(f"has {len(uris)} URI names, exactly one is required")
    return uris[0]


def _require_leaf_usage(extensions: x509.Extensions) -> None:
    basic_constraints = find_extension(extensions, x509.BasicConstraints)
    if basic_constraints is not None and basic_constraints.ca:
        raise _invalid("is a certificate authority, which cannot be a workload")
    key_usage = find_extension(extensions, x509.KeyUsage)
    if key_usage is None or not key_usage.digital_signature:
        raise _invalid("lacks the key usage digitalSignature")
    if key_usage.key_cert_sign or key_usage.crl_sign:
        raise _invalid("has the key usage keyCertSign or cRLSign, which only an authority may have")
    extended = find_extension(extensions, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not both <= set(extended):
        raise _invalid("has an extended key usage without both serverAuth and clientAuth")


def _invalid(what: str) -> PeerRejected:
    return PeerRejected(PEER_IDENTITY_INVALID, f"peer certificate {what}")
