"""Where an agent is asked things: the admin socket, the metrics port, and where a successor asks for the node.

They are handed on with the node, so whoever asks never finds a door closed.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

from interceptor.admin import open_listener
from interceptor.agent import handover_wire
from interceptor.errors import KernelError, StateError
from interceptor.transport.sockets import socket_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.config import Config
    from interceptor.workload import Endpoint


@dataclass(frozen=True, slots=True)
class Doors:
    """Listening sockets."""

    admin: trio.SocketListener
    metrics: trio.SocketListener
    succession: socket.socket

    @classmethod
    async def open(cls, config: Config) -> Self:
        """All anew; InterceptorError when one cannot be had."""
        run_dir = config.paths.run_dir
        admin = open_listener(run_dir / "admin.sock")
        metrics = await _open_metrics(config.metrics_address)
        return cls(admin, metrics, handover_wire.listen(run_dir / handover_wire.SOCKET_NAME))

    @classmethod
    async def adopt(cls, config: Config, fds: Sequence[int]) -> Self:
        """Those of the agent before; the metrics port is another one if the configuration says so now."""
        if len(fds) != 3:
            raise StateError(f"the agent before handed over {len(fds)} sockets of its own instead of 3")
        admin, metrics, succession = (socket.socket(fileno=fd) for fd in fds)
        succession.setblocking(False)
        if metrics.getsockname()[:2] != socket_address(config.metrics_address):
            metrics.close()
            return cls(_listener(admin), await _open_metrics(config.metrics_address), succession)
        return cls(_listener(admin), _listener(metrics), succession)

    def claim(self) -> None:
        """Let the kernel say of who connects to a successor's door that it is ours: it says who called listen(2) last."""
        handover_wire.listen_again(self.succession)

    @property
    def fds(self) -> tuple[int, ...]:
        return self.admin.socket.fileno(), self.metrics.socket.fileno(), self.succession.fileno()


def _listener(sock: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _open_metrics(address: Endpoint) -> trio.SocketListener:
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=str(address.address))
    except OSError as error:
        raise KernelError(
            f"cannot listen on {address} for metrics ({error.strerror}): set metrics.address to a free port"
        ) from error
    return listeners[0]
