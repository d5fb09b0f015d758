"""How a node becomes one of the authority's and stays one: what it asks, and what it is answered.

Each is read strictly, from a side that may be hostile: `from_json` raises InvalidInput and nothing else. `return_hash`
is that of the return token which the node offers, empty for none; `return_until` says until when it will be taken, None
when it will not.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from interceptor.authority.documents import MAX_CHAIN, MAX_REQUEST_BYTES, MAX_SIGNING_REQUEST, Chain, nonce_of
from interceptor.authority.return_tokens import validate_offer
from interceptor.authority.tokens import MAX_POD_TOKEN
from interceptor.identity.strict_json import Fields, canonical, instant_text, parse, parse_instant
from interceptor.identity.trust_document import MAX_TRUST_DOCUMENT_BYTES, TrustDocument

_MAX_TOKEN: Final = MAX_POD_TOKEN + 256
_MAX_NAME: Final = 253
_MAX_INSTANT: Final = 40
_HASH: Final = ("return_hash",)
_UNTIL: Final = ("return_until",)


@dataclass(frozen=True, slots=True)
class Join:
    """A node that has a token asks for its own certificate; the token is in no repr."""

    token: str = field(repr=False)
    node: str
    csr_pem: str
    at: datetime
    nonce: str
    return_hash: str = ""

    def to_json(self) -> bytes:
        return canonical(
            {
                "at": instant_text(self.at),
                "csr_pem": self.csr_pem,
                "node": self.node,
                "nonce": self.nonce,
                "token": self.token,
                **_said(return_hash=self.return_hash),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        value = parse("join request", data, MAX_REQUEST_BYTES)
        fields = Fields("join request", value, "at", "csr_pem", "node", "nonce", "token", optional=_HASH)
        return cls(
            fields.secret("token", _MAX_TOKEN),
            fields.text("node", _MAX_NAME),
            fields.text("csr_pem", MAX_SIGNING_REQUEST),
            fields.instant("at"),
            nonce_of(fields),
            validate_offer(fields.optional_text("return_hash", 64)),
        )


@dataclass(frozen=True, slots=True)
class RenewNode:
    """A node asks, with its certificate, for the next one."""

    csr_pem: str
    at: datetime
    nonce: str
    return_hash: str = ""

    def to_json(self) -> bytes:
        return canonical(
            {
                "at": instant_text(self.at),
                "csr_pem": self.csr_pem,
                "nonce": self.nonce,
                **_said(return_hash=self.return_hash),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        value = parse("renewal", data, MAX_REQUEST_BYTES)
        fields = Fields("renewal", value, "at", "csr_pem", "nonce", optional=_HASH)
        return cls(
            fields.text("csr_pem", MAX_SIGNING_REQUEST),
            fields.instant("at"),
            nonce_of(fields),
            validate_offer(fields.optional_text("return_hash", 64)),
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join: the node's certificate, and what it is to believe from now on."""

    chain: Chain
    trust: TrustDocument
    return_until: datetime | None = None

    def to_json(self) -> bytes:
        # The trust document as text: its own spelling is what its hash is of.
        chain = {"certificates_pem": self.chain.certificates_pem}
        return canonical(
            {
                "chain": chain,
                "trust": self.trust.to_json().decode("ascii"),
                **_said(return_until=_until_text(self.return_until)),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        value = parse("join answer", data, 2 * MAX_TRUST_DOCUMENT_BYTES)
        fields = Fields("join answer", value, "chain", "trust", optional=_UNTIL)
        trust = fields.text("trust", MAX_TRUST_DOCUMENT_BYTES)
        return cls(
            Chain.from_document(fields.value("chain")),
            TrustDocument.from_json(trust.encode("utf-8", "replace")),
            _until(fields),
        )


@dataclass(frozen=True, slots=True)
class Renewed:
    """The answer to a renewal: the node's next certificate."""

    chain: Chain
    return_until: datetime | None = None

    def to_json(self) -> bytes:
        certificates = self.chain.certificates_pem
        return canonical(
            {"certificates_pem": certificates, **_said(return_until=_until_text(self.return_until))}
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        value = parse("renewal answer", data, MAX_REQUEST_BYTES)
        fields = Fields("renewal answer", value, "certificates_pem", optional=_UNTIL)
        return cls(Chain(fields.text("certificates_pem", MAX_CHAIN)), _until(fields))


def _said(**fields: str) -> dict[str, str]:
    """The optional fields in which there is something to say: a version that does not know them reads all else."""
    return {name: text for name, text in fields.items() if text}


def _until_text(instant: datetime | None) -> str:
    return "" if instant is None else instant_text(instant)


def _until(fields: Fields) -> datetime | None:
    text = fields.optional_text("return_until", _MAX_INSTANT)
    return parse_instant(text) if text else None
