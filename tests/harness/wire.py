"""Read what passes on links, and judge it: no marker in plaintext, and not nothing at all."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from interceptor.kernel.netns import NetworkNamespace

TUNNEL_PORT = 15008
Expectation = Literal["encrypted", "plaintext", "nothing", "anything"]

_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3
_BUFFER_BYTES = 256 * 1024 * 1024  # a segment of 64 KiB waits here while the thread is not scheduled
_FRAME_BYTES = 1 << 18
_SYN = 2
_TLS_HANDSHAKE = b"\x16\x03"


class Wire:
    """Sniffs links while a `with` block runs, and checks at its end what was expected.

    encrypted   TCP payload was seen, all of it in tunnels (port 15008, beginning with a TLS handshake), no marker in it
    plaintext   the marker was seen
    nothing     not one TCP packet was seen
    anything    no check: the counts are there to be asked

    Nothing is stored: each TCP payload is searched when it comes, together with the end of the one before it in the
    same flow.  Lost packets fail the test as well, since the marker may have been in them.
    """

    def __init__(
        self,
        links: Sequence[str],
        marker: bytes,
        expect: Expectation = "encrypted",
        *,
        netns: NetworkNamespace | None = None,
        other_tls_ports: Sequence[int] = (),
    ) -> None:
        """`links` are those of `netns`, or of our own namespace; TLS to `other_tls_ports` counts as a tunnel too."""
        assert len(marker) >= 8, "a short marker is found by chance"
        self._netns = netns
        self._tls_ports = frozenset({TUNNEL_PORT, *other_tls_ports})
        self._marker = marker
        self._expect = expect
        self._links = tuple(links)
        self._sockets: list[socket.socket] = []
        self._flows: dict[bytes, _Flow] = {}
        self._failure: BaseException | None = None
        self._wake = (-1, -1)
        self._thread = threading.Thread(target=self._read_until_stopped, name="wire")
        self.tcp_packets = 0
        self.tcp_payload_bytes = 0
        self.udp_packets = 0
        self.marker_seen: list[str] = []  # flows, as text
        self.lost_packets = 0

    @property
    def flows(self) -> tuple[str, ...]:
        """Every direction of a TCP connection that carried payload: "source:port > destination:port"."""
        return tuple(flow.text for flow in self._flows.values() if flow.payload_bytes)

    def __enter__(self) -> Self:
        for link in self._links:
            sock = self._open_socket()
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            sock.bind((link, _ETH_P_ALL))
            sock.setblocking(False)
            self._sockets.append(sock)
        self._wake = os.pipe()
        self._thread.start()
        return self

    def _open_socket(self) -> socket.socket:
        if self._netns is None:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        return self._netns.open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._wake[1])
        self._thread.join()
        os.close(self._wake[0])
        for sock in self._sockets:
            _, dropped = struct.unpack("=II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self.lost_packets += dropped
            sock.close()
        if kind is None:
            self._judge()

    def _judge(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert self.lost_packets == 0, f"{self.lost_packets} packets were not looked at"
        if self._expect == "encrypted":
            assert self.tcp_payload_bytes > 0, f"nothing was seen on {self._links}"
            assert not self.marker_seen, f"plaintext on the wire: {self.marker_seen}"
            strays = [flow.text for flow in self._flows.values() if flow.payload_bytes and not flow.is_tunnel]
            assert not strays, f"these are no tunnels: {strays}"
        elif self._expect == "plaintext":
            assert self.marker_seen, f"no marker among {self.tcp_payload_bytes} bytes on {self._links}"
        elif self._expect == "nothing":
            assert self.tcp_packets == 0, f"{self.tcp_packets} TCP packets: {list(self._flows.values())}"

    def _read_until_stopped(self) -> None:
        buffer = bytearray(_FRAME_BYTES)
        poll = select.poll()
        for fd in (self._wake[0], *(sock.fileno() for sock in self._sockets)):
            poll.register(fd, select.POLLIN | select.POLLHUP)
        try:
            stopped = False
            while not stopped:
                stopped = any(fd == self._wake[0] for fd, _ in poll.poll())
                for sock in self._sockets:  # to the last packet, also when stopped
                    self._drain(sock, buffer)
        except BaseException as error:  # told to the test when it ends
            self._failure = error

    def _drain(self, sock: socket.socket, buffer: bytearray) -> None:
        while True:
            try:
                length = sock.recv_into(buffer)
            except BlockingIOError:
                return
            self._look_at(buffer, length)

    def _look_at(self, frame: bytearray, length: int) -> None:
        if frame[12:14] == b"\x08\x00":
            transport = 14 + (frame[14] & 15) * 4
            end = 14 + int.from_bytes(frame[16:18], "big")
            protocol, addresses = frame[23], bytes(frame[26:34])
        elif frame[12:14] == b"\x86\xdd":
            transport = 54
            end = 54 + int.from_bytes(frame[18:20], "big")
            protocol, addresses = frame[20], bytes(frame[22:54])
        else:
            return
        if protocol == socket.IPPROTO_UDP:
            self.udp_packets += 1
        elif protocol == socket.IPPROTO_TCP:
            assert transport < end <= length, f"a TCP packet of {length} bytes says that it has {end}"
            key = addresses + bytes(frame[transport : transport + 4])
            flow = self._flows.get(key)
            if flow is None:
                flow = self._flows[key] = _Flow(key, self._tls_ports)
            self.tcp_packets += 1
            flow.begun = flow.begun or bool(frame[transport + 13] & _SYN)
            start = transport + (frame[transport + 12] >> 4) * 4
            if start < end:
                sequence = int.from_bytes(frame[transport + 4 : transport + 8], "big")
                self.tcp_payload_bytes += end - start
                found = flow.search(frame, start, end, sequence, self._marker)
                if found and flow.text not in self.marker_seen:
                    self.marker_seen.append(flow.text)


class _Flow:
    """One direction of a TCP connection."""

    def __init__(self, key: bytes, tls_ports: frozenset[int]) -> None:
        self._tls_ports = tls_ports
        size = (len(key) - 4) // 2
        family = socket.AF_INET if size == 4 else socket.AF_INET6
        self.ports = struct.unpack("!HH", key[-4:])
        source, destination = (socket.inet_ntop(family, key[at : at + size]) for at in (0, size))
        self.text = f"{source}:{self.ports[0]} > {destination}:{self.ports[1]}"
        self.payload_bytes = 0
        self.begun = False  # its SYN was seen: it is not the rest of a connection from before
        self.is_tunnel = False
        self._next = -1
        self._tail = b""

    def search(self, frame: bytearray, start: int, end: int, sequence: int, marker: bytes) -> bool:
        """Whether `marker` is in this payload, or ends in it."""
        if not self.payload_bytes:
            begins_as_tls = frame.startswith(_TLS_HANDSHAKE, start, end)
            is_tls_port = not self._tls_ports.isdisjoint(self.ports)
            self.is_tunnel = is_tls_port and (begins_as_tls or not self.begun)
        self.payload_bytes += end - start
        overlap = len(marker) - 1
        found = frame.find(marker, start, end) >= 0
        if not found and sequence == self._next:
            found = marker in self._tail + bytes(frame[start : min(end, start + overlap)])
        kept = bytes(frame[max(start, end - overlap) : end])
        self._tail = (self._tail + kept)[-overlap:] if sequence == self._next else kept
        self._next = (sequence + end - start) & 0xFFFFFFFF
        return found

    def __repr__(self) -> str:
        return self.text
