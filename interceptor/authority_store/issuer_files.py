"""The files of one issuer: a root, the intermediate under it, and their keys; and everything that can be wrong with them.

An issuer appears at once (PrivateDirectory.publish). Renewal of its intermediate publishes `renewed` inside it and then
moves its two files over the old ones: certificate and key must change together. Only one process may do so at a time:
the caller holds the database's write lock.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
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
_INTERMEDIATE: Final = (INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)


def issuer_files(issuer: Authority, passphrase: bytes | None) -> dict[str, bytes]:
    """An issuer as files; keys are PKCS#8, encrypted if there is a passphrase."""
    files = {
        ROOT_CERTIFICATE: issuer.trust_bundle.to_pem(),
        INTERMEDIATE_KEY: _key_pem(issuer.intermediate_key, passphrase),
        INTERMEDIATE_CERTIFICATE: issuer.intermediate.public_bytes(Encoding.PEM),
    }
    return files if issuer.root_key is None else {ROOT_KEY: _key_pem(issuer.root_key, passphrase), **files}


def load_issuer(home: PrivateDirectory, trust_domain: TrustDomain, passphrase: bytes | None) -> Authority:
    """Read an issuer, after finishing a renewal that was interrupted; root.key may be kept elsewhere.

    Raises StateError, one line that says which file and what to do.
    """
    _finish_renewal(home)
    names = home.names()
    needed = (ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)
    if missing := [name for name in needed if name not in names]:
        raise unusable(home.path, f"lacks {', '.join(missing)}")
    bundle = _read_bundle(home, trust_domain)
    intermediate = _read_certificate(home, INTERMEDIATE_CERTIFICATE)
    intermediate_key = _read_key(home, INTERMEDIATE_KEY, passphrase)
    root_key = _read_key(home, ROOT_KEY, passphrase) if ROOT_KEY in names else None
    try:
        return Authority(bundle, intermediate, intermediate_key, root_key)
    except AuthorityError as error:
        raise unusable(home.path, str(error)) from None


def read_certificates(
    home: PrivateDirectory, trust_domain: TrustDomain
) -> tuple[x509.Certificate, x509.Certificate]:
    """Root and intermediate, for which no passphrase is needed; raises StateError."""
    return _read_bundle(home, trust_domain).roots[0], _read_certificate(home, INTERMEDIATE_CERTIFICATE)


def check_times(path: Path, issuer: Authority, now: datetime) -> None:
    """Raise StateError if the issuer cannot issue at `now`, and nothing that we can do changes it."""
    root = issuer.root
    if now < root.not_valid_before_utc:
        raise StateError(
            f"root certificate in {path} is not valid before {utc(root.not_valid_before_utc)}, now is {utc(now)}: "
            "set the clock of this machine"
        )
    if now >= root.not_valid_after_utc:
        raise StateError(
            f"root certificate in {path} expired at {utc(root.not_valid_after_utc)}, now is {utc(now)}: "
            "set the clock, or start a new authority in another directory"
        )
    if now >= issuer.not_after and issuer.root_key is None:
        raise StateError(
            f"intermediate certificate in {path} expired at {utc(issuer.not_after)}, now is {utc(now)}: "
            f"put {ROOT_KEY} back for the renewal"
        )


def renew_intermediate(
    home: PrivateDirectory, issuer: Authority, now: datetime, passphrase: bytes | None
) -> Authority:
    """Give the issuer a new intermediate, on disk too; raises AuthorityError without the root key."""
    renewed = issuer.with_renewed_intermediate(now)
    _put_intermediate(home, issuer_files(renewed, passphrase))
    return renewed


def read_files(home: PrivateDirectory) -> dict[str, bytes]:
    """The files of an issuer as they are, after finishing a renewal that was interrupted."""
    _finish_renewal(home)
    there = home.names()
    names = (ROOT_KEY, ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)
    return {name: home.read(name, WRITABLE_BY_GROUP_OR_OTHERS) for name in names if name in there}


def replace_intermediate(home: PrivateDirectory, files: Mapping[str, bytes]) -> None:
    """Have the intermediate of these files, which were checked; nothing is written if that is the one there."""
    there = read_files(home)
    if any(there.get(name) != files[name] for name in _INTERMEDIATE):
        _put_intermediate(home, files)


def _put_intermediate(home: PrivateDirectory, files: Mapping[str, bytes]) -> None:
    home.publish(RENEWED, {name: files[name] for name in _INTERMEDIATE})
    home.absorb(RENEWED, _INTERMEDIATE)


def _finish_renewal(home: PrivateDirectory) -> None:
    home.discard(staging_name(RENEWED))
    home.absorb(RENEWED, _INTERMEDIATE)


def unusable(path: Path, what: str) -> StateError:
    """The error for a state that only a backup, or a new beginning, can put right."""
    return StateError(f"{path}: {what}: restore it from a backup, or remove the authority to start a new one")


def _read_bundle(home: PrivateDirectory, trust_domain: TrustDomain) -> TrustBundle:
    try:
        bundle = TrustBundle.from_pem(trust_domain, home.read(ROOT_CERTIFICATE, WRITABLE_BY_GROUP_OR_OTHERS))
        (stored,) = {authority_trust_domain(root) for root in bundle.roots}
    except (InvalidInput, ValueError) as error:
        raise unusable(home.path, f"{ROOT_CERTIFICATE} is corrupt: {error}") from None
    if stored != trust_domain or len(bundle.roots) != 1:
        raise unusable(home.path, f"{ROOT_CERTIFICATE} is not the one root certificate of {trust_domain}")
    return bundle


def _read_certificate(home: PrivateDirectory, name: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(home.read(name, WRITABLE_BY_GROUP_OR_OTHERS))
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise unusable(home.path, f"{name} is corrupt, it is not a PEM certificate") from None
    return certificate


def _read_key(home: PrivateDirectory, name: str, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    data = home.read(name, GROUP_OR_OTHERS)
    encrypted = data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    if encrypted and passphrase is None:
        raise StateError(
            f"{home.path / name} is encrypted: give the passphrase with --passphrase-file of 'interceptor ca'"
        )
    if not encrypted and passphrase is not None:
        # Keys that we made would be encrypted beside it, and a service that has no passphrase could not issue by them.
        raise StateError(
            f"{home.path / name} is not encrypted: leave --passphrase-file and $INTERCEPTOR_CA_PASSPHRASE_FILE away"
        )
    try:
        key = load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise StateError(
                f"{home.path / name} cannot be opened with this passphrase: check --passphrase-file and "
                "$INTERCEPTOR_CA_PASSPHRASE_FILE; if it is the right one, the key is corrupt, restore it from a backup"
            ) from None
        raise unusable(home.path, f"{name} is corrupt, it is not a PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise unusable(home.path, f"{name} is not an ECDSA P-256 key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None) -> bytes:
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
