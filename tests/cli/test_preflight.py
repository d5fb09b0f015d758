"""What the doctor makes of what it finds, without a machine for each case."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING

import pytest

from interceptor.config import parse_config
from interceptor.errors import KernelError
from interceptor.kernel import netlink
from interceptor.kernel.netns import create_named, remove_named
from interceptor.kernel.preflight.finding import Finding, Level, failure, failure_of
from interceptor.kernel.preflight.network import check_addresses
from interceptor.kernel.preflight.runner import CHECKS, Check, _findings
from interceptor.kernel.preflight.storage import judge_directory
from interceptor.kernel.preflight.subject import Subject
from interceptor.kernel.preflight.system import (
    effective_capabilities,
    judge_clock,
    judge_descriptors,
    judge_kernel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BRIDGE = "bridge: {name: itest, ipv4: 198.51.100.1/24, ipv6: 'fd5e:d0c::1/64'}"
MESH = "mesh: {cidrs: [198.51.100.0/24, 'fd5e:d0c::/64']}"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(parse_config(f"{BRIDGE}\n{MESH}\n", "config.yaml", node="n"), tmp_path, own_agent=False)


@pytest.mark.parametrize(
    ("release", "machine", "level"),
    [
        ("5.9.16", "x86_64", Level.FAILURE),
        ("5.10.0-32-amd64", "x86_64", Level.OK),
        ("5.16.20", "aarch64", Level.OK),
        ("4.19.0-27-amd64", "x86_64", Level.FAILURE),
        ("5.17.0", "x86_64", Level.OK),
        ("6.1.0-56-amd64", "aarch64", Level.OK),
        ("10.0", "x86_64", Level.OK),
    ],
)
def test_kernel_before_5_10_is_too_old(release: str, machine: str, level: Level) -> None:
    assert judge_kernel(release, machine).level is level


@pytest.mark.parametrize(
    ("release", "missing"),
    [
        ("5.10.0-32-amd64", ("SO_NETNS_COOKIE", "bpf_get_netns_cookie", "ingress_ifindex")),
        ("5.14.0", ("bpf_get_netns_cookie", "ingress_ifindex")),
        ("5.15.0-25-generic", ("ingress_ifindex",)),
        ("5.17.0", ()),
    ],
)
def test_older_kernel_is_told_what_exactly_it_lacks(release: str, missing: tuple[str, ...]) -> None:
    text = judge_kernel(release, "x86_64").message.partition("made up for: ")[2]
    parts = text.split("; ") if text else []
    assert len(parts) == len(missing)
    assert all(part.startswith(start) for part, start in zip(parts, missing, strict=True))


@pytest.mark.parametrize(
    ("hard", "level"),
    [(1024, Level.WARNING), (65_535, Level.WARNING), (65_536, Level.OK), (resource.RLIM_INFINITY, Level.OK)],
)
def test_few_open_files_are_a_warning(hard: int, level: Level) -> None:
    assert judge_descriptors(hard).level is level


@pytest.mark.parametrize(("year", "level"), [(1970, Level.FAILURE), (2026, Level.OK), (2100, Level.FAILURE)])
def test_clock_years_off_is_a_failure(year: int, level: Level) -> None:
    assert judge_clock(datetime(year, 6, 1, tzinfo=UTC)).level is level


def test_effective_capabilities_are_read_from_the_status_file() -> None:
    status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000201000\nCapBnd:\t0000000000000000\n"
    assert effective_capabilities(status) == 1 << 12 | 1 << 21
    assert effective_capabilities("") == 0


def test_directory_of_our_own_is_ok(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert judge_directory(tmp_path, os.getuid()).level is Level.OK


def test_directory_still_to_be_made_is_ok(tmp_path: Path) -> None:
    assert judge_directory(tmp_path / "a" / "b", os.getuid()) == Finding(
        Level.OK, f"{tmp_path}/a/b will be made"
    )


def test_directory_that_others_can_look_into_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    found = judge_directory(tmp_path, os.getuid())
    assert (found.level, found.remedy) == (Level.FAILURE, f"chmod 0700 {tmp_path}")


def test_directory_of_somebody_else_is_a_failure(tmp_path: Path) -> None:
    found = judge_directory(tmp_path, os.getuid() + 1)
    assert (found.level, found.remedy) == (Level.FAILURE, f"chown {os.getuid() + 1} {tmp_path}")


def test_file_where_a_directory_should_be_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert judge_directory(file, os.getuid()).message == f"{file} is not a directory"
    assert judge_directory(file / "a" / "b", os.getuid()).message == f"{file} is not a directory"


def test_error_with_a_remedy_is_taken_apart() -> None:
    assert failure_of(KernelError("no headers (see a: b): apt-get install x")) == failure(
        "no headers (see a: b)", "apt-get install x"
    )
    assert failure_of(KernelError("no reason")) == failure("no reason", "")


def test_every_check_needs_only_checks_before_it() -> None:
    before: set[str] = set()
    for check in CHECKS:
        assert before.issuperset(check.needs), check.name
        before.add(check.name)


def test_check_that_needs_a_failed_one_is_not_tried(subject: Subject) -> None:
    def never(_: Subject) -> Iterator[Finding]:
        raise AssertionError

    failed = {"bcc"}
    found = list(_findings(Check("bpf programs", never, ("bcc", "kernel headers")), subject, failed))
    assert found == [Finding(Level.WARNING, "not tried", "first: bcc")]
    assert failed == {"bcc", "bpf programs"}


def test_check_that_the_system_refuses_is_a_failure(subject: Subject) -> None:
    def refused(_: Subject) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/proc/x")
        yield

    found = list(_findings(Check("x", refused), subject, set()))
    assert [(each.level, each.message) for each in found] == [
        (Level.FAILURE, "cannot be checked (/proc/x: Permission denied)")
    ]


@pytest.mark.netns
@pytest.mark.parametrize("name", ["other0", "itest"])
def test_subnet_of_the_bridge_that_another_link_has_is_a_failure(
    subject: Subject, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "netns"
    with create_named(path) as netns:
        try:
            with netns.entered():
                # Wider than the bridge's, with an address that is not inside of it.
                netlink.ensure_bridge(name, IPv4Interface("198.51.99.1/16"), IPv6Interface("fd00:1::1/64"))
                found = list(check_addresses(subject))
        finally:
            remove_named(path)
    if name == "itest":
        assert [each.level for each in found] == [Level.OK]  # our own bridge, of an agent that runs
    else:
        assert [each.level for each in found] == [Level.FAILURE]
        assert "198.51.100.0/24 of bridge itest overlaps with 198.51.99.1/16 on other0" in found[0].message
