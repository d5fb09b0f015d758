"""Where an authority is: an address, or a host's name that is looked up anew for each connection.

Nothing depends on what a name leads to: the authority is known by its SPIFFE ID under the trust bundle, or by the root's
hash in a token, so a name server that lies can keep a node from its authority and no more.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.workload import MAX_PORT, Endpoint

MAX_NAME: Final = 253
_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAMED = re.compile(rf"({_LABEL}(?:\.{_LABEL})*\.?):([1-9][0-9]{{0,4}})")


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """A host's name (RFC 1123, 2.1) and a TCP port; `HostEndpoint.parse(str(x)) == x`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`ca.example.org:15012` to a value; raises InvalidInput."""
        match = _NAMED.fullmatch(text.lower())
        if match is None or len(match[1]) > MAX_NAME or int(match[4]) > MAX_PORT or _is_number(match[1]):
            raise InvalidInput(
                f"{quoted(text)} is not an address and port, expected one such as ca.example.org:15012, 10.0.0.1:15012 or "
                "[fd00::1]:15012"
            )
        return cls(match[1], int(match[4]))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


AuthorityAddress = Endpoint | HostEndpoint


def parse_authority_address(text: str) -> AuthorityAddress:
    """Either of the two; raises InvalidInput."""
    try:
        return Endpoint.parse(text)
    except InvalidInput:
        return HostEndpoint.parse(text)


def _is_number(host: str) -> bool:
    """Whether it would be read as an IPv4 address, which it is not: no name's last label is a number (RFC 3696, 2)."""
    return host.rstrip(".").rpartition(".")[2].isdigit()
