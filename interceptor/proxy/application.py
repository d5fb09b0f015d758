"""The last step inbound: connect to the workload's application, as the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.policy.verdict import Reason
from interceptor.proxy import dial
from interceptor.proxy.refusal import Refusal

if TYPE_CHECKING:
    import socket

    from interceptor.policy.verdict import Permit
    from interceptor.proxy.context import WorkloadContext
    from interceptor.workload import Endpoint, IPAddress


async def connect(
    _permit: Permit, application: Endpoint, client: IPAddress, context: WorkloadContext
) -> socket.socket:
    """A connection to the application, which sees `client` as its peer's address.

    Takes the permit that policy gave, so that it cannot be reached without one.
    Refusal says why the application could not be reached.
    """
    pretend = client != application.address  # the workload with itself: there is nothing to pretend
    opener = context.open_transparent_socket if pretend else context.open_socket
    sock = dial.open_socket(opener, application.address)
    try:
        if pretend:
            _bind(sock, client)
        await dial.connect(sock, application, context.limits.connect_timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, client: IPAddress) -> None:
    try:
        # Port 0: the port is chosen at connect, for the whole 4-tuple.
        sock.bind((str(client), 0))
    except OSError as error:
        # A link-local address, for one: it means nothing on loopback, where the application is.
        detail = f"the application cannot be shown {client} as its client: {error.strerror}"
        raise Refusal(Reason.DESTINATION_UNREACHABLE, detail) from error
