"""Connect to the authority by its address, or by its host's name, looked up anew each time, off the loop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from interceptor.authority_client.connection import connect
from interceptor.errors import AuthorityUnavailable, InvalidInput, PeerRejected
from interceptor.workload import Endpoint, parse_address

if TYPE_CHECKING:
    from interceptor.authority.address import AuthorityAddress
    from interceptor.authority_client.connection import Connection
    from interceptor.transport.tls import TlsContext

RESOLVE_SECONDS = 5.0
MAX_ADDRESSES = 8  # that are tried, of one name
MAX_LOOKUPS = 4  # at once: one that hangs keeps its thread until the system gives it up


class Way:
    """The way to one authority."""

    def __init__(self, address: AuthorityAddress) -> None:
        self.address = address
        self._lookups = trio.CapacityLimiter(MAX_LOOKUPS)

    async def connect(self, context: TlsContext) -> Connection:
        """Connect to the first address that answers, and shake hands.

        AuthorityUnavailable when none does, PeerRejected for who is there.
        """
        if isinstance(self.address, Endpoint):
            return await connect(self.address, context)
        failure: AuthorityUnavailable | PeerRejected = AuthorityUnavailable(f"{self.address} has no address")
        for endpoint in await self._look_up(self.address.host, self.address.port):
            try:
                return await connect(endpoint, context)
            except (AuthorityUnavailable, PeerRejected) as error:
                failure = error
        raise failure

    async def _look_up(self, host: str, port: int) -> tuple[Endpoint, ...]:
        try:
            with trio.fail_after(RESOLVE_SECONDS):
                found = await trio.to_thread.run_sync(
                    lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
                    abandon_on_cancel=True,
                    limiter=self._lookups,
                )
        except trio.TooSlowError:
            raise AuthorityUnavailable(
                f"the name {host} was not resolved within {RESOLVE_SECONDS:g} s: see this node's name servers"
            ) from None
        except OSError as error:
            raise AuthorityUnavailable(
                f"the name {host} cannot be resolved ({error.strerror}): compare authority.address, and see this node's name servers"
            ) from None
        addresses = dict.fromkeys(str(place[0]) for *_, place in found)
        return tuple(_endpoints(addresses, port))[:MAX_ADDRESSES]


def _endpoints(addresses: dict[str, None], port: int) -> list[Endpoint]:
    endpoints = []
    for address in addresses:
        try:
            endpoints.append(Endpoint(parse_address(address), port))
        except InvalidInput:  # one with a zone, which is of no use without the link
            continue
    return endpoints
