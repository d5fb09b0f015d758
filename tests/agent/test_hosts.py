"""The names that the commands of `interceptor run` see."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import hosts
from interceptor.agent.hosts import HostsFiles
from interceptor.enrolment.registry import Registry
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    from pathlib import Path


def registry(*entries: tuple[str, str, str]) -> Registry:
    """A registry of (namespace, name, address)."""
    found = Registry.empty()
    for namespace, name, address in entries:
        identity = SpiffeId.parse(f"spiffe://cluster.local/ns/{namespace}/sa/x")
        found = found.with_workload(
            Workload(WorkloadKey(namespace, name), identity, (ip_address(address),), "node")
        )
    return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostsFiles:
    (tmp_path / "etc-hosts").write_text("127.0.0.1 localhost")
    monkeypatch.setattr(hosts, "_HOSTS", tmp_path / "etc-hosts")
    return HostsFiles(tmp_path / "hosts")


def test_hosts_of_each_namespace_have_its_own_names_short(files: HostsFiles) -> None:
    files.write(registry(("default", "web", "10.0.0.1"), ("shop", "db", "10.0.0.2")))
    assert files.path("default").read_text() == (
        "127.0.0.1 localhost\n10.0.0.1 web web.default\n10.0.0.2 db.shop\n"
    )
    assert files.path("shop").read_text() == (
        "127.0.0.1 localhost\n10.0.0.1 web.default\n10.0.0.2 db db.shop\n"
    )
    assert files.path("shop").stat().st_mode & 0o777 == 0o644  # whatever user the command runs as


def test_hosts_are_written_in_place_since_they_are_mounted(files: HostsFiles) -> None:
    files.write(registry(("default", "web", "10.0.0.1"), ("default", "longer-name", "10.0.0.2")))
    inode = files.path("default").stat().st_ino
    with files.path("default").open() as mounted:
        files.write(registry(("default", "web", "10.0.0.1")))
        assert mounted.read() == "127.0.0.1 localhost\n10.0.0.1 web web.default\n"
    assert files.path("default").stat().st_ino == inode


def test_hosts_without_a_header_have_the_workloads(files: HostsFiles, tmp_path: Path) -> None:
    (tmp_path / "etc-hosts").unlink()
    files.write(registry(("default", "web", "10.0.0.1")))
    assert files.path("default").read_text() == "10.0.0.1 web web.default\n"


def test_hosts_that_cannot_be_written_are_only_logged(
    files: HostsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hosts").write_text("in the way")
    files.write(registry(("default", "web", "10.0.0.1")))
    assert "cannot write the hosts files" in caplog.text


def test_hosts_end_exactly_where_they_should(files: HostsFiles) -> None:
    """Nothing of a longer predecessor is left at the end."""
    path = files.path("default")
    path.parent.mkdir()
    path.write_bytes(b"x" * 10_000)
    files.write(registry(("default", "web", "10.0.0.1")))
    assert os.path.getsize(path) == len("127.0.0.1 localhost\n10.0.0.1 web web.default\n")  # noqa: PTH202
