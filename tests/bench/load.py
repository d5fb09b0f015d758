"""The load, the same for every contender: a server that echoes or discards, and the three clients that measure.

Run as a program inside a workload's network namespace, without anything but the standard library.

usage: load.py serve ADDRESS PORT
       load.py bulk ADDRESS PORT SECONDS
       load.py ping ADDRESS PORT ROUND_TRIPS
       load.py connect ADDRESS PORT CONNECTIONS

A client prints one JSON object.  The server prints "ready", serves one connection after the other, and takes from the
first byte of each what it is for.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from contextlib import suppress

DISCARD, ECHO = b"D", b"E"
SEND_BYTES = 256 * 1024
RECEIVE_BYTES = 1024 * 1024
PING_BYTES = 128
WARM_UP_ROUND_TRIPS = 500
TOTAL = struct.Struct("!Q")


def serve(address: str, port: int) -> None:
    """Serve until killed."""
    with socket.create_server((address, port), backlog=128) as listener:
        print("ready", flush=True)
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        while True:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                purpose = connection.recv(1)
                if purpose == DISCARD:
                    total = 0
                    while received := connection.recv_into(buffer):
                        total += received
                    connection.sendall(TOTAL.pack(total))
                elif purpose == ECHO:
                    while received := connection.recv_into(buffer):
                        connection.sendall(buffer[:received])


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def bulk(address: str, port: int, seconds: float) -> dict[str, float]:
    """Send for some seconds; the clock stops when the server has told that everything arrived."""
    data = memoryview(bytes(SEND_BYTES))
    sent = 0
    with _connect(address, port) as connection:
        connection.settimeout(
            None
        )  # a blocking send(2) takes it all; with a time limit, each costs a poll(2) too
        connection.sendall(DISCARD)
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(data)
            sent += len(data)
        connection.shutdown(socket.SHUT_WR)
        (arrived,) = TOTAL.unpack(connection.recv(TOTAL.size, socket.MSG_WAITALL))
        elapsed = time.perf_counter() - started
    if arrived != sent:
        raise SystemExit(f"load: {sent} bytes sent, {arrived} arrived")
    return {"bytes": sent, "seconds": elapsed}


def ping(address: str, port: int, round_trips: int) -> dict[str, float]:
    """Round trips of one small message, one after the other."""
    message = bytes(PING_BYTES)
    buffer = memoryview(bytearray(PING_BYTES))
    times = []
    with _connect(address, port) as connection:
        connection.settimeout(None)
        connection.sendall(ECHO)
        for _ in range(WARM_UP_ROUND_TRIPS + round_trips):
            started = time.perf_counter()
            connection.sendall(message)
            connection.recv_into(buffer, PING_BYTES, socket.MSG_WAITALL)
            times.append(time.perf_counter() - started)
    times = sorted(times[WARM_UP_ROUND_TRIPS:])
    median, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    return {"round_trips": WARM_UP_ROUND_TRIPS + round_trips, "median": median, "p99": p99}


def connect(address: str, port: int, connections: int) -> dict[str, float]:
    """Connections one after the other, each with one byte there and back.

    A number of them and not some seconds: without a mesh, the client would run out of ports in a few runs.
    """
    started = time.perf_counter()
    for _ in range(connections):
        with _connect(address, port) as connection:
            connection.sendall(ECHO + b"x")
            if connection.recv(1) != b"x":
                raise SystemExit("load: a connection was closed without an answer")
    return {"connections": connections, "seconds": time.perf_counter() - started}


def main() -> None:
    role, address, port, *rest = sys.argv[1:]
    if role == "serve":
        serve(address, int(port))
    elif role == "bulk":
        print(json.dumps(bulk(address, int(port), float(rest[0]))))
    elif role == "ping":
        print(json.dumps(ping(address, int(port), int(rest[0]))))
    else:
        print(json.dumps(connect(address, int(port), int(rest[0]))))


if __name__ == "__main__":
    main()
