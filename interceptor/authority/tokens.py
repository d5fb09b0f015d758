"""The tokens with which a node joins: used once, bound to one node, and leading to the right authority.

`it1.<SHA-256 of the root certificate>.<id>.<secret>`: by the first the node recognises the authority before it has a
trust bundle, by the second the authority finds the token, the third proves it. The authority keeps a hash of the secret.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from interceptor.authority.admission import AllowPattern
from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InvalidInput, utc

SECRET_BYTES: Final = 32
ID_BYTES: Final = 8
MAX_POD_TOKEN: Final = 16 * 1024
_PREFIX: Final = "it1"
_TOKEN = re.compile(rf"{_PREFIX}\.([0-9a-f]{{64}})\.([0-9a-f]{{{2 * ID_BYTES}}})\.([-_A-Za-z0-9]{{43}})")
_POD_PREFIX: Final = "ip1"
_POD_TOKEN = re.compile(rf"{_POD_PREFIX}\.([0-9a-f]{{64}})\.([-_.A-Za-z0-9]{{1,{MAX_POD_TOKEN}}})")

_NOT_A_POD_TOKEN: Final = (
    f"this is not the token of a pod, expected {_POD_PREFIX}.<SHA-256 of the root certificate>.<token> with the token that "
    "the kubelet put into the pod"
)
_NOT_A_TOKEN: Final = (
    f"this is not a join token, expected one such as {_PREFIX}.<fingerprint>.<id>.<secret> from "
    "'interceptor ca token create'"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token; the secret is in no repr. `Token.parse(x.text()) == x`."""

    root_fingerprint: str
    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise InvalidInput unless it has the form of a token; the message shows nothing of it."""
        if not _TOKEN.fullmatch(self.text()) or len(self.secret) != SECRET_BYTES:
            raise InvalidInput(_NOT_A_TOKEN)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Text to a token; raises InvalidInput, whose message shows nothing of the text."""
        parts = _TOKEN.fullmatch(text)
        if parts is None:
            raise InvalidInput(_NOT_A_TOKEN)
        fingerprint, token_id, secret = parts.groups()
        token = cls(fingerprint, token_id, urlsafe_b64decode(f"{secret}="))
        if token.text() != text:  # the last digit of the secret has two bits to spare
            raise InvalidInput(_NOT_A_TOKEN)
        return token

    def text(self) -> str:
        """The token in full: for the person who made it, and for the authority, over TLS."""
        secret = urlsafe_b64encode(self.secret).decode("ascii").rstrip("=")
        return f"{_PREFIX}.{self.root_fingerprint}.{self.id}.{secret}"

    def secret_hash(self) -> str:
        """What the authority keeps; a plain hash will do, since 256 random bits cannot be guessed."""
        return hashlib.sha256(self.secret).hexdigest()


@dataclass(frozen=True, slots=True)
class PodToken:
    """The token of a pod in a cluster, with which its node joins: `ip1.<SHA-256 of the root certificate>.<the token>`.

    It is the one that the kubelet put into the pod, and no secret of ours; it is in no repr all the same.
    """

    root_fingerprint: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Text to a token; raises InvalidInput, whose message shows nothing of the text."""
        parts = _POD_TOKEN.fullmatch(text)
        if parts is None:
            raise InvalidInput(_NOT_A_POD_TOKEN)
        return cls(*parts.groups())

    @staticmethod
    def is_meant(text: str) -> bool:
        """Whether the text begins as such a token does."""
        return text.startswith(f"{_POD_PREFIX}.")


def root_of_token(text: str) -> str:
    """The fingerprint of the root that a token of either kind names; raises InvalidInput."""
    return (PodToken if PodToken.is_meant(text) else Token).parse(text).root_fingerprint


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What the authority keeps of a token, and what the node that uses it will be allowed."""

    id: str
    secret_hash: str = field(repr=False)
    node: str
    allowed: tuple[AllowPattern, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None

    def state(self, now: datetime) -> str:
        """`used`, `expired` or `unused`."""
        if self.used_at is not None:
            return "used"
        return "expired" if now >= self.expires_at else "unused"


def check_token(token: Token, record: TokenRecord | None, node: str, now: datetime) -> TokenRecord:
    """Return `record`, which is kept of this token, if it lets `node` in at `now`; else raise Refused."""
    if record is None or not hmac.compare_digest(record.secret_hash, token.secret_hash()):
        raise Refused(Code.TOKEN_INVALID, f"token {token.id} is not one of this authority")
    if record.used_at is not None:
        raise Refused(Code.TOKEN_USED, f"token {token.id} was used at {utc(record.used_at)}")
    if now >= record.expires_at:
        raise Refused(
            Code.TOKEN_EXPIRED, f"token {token.id} expired at {utc(record.expires_at)}, now is {utc(now)}"
        )
    if node != record.node:
        raise Refused(Code.TOKEN_FOR_OTHER_NODE, f"token {token.id} was not made for node {node}")
    return record
