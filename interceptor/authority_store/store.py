"""What the authority's directory holds, and everything that can be wrong with it.

Creation publishes the whole directory, renewal publishes `renewed` inside it and then moves its two files over the old
ones: certificate and key must change together. Two agents must not share a state directory; its lock is the caller's.
"""

import errno
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from interceptor.authority_store.private_directory import (
    GROUP_OR_OTHERS,
    WRITABLE_BY_GROUP_OR_OTHERS,
    PrivateDirectory,
    staging_name,
)
from interceptor.errors import AuthorityError, InvalidInput, StateError, utc
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import authority_trust_domain
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.trust_bundle import TrustBundle

ROOT_KEY: Final = "root.key"
ROOT_CERTIFICATE: Final = "root.pem"
INTERMEDIATE_KEY: Final = "intermediate.key"
INTERMEDIATE_CERTIFICATE: Final = "intermediate.pem"
RENEWED: Final = "renewed"


def load_or_create(directory: Path, trust_domain: TrustDomain, now: datetime) -> Authority:
    """Return the authority kept in `directory`, made at the first call, its intermediate renewed past half its life.

    `directory` must not exist, be empty, or hold an authority of `trust_domain`; its parent must exist. Without
    root.key (kept offline) everything works except the renewal. Raises StateError for whatever else is found there,
    one line that says which file and what to do, and leaves it as it was.
    """
    try:
        with PrivateDirectory.opened(directory.parent) as parent:
            parent.discard(staging_name(directory.name))
            if not parent.has_content(directory.name):
                parent.publish(directory.name, _files_of(Authority.create(trust_domain, now)))
            with parent.child(directory.name) as home:
                home.discard(staging_name(RENEWED))
                home.absorb(RENEWED, (INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE))
                authority = _load(home, trust_domain)
                _check_times(home.path, authority, now)
                return _renew_if_due(home, authority, now)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise StateError(
            f"authority in {directory} cannot be used ({error.filename or 'file'}: {reason}): "
            "check disk space and permissions there"
        ) from None


def _load(home: PrivateDirectory, trust_domain: TrustDomain) -> Authority:
    names = home.names()
    needed = (ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)
    if missing := [name for name in needed if name not in names]:
        raise _unusable(home, f"lacks {', '.join(missing)}")
    bundle = _read_bundle(home, trust_domain)
    intermediate = _read_certificate(home, INTERMEDIATE_CERTIFICATE)
    intermediate_key = _read_key(home, INTERMEDIATE_KEY)
    root_key = _read_key(home, ROOT_KEY) if ROOT_KEY in names else None
    try:
        return Authority(bundle, intermediate, intermediate_key, root_key)
    except AuthorityError as error:
        raise _unusable(home, str(error)) from None


def _read_bundle(home: PrivateDirectory, trust_domain: TrustDomain) -> TrustBundle:
    try:
        bundle = TrustBundle.from_pem(trust_domain, home.read(ROOT_CERTIFICATE, WRITABLE_BY_GROUP_OR_OTHERS))
        stored = [authority_trust_domain(root) for root in bundle.roots]
    except InvalidInput as error:
        raise _unusable(home, f"{ROOT_CERTIFICATE} is corrupt: {error}") from None
    for other in stored:
        if other != trust_domain:
            raise StateError(
                f"{home.path} holds the authority of trust domain {other}, the configuration says {trust_domain}: "
                f"set trustDomain to {other}, or remove {home.path} to start a new authority"
            )
    return bundle


def _read_certificate(home: PrivateDirectory, name: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(home.read(name, WRITABLE_BY_GROUP_OR_OTHERS))
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(home, f"{name} is corrupt, it is not a PEM certificate") from None
    return certificate


def _read_key(home: PrivateDirectory, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(home.read(name, GROUP_OR_OTHERS), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(home, f"{name} is corrupt, it is not an unencrypted PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unusable(home, f"{name} is not an ECDSA P-256 key")
    return key


def _check_times(path: Path, authority: Authority, now: datetime) -> None:
    root = authority.root
    if now < root.not_valid_before_utc:
        raise StateError(
            f"root certificate in {path} is not valid before {utc(root.not_valid_before_utc)}, now is {utc(now)}: "
            "set the clock of this machine"
        )
    if now >= root.not_valid_after_utc:
        raise StateError(
            f"root certificate in {path} expired at {utc(root.not_valid_after_utc)}, now is {utc(now)}: "
            f"set the clock, or remove {path} to start a new authority"
        )
    if now >= authority.not_after and authority.root_key is None:
        raise StateError(
            f"intermediate certificate in {path} expired at {utc(authority.not_after)}, now is {utc(now)}: "
            f"put {ROOT_KEY} back for the renewal"
        )


def _renew_if_due(home: PrivateDirectory, authority: Authority, now: datetime) -> Authority:
    if authority.root_key is None or not authority.needs_intermediate(now):
        return authority
    renewed = authority.with_renewed_intermediate(now)
    files = _files_of(renewed)
    names = (INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)
    home.publish(RENEWED, {name: files[name] for name in names})
    home.absorb(RENEWED, names)
    return renewed


def _files_of(authority: Authority) -> dict[str, bytes]:
    files = {
        ROOT_CERTIFICATE: authority.trust_bundle.to_pem(),
        INTERMEDIATE_KEY: _key_pem(authority.intermediate_key),
        INTERMEDIATE_CERTIFICATE: authority.intermediate.public_bytes(Encoding.PEM),
    }
    return files if authority.root_key is None else {ROOT_KEY: _key_pem(authority.root_key), **files}


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _unusable(home: PrivateDirectory, what: str) -> StateError:
    return StateError(
        f"{home.path}: {what}: restore it from a backup, or remove {home.path} to start a new authority"
    )
