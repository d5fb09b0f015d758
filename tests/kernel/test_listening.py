"""Who listens in a namespace: real sockets, and the table of a machine that is busier than a test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interceptor.kernel.listening import is_listened_on, parse_listeners
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.kernel.netns import NetworkNamespace

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0200D70A:0051 0300D70A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st
   0: 000000000000000000000000001D2120:0050 00000000000000000000000000000000:0000 0A 0
   1: 0000000000000000FFFF00000200D70A:0051 00000000000000000000000000000000:0000 0A 0
"""


def test_listening_sockets_of_a_table_are_those_before_the_first_connection() -> None:
    found = [(str(address), port) for address, port in parse_listeners(TABLE.splitlines())]
    assert found == [("127.0.0.1", 8080), ("0.0.0.0", 80)]


def test_ipv6_addresses_are_words_in_the_order_of_the_machine() -> None:
    found = [(str(address), port) for address, port in parse_listeners(TABLE6.splitlines())]
    assert found == [("::2021:1d00", 80), ("10.215.0.2", 81)]


@pytest.mark.netns
@pytest.mark.parametrize(
    ("bound", "reached", "not_reached"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "::1"]),
        ("0.0.0.0", ["127.0.0.1", "10.0.0.1"], ["::1"]),
        ("::1", ["::1"], ["::2", "127.0.0.1"]),
        ("::", ["::1", "fd00::1", "127.0.0.1"], []),
    ],
)
def test_real_socket_is_listened_on_where_connections_would_reach_it(
    host: NetworkNamespace,
    listen: Callable[[NetworkNamespace, str, int], socket.socket],
    bound: str,
    reached: list[str],
    not_reached: list[str],
) -> None:
    port = listen(host, bound, 0).getsockname()[1]

    def answer(address: str, port: int) -> bool:
        text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return is_listened_on(host, Endpoint.parse(text))

    assert all(answer(address, port) for address in reached)
    assert not any(answer(address, port) for address in not_reached)
    assert not answer(reached[0], 1)
