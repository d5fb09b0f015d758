"""`bpf/abi.h` and its mirror agree: what the host's C compiler says of the one is what Python says of the other."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.kernel import abi
from interceptor.kernel.bpf_program import source_directory
from interceptor.policy.policy_set import RESERVED_PORTS

if TYPE_CHECKING:
    from pathlib import Path

HEADER = source_directory() / "abi.h"
# C name -> its mirror.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "prefix": abi.Prefix,
    "workload_entry": abi.WorkloadEntry,
    "address": abi.Address,
    "own_address": abi.OwnAddress,
    "flow": abi.Flow,
    "original_destination": abi.OriginalDestination,
    "connection": abi.Connection,
    "newcomer": abi.Newcomer,
    "probe_target": abi.ProbeTarget,
    "ends": abi.Ends,
}
_WIDTHS = {"__u8": 1, "__u16": 2, "__u32": 4, "__u64": 8}


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def header_structs(text: str) -> dict[str, list[str]]:
    """Struct name -> field names, in order."""
    return {
        name: re.findall(r"__u\d+\s+(\w+)(?:\[\w+\])?;", body)
        for name, body in re.findall(r"struct (\w+) \{(.*?)\};", without_comments(text), re.DOTALL)
    }


def header_constants(text: str) -> list[str]:
    return re.findall(r"^#define (\w+) \S", without_comments(text), re.MULTILINE)


def measured(header: Path, directory: Path) -> dict[str, int]:
    """Every constant, size and offset of the header, as the host's compiler has them."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    text = header.read_text()
    expressions = header_constants(text)
    for name, fields in header_structs(text).items():
        expressions.append(f"sizeof(struct {name})")
        for field in fields:
            expressions.append(f"offsetof(struct {name}, {field})")
            expressions.append(f"sizeof(((struct {name} *)0)->{field})")
    lines = "\n".join(f'    printf("%lld\\n", (long long)({expression}));' for expression in expressions)
    source = directory / "measure.c"
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{header}"\nint main(void) {{\n{lines}\n    return 0;\n}}\n'
    )
    program = directory / "measure"
    subprocess.run([compiler, "-Wall", "-Werror", "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, output.split()), strict=True))


def mirrored(mirror: Any) -> dict[str, int]:
    """The same, as the Python module has them."""
    values = {name: value for name, value in vars(mirror).items() if name.isupper() and type(value) is int}
    values |= {f"LISTENER_{slot.name}": slot.value for slot in mirror.ListenerSlot}
    values |= {f"COUNTER_{counter.name}": counter.value for counter in mirror.Counter}
    values["COUNTER_COUNT"] = len(mirror.Counter)
    for name, structure in STRUCTS.items():
        values[f"sizeof(struct {name})"] = ctypes.sizeof(structure)
        for field, _ in structure._fields_:  # type: ignore[misc]
            descriptor = getattr(structure, field)
            values[f"offsetof(struct {name}, {field})"] = descriptor.offset
            values[f"sizeof(((struct {name} *)0)->{field})"] = descriptor.size
    return values


def test_header_and_mirror_agree_in_everything(tmp_path: Path) -> None:
    assert mirrored(abi) == measured(HEADER, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define ABI_VERSION 2", "#define ABI_VERSION 3"),
        ("#define MAX_PENDING_FLOWS 65536", "#define MAX_PENDING_FLOWS 65537"),
        ("#define COUNTER_COUNT 15", "#define COUNTER_COUNT 16\n#define COUNTER_NEW 15"),
        ("#define LISTENER_TUNNEL_IPV4 2", "#define LISTENER_TUNNEL_IPV4 3"),
        ("\t__u16 client_port; /* host order */\n\t__u8", "\t__u32 client_port;\n\t__u8"),
        (
            "\t__u64 netns_cookie;\n\t__u8 client_address[16];",
            "\t__u8 client_address[16];\n\t__u64 netns_cookie;",
        ),
        (
            "\t__u16 port; /* network order */\n\t__u8 padding[2]",
            "\t__u16 destination_port;\n\t__u8 padding[2]",
        ),
        ("struct own_address {", "struct another {\n\t__u8 x;\n};\nstruct own_address {"),
    ],
)
def test_planted_difference_is_found(tmp_path: Path, old: str, new: str) -> None:
    text = HEADER.read_text()
    assert text.count(old) == 1
    planted = tmp_path / "abi.h"
    planted.write_text(text.replace(old, new))
    assert mirrored(abi) != measured(planted, tmp_path)


def test_mirror_that_lacks_a_counter_is_found(tmp_path: Path) -> None:
    counters = SimpleNamespace(**vars(abi))
    counters.Counter = list(abi.Counter)[:-1]
    assert mirrored(counters) != measured(HEADER, tmp_path)


def test_structs_have_no_hidden_padding() -> None:
    """The kernel compares keys byte by byte: what a compiler leaves between fields would make two of one."""
    for name, structure in STRUCTS.items():
        sizes = [getattr(structure, field).size for field, _ in structure._fields_]  # type: ignore[misc]
        assert sum(sizes) == ctypes.sizeof(structure), name


def test_header_uses_fixed_widths_only() -> None:
    types = re.findall(r"^\t(\w+) \w+(?:\[\d+\])?;", without_comments(HEADER.read_text()), re.MULTILINE)
    assert types
    assert set(types) <= set(_WIDTHS)


def test_ports_are_those_that_policy_reserves() -> None:
    ports = {abi.OUTBOUND_PORT, abi.INBOUND_PLAINTEXT_PORT, abi.INBOUND_TUNNEL_PORT}
    assert ports == set(RESERVED_PORTS)


# Values to bytes.

MAPPED = bytes(10) + b"\xff\xff"


def test_address_is_16_bytes_in_both_families() -> None:
    assert abi.address_bytes(ip_address("10.1.2.3")) == MAPPED + bytes([10, 1, 2, 3])
    assert abi.address_bytes(ip_address("fd00::1")) == bytes.fromhex("fd00" + "00" * 13 + "01")


@pytest.mark.parametrize(
    ("network", "length", "address"),
    [
        ("10.0.0.0/8", 104, MAPPED + bytes([10, 0, 0, 0])),
        ("10.1.2.3/32", 128, MAPPED + bytes([10, 1, 2, 3])),
        ("0.0.0.0/0", 96, MAPPED + bytes(4)),
        ("fd00::/64", 64, bytes.fromhex("fd00") + bytes(14)),
    ],
)
def test_prefix_counts_bits_from_the_start_of_16_bytes(network: str, length: int, address: bytes) -> None:
    assert bytes(abi.prefix_key(ip_network(network))) == struct.pack("=I", length) + address


def test_own_address_begins_with_the_namespace() -> None:
    key = abi.own_address_key(0x1122334455667788, ip_address("10.1.2.3"))
    assert bytes(key) == struct.pack("=Q", 0x1122334455667788) + MAPPED + bytes([10, 1, 2, 3])


def test_workload_entry_takes_the_first_address_of_each_family_that_is_not_link_local() -> None:
    addresses = tuple(map(ip_address, ("fe80::1", "fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2")))
    entry = abi.workload_entry(addresses)
    assert bytes(entry) == MAPPED + bytes([10, 0, 0, 1]) + ip_address("fd00::1").packed + bytes(8)
    everything = abi.workload_entry(addresses, captures_everything=True)
    assert bytes(everything) == bytes(entry)[:32] + bytes([1]) + bytes(7)
    assert bytes(abi.workload_entry(())) == bytes(40)
