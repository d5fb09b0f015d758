"""What passes over a link: a packet socket, and the few lines of TCP and TLS that tell whether it is plaintext."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 8 << 20
_ETHERNET_BYTES, _IPV6_BYTES, _TCP_BYTES = 14, 40, 20
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP = 6
_RECORD_TYPES = range(20, 24)  # RFC 8446 section 5.1: change_cipher_spec, alert, handshake, application_data
_RECORD_HEADER_BYTES = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment: `flow` is one direction of one connection (addresses and ports)."""

    flow: bytes
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What was seen on a link."""

    packets: int
    streams: tuple[bytes, ...]  # the payload of each direction of each TCP connection, in order

    @property
    def payload_bytes(self) -> int:
        """All TCP payload."""
        return sum(map(len, self.streams))

    @property
    def tls_records(self) -> int:
        """The TLS records at the beginnings of the streams."""
        return sum(len(list(records(stream))) for stream in self.streams)

    @property
    def bytes_outside_tls(self) -> int:
        """Payload that is no part of a TLS record."""
        return self.payload_bytes - sum(sum(records(stream)) for stream in self.streams)

    def count(self, marker: bytes) -> int:
        """How often these bytes were seen."""
        return sum(stream.count(marker) for stream in self.streams)


class Sniffer:
    """Keeps a copy of every packet of one link, in both directions, from when it is made."""

    def __init__(self, link: str) -> None:
        """Raises OSError: without CAP_NET_RAW, or when there is no such link."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.bind((link, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def take(self) -> Sniffed:
        """Everything since it was made, or since the last `take`."""
        frames = list(self._waiting())
        return Sniffed(len(frames), reassembled(frames))

    def _waiting(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._socket.recv(1 << 17)
            except BlockingIOError:
                return


def reassembled(frames: Iterable[bytes]) -> tuple[bytes, ...]:
    """The streams of all TCP connections in Ethernet frames; repeated segments count once, gaps are closed."""
    flows: dict[bytes, list[Segment]] = {}
    for frame in frames:
        segment = parse_frame(frame)
        if segment is not None and segment.payload:
            flows.setdefault(segment.flow, []).append(segment)
    return tuple(_joined(segments) for segments in flows.values())


def parse_frame(frame: bytes) -> Segment | None:
    """The TCP segment in an Ethernet frame (IPv4, or IPv6 without extension headers), if it is one."""
    packet = frame[_ETHERNET_BYTES:]
    if frame[12:14] == _IPV4 and len(packet) >= 20 and packet[9] == _TCP:
        start, end = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        addresses = packet[12:20]
    elif frame[12:14] == _IPV6 and len(packet) >= _IPV6_BYTES and packet[6] == _TCP:
        start, end = _IPV6_BYTES, _IPV6_BYTES + struct.unpack_from("!H", packet, 4)[0]
        addresses = packet[8:40]
    else:
        return None
    tcp = packet[start:end]
    if len(tcp) < _TCP_BYTES:
        return None
    sequence = struct.unpack_from("!I", tcp, 4)[0]
    return Segment(addresses + tcp[:4], sequence, tcp[(tcp[12] >> 4) * 4 :])


def _joined(segments: list[Segment]) -> bytes:
    first = segments[0].sequence
    # Sequence numbers wrap, and the first segment seen need not be the first one sent.
    placed = sorted(
        ((segment.sequence - first + (1 << 31)) % (1 << 32), segment.payload) for segment in segments
    )
    stream, end = bytearray(), placed[0][0]
    for start, payload in placed:
        stream += payload[max(end - start, 0) :]
        end = max(end, start + len(payload))
    return bytes(stream)


def records(stream: bytes) -> Iterator[int]:
    """The lengths of the TLS records that a stream begins with, their headers included; the last may be cut off."""
    position = 0
    while len(stream) - position >= _RECORD_HEADER_BYTES:
        kind, major, _, length = struct.unpack_from("!BBBH", stream, position)
        if kind not in _RECORD_TYPES or major != 3:
            return
        end = min(position + _RECORD_HEADER_BYTES + length, len(stream))
        yield end - position
        position = end
