"""The tokens with which a node joins: used once, bound to one node, and leading to the right authority.

`it1.<SHA-256 of the root certificate>.<id>.<secret>`: by the first the node recognises the authority before it has a
trust bundle, by the second the authority finds the token, the third proves it. The authority keeps a hash of the secret.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Final, Self

from interceptor.errors import InvalidInput

SECRET_BYTES: Final = 32
ID_BYTES: Final = 8
_PREFIX: Final = "it1"
_TOKEN = re.compile(rf"{_PREFIX}\.([0-9a-f]{{64}})\.([0-9a-f]{{{2 * ID_BYTES}}})\.([-_A-Za-z0-9]{{43}})")

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
