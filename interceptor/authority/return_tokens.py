"""The tokens with which a node comes back that has lost its key, as after a boot: `ir1.<secret>`, each good for once.

A node draws the next one itself, keeps it beside the present one, and offers its hash with each request for a
certificate of its own. The authority keeps hashes alone, of which one of each node is live. An answer that is lost
therefore loses nothing: of the two that the node has, one is live, and which one the authority tells.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InvalidInput, utc

SECRET_BYTES: Final = 32
DEFAULT_PERIOD: Final = timedelta(hours=96)  # a long weekend, and half a day since the last renewal
MAX_PERIOD: Final = timedelta(days=30)
RECENTLY: Final = timedelta(seconds=60)  # a node that was heard so short a time ago may still be there
_PREFIX: Final = "ir1"
_TOKEN = re.compile(rf"{_PREFIX}\.([-_A-Za-z0-9]{{43}})")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ReturnToken:
    """One token; the secret is in no repr. `ReturnToken.parse(x.text()) == x`."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Text to a token; raises InvalidInput, whose message shows nothing of the text."""
        parts = _TOKEN.fullmatch(text)
        token = None if parts is None else cls(urlsafe_b64decode(f"{parts[1]}="))
        if token is None or token.text() != text:  # the last digit of the secret has two bits to spare
            raise InvalidInput(f"this is not a return token, expected one such as {_PREFIX}.<secret>")
        return token

    @staticmethod
    def is_meant(text: str) -> bool:
        """Whether the text begins as such a token does."""
        return text.startswith(f"{_PREFIX}.")

    def text(self) -> str:
        """The token in full: for the node's disk, and for the authority, over TLS."""
        return f"{_PREFIX}.{urlsafe_b64encode(self.secret).decode('ascii').rstrip('=')}"

    def hash(self) -> str:
        """What the authority keeps; a plain hash will do, since 256 random bits cannot be guessed."""
        return hashlib.sha256(self.secret).hexdigest()


@dataclass(frozen=True, slots=True)
class ReturnRecord:
    """What the authority keeps of one; `successor` is the hash of the token that took its place when it ended."""

    node: str
    created_at: datetime
    ended_at: datetime | None = None
    is_used: bool = False
    successor: str | None = None


def validate_offer(text: str) -> str:
    """The hash of a token that a node offers, or nothing; raises InvalidInput."""
    if text and not _HASH.fullmatch(text):
        raise InvalidInput("what is offered is no hash of a return token")
    return text


def check_return(
    record: ReturnRecord | None,
    node: str,
    now: datetime,
    *,
    period: timedelta,
    successor_offered: bool,
) -> None:
    """Raise Refused unless `record`, which is kept of a token, lets `node` back in.

    `successor_offered` says that what the node offers now is the token that took this one's place, and is live: then it
    was the same node, which did not hear our answer.
    """
    if record is None:
        raise Refused(
            Code.RETURN_TOKEN_UNKNOWN, f"nothing is known of this return token, which {node} has shown"
        )
    if node != record.node:
        raise Refused(Code.TOKEN_FOR_OTHER_NODE, f"this return token was not made for node {node}")
    if record.ended_at is not None:
        if successor_offered:
            raise Refused(Code.RETURN_TOKEN_ADVANCED, f"{node} has the next return token already")
        code = Code.RETURN_TOKEN_USED if record.is_used else Code.RETURN_TOKEN_REPLACED
        what = "used" if record.is_used else "replaced by a newer one"
        raise Refused(code, f"this return token of {node} was {what} at {utc(record.ended_at)}")
    if now >= record.created_at + period:
        raise Refused(
            Code.RETURN_TOKEN_EXPIRED,
            f"this return token of {node} is from {utc(record.created_at)}, nodes may return within "
            f"{period / timedelta(hours=1):g} h",
        )
