"""The PeerAuthentication mode: what a workload demands of those who connect to it (Istio's PeerAuthentication)."""

from enum import StrEnum
from typing import Self

from interceptor.errors import InvalidInput, quoted


class MtlsMode(StrEnum):
    """STRICT takes mutual TLS only, PERMISSIVE also plaintext, DISABLE makes our own side send plaintext."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Exactly one of the three words to a value; raises InvalidInput.

        Nothing else is taken, in no other case: a mistyped mode must not become a weaker one.
        """
        try:
            return cls(text)
        except ValueError:
            raise InvalidInput(f"{quoted(text)} is not a mode, use STRICT, PERMISSIVE or DISABLE") from None
