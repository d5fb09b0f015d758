"""The demo's witness: it must see what is there, or its "0 packets with the plaintext" would be worth nothing."""

from __future__ import annotations

import struct

import pytest

from interceptor.cli.sniffer import Segment, Sniffed, parse_frame, reassembled, records

ETHERNET = bytes(12)
IPV4_ENDS, IPV6_ENDS = bytes([10, 0, 0, 1, 10, 0, 0, 2]), bytes(range(32))
PORTS = struct.pack("!HH", 40000, 15008)


def tcp(payload: bytes, sequence: int = 1) -> bytes:
    return PORTS + struct.pack("!IIBBHHH", sequence, 0, 8 << 4, 0x18, 0, 0, 0) + bytes(12) + payload


def ipv4(payload: bytes, sequence: int = 1, *, protocol: int = 6, padding: bytes = b"") -> bytes:
    body = tcp(payload, sequence)
    header = struct.pack("!BBHHHBBH", 0x46, 0, 24 + len(body), 0, 0, 64, protocol, 0) + IPV4_ENDS + bytes(4)
    return ETHERNET + b"\x08\x00" + header + body + padding


def ipv6(payload: bytes, sequence: int = 1) -> bytes:
    body = tcp(payload, sequence)
    return ETHERNET + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 6, 64) + IPV6_ENDS + body


def record(content: bytes, kind: int = 23) -> bytes:
    return struct.pack("!BHH", kind, 0x0303, len(content)) + content


@pytest.mark.parametrize(("frame", "ends"), [(ipv4(b"hello"), IPV4_ENDS), (ipv6(b"hello"), IPV6_ENDS)])
def test_tcp_segment_is_found_in_both_ip_versions(frame: bytes, ends: bytes) -> None:
    assert parse_frame(frame) == Segment(ends + PORTS, 1, b"hello")


def test_padding_of_a_short_frame_is_no_payload() -> None:
    segment = parse_frame(ipv4(b"x", padding=bytes(20)))
    assert segment is not None
    assert segment.payload == b"x"


@pytest.mark.parametrize(
    "frame",
    [b"", ETHERNET + b"\x08\x06" + bytes(28), ipv4(b"x", protocol=17), ipv4(b"")[:40], ipv6(b"")[:50]],
)
def test_frame_without_a_whole_tcp_header_is_passed_over(frame: bytes) -> None:
    assert parse_frame(frame) is None


def test_marker_across_two_segments_is_found() -> None:
    sniffed = Sniffed(2, reassembled([ipv4(b"sec", 1), ipv4(b"ret", 4)]))
    assert sniffed.count(b"secret") == 1


def test_segments_out_of_order_repeated_and_overlapping_are_joined() -> None:
    frames = [ipv4(b"cde", 3), ipv4(b"abc", 1), ipv4(b"abc", 1), ipv4(b"", 1), ipv4(b"efg", 5)]
    assert reassembled(frames) == (b"abcdefg",)


def test_sequence_numbers_that_wrap_keep_their_order() -> None:
    assert reassembled([ipv6(b"ab", 2**32 - 2), ipv6(b"cd", 0)]) == (b"abcd",)


def test_connections_are_kept_apart() -> None:
    assert reassembled([ipv4(b"a"), ipv6(b"b")]) == (b"a", b"b")


def test_stream_of_records_has_nothing_outside_of_tls() -> None:
    sniffed = Sniffed(1, (record(b"hello", 22) + record(b"x" * 300),))
    assert (sniffed.tls_records, sniffed.bytes_outside_tls, sniffed.payload_bytes) == (2, 0, 315)


def test_plaintext_is_outside_of_tls() -> None:
    sniffed = Sniffed(2, (record(b"hello"), b"GET / HTTP/1.1\r\n"))
    assert (sniffed.tls_records, sniffed.bytes_outside_tls) == (1, 16)


def test_plaintext_after_a_record_is_outside_of_tls() -> None:
    assert Sniffed(1, (record(b"hello") + b"plain",)).bytes_outside_tls == 5


def test_record_that_was_cut_off_counts_as_far_as_it_was_seen() -> None:
    assert list(records(record(b"hello")[:7])) == [7]
