"""The last step inbound: connect to the workload's application, as the client."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.proxy import dial

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
    family = dial.family_of(application.address)
    if client == application.address:
        sock = context.open_socket(family)  # the workload with itself: there is nothing to pretend
    else:
        sock = context.open_transparent_socket(family)
    try:
        if client != application.address:
            # Port 0: the port is chosen at connect, for the whole 4-tuple.
            sock.bind((str(client), 0))
        await dial.connect(sock, application, context.limits.connect_timeout)
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock
