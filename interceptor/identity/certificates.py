"""The three certificates an authority makes, and nothing but their contents.

Profiles after the X509-SVID specification (sections 3 and 4) and RFC 5280, in the form that OpenSSL's X509_STRICT
demands: key identifiers everywhere, critical basic constraints, a critical SAN where the subject is empty.
"""

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interceptor.errors import InvalidInput
from interceptor.identity.node_id import Identity
from interceptor.identity.spiffe_id import SCHEME, TrustDomain

CLOCK_SKEW: Final = timedelta(
    seconds=60
)  # a node whose clock is behind must accept a new certificate at once


def root_certificate(
    trust_domain: TrustDomain, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Make a self-signed root that may have one level of intermediates below it."""
    subject = _authority_subject("root")
    builder = _builder(subject, subject, key.public_key(), now - CLOCK_SKEW, now + lifetime)
    builder = _as_authority(builder, trust_domain, path_length=1)
    builder = builder.add_extension(_authority_key_id(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256())


def intermediate_certificate(
    trust_domain: TrustDomain,
    public_key: ec.EllipticCurvePublicKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Make an intermediate that may sign leaves of its own trust domain only; it never outlives its root.

    The name constraint stands here and not in the root: an intermediate is soon replaced, should a peer's TLS library
    be unable to process URI constraints (RFC 5280, 4.2.1.10 makes it refuse the chain then).
    """
    root, root_key = issuer
    subject = _authority_subject("intermediate")
    not_after = min(now + lifetime, root.not_valid_after_utc)
    builder = _builder(subject, root.subject, public_key, now - CLOCK_SKEW, not_after)
    builder = _as_authority(builder, trust_domain, path_length=0)
    builder = builder.add_extension(_authority_key_id(root_key.public_key()), critical=False)
    only_this_domain = x509.NameConstraints([x509.UniformResourceIdentifier(trust_domain.name)], None)
    return builder.add_extension(only_this_domain, critical=True).sign(root_key, hashes.SHA256())


def authority_trust_domain(certificate: x509.Certificate) -> TrustDomain:
    """Read the trust domain that a certificate made by root_certificate names; raises InvalidInput for any other."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.ExtensionNotFound):
        raise InvalidInput("certificate names no single trust domain") from None
    return TrustDomain.parse(uri.removeprefix(SCHEME))


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in lower-case hexadecimal: by it roots are named."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def leaf_certificate(
    spiffe_id: Identity,
    public_key: ec.EllipticCurvePublicKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Make the certificate of a workload, a node or the service; it never outlives the intermediate that signs it."""
    intermediate, intermediate_key = issuer
    not_after = min(now + lifetime, intermediate.not_valid_after_utc)
    builder = _builder(x509.Name([]), intermediate.subject, public_key, now - CLOCK_SKEW, not_after)
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(name, critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(both_ends, critical=False)
        .add_extension(_authority_key_id(intermediate_key.public_key()), critical=False)
        .sign(intermediate_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder, trust_domain: TrustDomain, path_length: int
) -> x509.CertificateBuilder:
    # The trust domain's own id (X509-SVID 3.2): from it we later tell whose authority is stored.
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(trust_domain.uri)])
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(name, critical=False)
    )


def _authority_subject(kind: str) -> x509.Name:
    # Random, so that two roots of one bundle are never mistaken for each other while chains are built; without the
    # trust domain, because a common name ends at 64 characters.
    number = f"{x509.random_serial_number():x}"[:16]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"interceptor {kind} {number}")])


def _authority_key_id(issuer_key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
