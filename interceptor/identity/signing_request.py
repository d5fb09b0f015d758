"""What a node sends to an authority: a request that proves possession of a key, which itself never travels.

Both halves are here, making a request and checking one, so that embedded and remote authorities apply the same rules.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.errors import AuthorityError, quoted
from interceptor.identity.node_id import Identity


def create_private_key() -> ec.EllipticCurvePrivateKey:
    """Make a new ECDSA P-256 key; every certificate gets its own."""
    return ec.generate_private_key(ec.SECP256R1())


def create_signing_request(
    spiffe_id: Identity, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateSigningRequest:
    """Ask for a certificate of `spiffe_id` for `key`: empty subject, the id as the only name, signed by the key."""
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(name, critical=True)
    return builder.sign(key, hashes.SHA256())


def check_signing_request(
    request: x509.CertificateSigningRequest, spiffe_id: Identity
) -> ec.EllipticCurvePublicKey:
    """Return the key to certify, if the request is what we demand for `spiffe_id`.

    It must be signed by its own ECDSA P-256 key, carry exactly one name, the URI of `spiffe_id`, and not ask to be an
    authority. Everything else in it (subject, requested usages) is ignored, never copied. Raises AuthorityError.
    """
    try:
        key = request.public_key()
        names = _names_in(request)
        wants_authority = any(_is_authority(extension.value) for extension in request.extensions)
        signed = _is_signed(request)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm):
        raise _refused(spiffe_id, "it cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(spiffe_id, "its key is not ECDSA P-256")
    if not signed:
        raise _refused(spiffe_id, "it is not signed by its own key")
    if names != [x509.UniformResourceIdentifier(str(spiffe_id))]:
        shown = ", ".join(quoted(name.value) for name in names[:2]) or "no name"
        raise _refused(spiffe_id, f"it asks for {shown} ({len(names)} in all), exactly that id is required")
    if wants_authority:
        raise _refused(spiffe_id, "it asks to be a certificate authority")
    return key


def _is_signed(request: x509.CertificateSigningRequest) -> bool:
    # OpenSSL does not look at the number of unused bits that stands before the signature: two encodings of one request.
    ends_as_encoded = request.public_bytes(Encoding.DER).endswith(b"\0" + request.signature)
    return ends_as_encoded and request.is_signature_valid


def _is_authority(extension: x509.ExtensionType) -> bool:
    return isinstance(extension, x509.BasicConstraints) and extension.ca


def _names_in(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _refused(spiffe_id: Identity, why: str) -> AuthorityError:
    return AuthorityError(f"signing request for {spiffe_id} refused: {why}")
