"""What every test may use: real agents, and the rule that CI skips nothing."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.agent.directories import BPFFS
from interceptor.kernel.mounts import is_bpffs, mount_bpffs, unmount_bpffs
from tests.harness.node import Node, prepared_node, running_node
from tests.harness.slot import sweep_all

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.harness.namespace import Workload

ROOT_MARKERS = ("netns", "bpf")


def forbids_skips() -> bool:
    """Whether a test that cannot run is a failure: in CI, and where somebody asks for it."""
    return os.environ.get("CI") == "true" or os.environ.get("INTERCEPTOR_FORBID_SKIPS") == "1"


def pytest_configure() -> None:
    # A shell that starts us in the background has these ignored, and what is ignored is
    # inherited: by every program that a test runs.
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)
    # Under nohup, we are to outlive the terminal; what we run gets the default, since it has no handler of ours.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for name in ROOT_MARKERS if item.get_closest_marker(name)]
    if needed and os.geteuid() != 0:
        pytest.skip(f"marked {' and '.join(needed)}: needs root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    del item, call
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and forbids_skips():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a skip is a failure here (CI=true or INTERCEPTOR_FORBID_SKIPS=1): {reason}"
    return report


@pytest.fixture(scope="session")
def _swept() -> None:
    """Remove what earlier runs left that were killed."""
    sweep_all()


@pytest.fixture(scope="session")
def bpf_file_system() -> Iterator[None]:
    """A BPF file system where it belongs, which stays: `down` unmounts an empty one that was mounted for it."""
    mounted = False
    while True:
        if not is_bpffs(BPFFS):
            mounted = mount_bpffs(BPFFS)
        opened = os.open(BPFFS, os.O_RDONLY | os.O_DIRECTORY)  # in use, from here on
        if is_bpffs(BPFFS):
            break
        os.close(opened)
    yield
    os.close(opened)
    if mounted:
        unmount_bpffs(BPFFS)


@pytest.fixture(scope="session")
def shared_node(_swept: None) -> Iterator[Node]:
    """A running agent in STRICT mode for the whole session: leave it running, and close what you make on it."""
    with running_node() as node:
        yield node


@pytest.fixture(autouse=True)
def _records_of_this_test(request: pytest.FixtureRequest) -> None:
    """What a test finds in the shared node's records are its own connections."""
    if "shared_node" in request.fixturenames:
        request.getfixturevalue("shared_node").begin()


@pytest.fixture(scope="session")
def shared_client(shared_node: Node) -> Iterator[Workload]:
    """A workload `client` on the shared node: end what you spawn in it."""
    workload = shared_node.workload("client")
    yield workload
    workload.close()


@pytest.fixture(scope="session")
def shared_server(shared_node: Node) -> Iterator[Workload]:
    """A workload `server` on the shared node: end what you spawn in it."""
    workload = shared_node.workload("server")
    yield workload
    workload.close()


@pytest.fixture
def node(_swept: None) -> Iterator[Node]:
    """A running agent in STRICT mode for this test alone, which may kill it."""
    with running_node() as node:
        yield node


@pytest.fixture
def make_node(_swept: None) -> Iterator[Callable[..., Node]]:
    """Makes nodes for this test alone: `make_node(mode="PERMISSIVE", lifetime="20s", limits={...}, start=True)`."""
    with ExitStack() as stack:

        def make(*, start: bool = True, **options: Any) -> Node:
            manager = running_node(**options) if start else prepared_node(**options)
            return stack.enter_context(manager)

        yield make
