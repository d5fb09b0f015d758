"""The bodies of the authority's API beside the report: what a node asks, and what it is answered.

Each is read strictly, from a side that may be hostile: `from_json` raises InvalidInput and nothing else.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.authority.refusal import Code
from interceptor.authority.reports import NodeReport, RegisteredWorkload
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.strict_json import Fields, canonical, instant_text, parse

__all__ = [
    "Chain",
    "ErrorBody",
    "Issue",
    "NodeReport",
    "RegisteredWorkload",
    "RegistryDocument",
]

MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_SIGNING_REQUEST: Final = 16 * 1024
MAX_CHAIN: Final = 64 * 1024
MAX_REGISTRY_BYTES: Final = 32 * 1024 * 1024
MAX_REGISTERED: Final = 100_000
MAX_VERSION: Final = 2**63 - 1
_MAX_LIFETIME_SECONDS: Final = 10 * 365 * 24 * 60 * 60  # the rule is the authority's; this is for arithmetic
_MAX_SPIFFE_ID: Final = 2048
_MAX_MESSAGE: Final = 2000
_CODES: Final = {code.value: code for code in Code}
_NONCE = re.compile(r"[-_A-Za-z0-9]{16,64}")


@dataclass(frozen=True, slots=True)
class Issue:
    """A node asks for the certificate of one of its workloads; the SPIFFE ID is text as it came, not yet judged."""

    spiffe_id: str
    csr_pem: str
    lifetime_seconds: int
    at: datetime
    nonce: str

    @property
    def lifetime(self) -> timedelta:
        return timedelta(seconds=self.lifetime_seconds)

    def to_json(self) -> bytes:
        return canonical(
            {
                "at": instant_text(self.at),
                "csr_pem": self.csr_pem,
                "lifetime_seconds": self.lifetime_seconds,
                "nonce": self.nonce,
                "spiffe_id": self.spiffe_id,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        value = parse("issue request", data, MAX_REQUEST_BYTES)
        fields = Fields("issue request", value, "at", "csr_pem", "lifetime_seconds", "nonce", "spiffe_id")
        return cls(
            fields.text("spiffe_id", _MAX_SPIFFE_ID),
            fields.text("csr_pem", MAX_SIGNING_REQUEST),
            fields.number("lifetime_seconds", 1, _MAX_LIFETIME_SECONDS),
            fields.instant("at"),
            nonce_of(fields),
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """Leaf first, then intermediates, each in PEM, one after the other."""

    certificates_pem: str

    @classmethod
    def of(cls, certificates: tuple[x509.Certificate, ...]) -> Self:
        pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
        return cls(pem.decode("ascii"))

    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates themselves; raises InvalidInput."""
        try:
            return tuple(x509.load_pem_x509_certificates(self.certificates_pem.encode("ascii")))
        except ValueError:
            raise InvalidInput("certificate chain is not a list of PEM certificates") from None

    def to_json(self) -> bytes:
        return canonical({"certificates_pem": self.certificates_pem})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.from_document(parse("certificate chain", data, MAX_REQUEST_BYTES))

    @classmethod
    def from_document(cls, value: object) -> Self:
        """The same from JSON that was parsed; raises InvalidInput."""
        fields = Fields("certificate chain", value, "certificates_pem")
        return cls(fields.text("certificates_pem", MAX_CHAIN))


@dataclass(frozen=True, slots=True)
class RegistryDocument:
    """The workloads of all nodes; `version` differs when they do."""

    version: int
    workloads: tuple[RegisteredWorkload, ...]

    def to_json(self) -> bytes:
        workloads = [workload.to_document() for workload in self.workloads]
        return canonical({"version": self.version, "workloads": workloads})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        fields = Fields("registry", parse("registry", data, MAX_REGISTRY_BYTES), "version", "workloads")
        entries = fields.array("workloads", MAX_REGISTERED)
        return cls(
            fields.number("version", 0, MAX_VERSION),
            tuple(RegisteredWorkload.from_document(entry) for entry in entries),
        )


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """A refusal as it travels; an unknown code is one of a later version, and kept as it is."""

    code: str
    message: str

    def to_json(self) -> bytes:
        return canonical({"code": self.code, "message": self.message[:_MAX_MESSAGE]})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        fields = Fields("error", parse("error", data, MAX_REQUEST_BYTES), "code", "message")
        return cls(fields.text("code", 64), fields.text("message", _MAX_MESSAGE))

    @property
    def known_code(self) -> Code | None:
        """The code, if this version knows it."""
        return _CODES.get(self.code)


def nonce_of(fields: Fields) -> str:
    """What makes a request one of its kind; raises InvalidInput."""
    nonce = fields.text("nonce", 64)
    if not _NONCE.fullmatch(nonce):
        raise InvalidInput(f"nonce {quoted(nonce)} is not 16 to 64 letters, digits, '-' and '_'")
    return nonce
