"""A CA and a certificate for an API server on the loopback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


def write_certificates(directory: Path, address: str = "127.0.0.1") -> tuple[Path, Path, Path]:
    """Files of a new CA's certificate, and of certificate and key of a server at `address`."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)])
        for each in ("kubernetes", "kube-apiserver")
    ]

    def signed(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(names[0]).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    san = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    contents = {
        "ca.crt": signed(names[0], ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=None)),
        "tls.crt": signed(names[1], key.public_key(), san),
        "tls.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    ca, certificate, private = (directory / name for name in contents)
    return ca, certificate, private
