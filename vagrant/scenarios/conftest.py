"""The boxes of one run: brought up before the first scenario, their logs fetched and they destroyed after the last."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from vagrant.scenarios.box import HERE, LAB, Box, Script, in_lab
from vagrant.scenarios.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UP_SECONDS = 1800
FIRST = "node-a"
ADDRESSES = {FIRST: "192.168.56.11", "node-b": "192.168.56.12"}  # as in the Vagrantfile
# What explains a failure: of the services, of the kernel, and of agents that were started by hand.
_LOGS = {
    "journal.txt": "journalctl --boot --no-pager --output=short-precise",
    "kernel.txt": "dmesg",
    "agent.txt": "cat /var/lib/interceptor/agent.log",
    "connections.jsonl": "cat /var/lib/interceptor/connections.jsonl",
}

# Tests that show each hook and the whole way of a connection.  All others run where `make test` runs.
INTEGRATION = (
    "tests/kernel/test_abi.py",
    "tests/kernel/test_capture.py",
    "tests/kernel/test_hold.py",
    "tests/kernel/test_older.py",
    "tests/kernel/test_probes.py",
    "tests/kernel/test_return_path.py",
    "tests/kernel/test_socket_diag.py",
    "tests/integration/test_outside.py",
    "tests/integration/test_tcp_semantics_connect.py",
)

PYTEST = ".venv/bin/python -m pytest -q -p no:cacheprovider -o faulthandler_timeout=600 -p vagrant.scenarios.emulated"

HOOKS = ".venv/bin/python -m vagrant.scenarios.hooks"


MODULES = (
    "test_service",
    "test_two_nodes",
    "test_upgrade",
    "test_quick_start",
    "test_restarts",
    "test_uninstall",
)
OUTCOMES: dict[str, str] = {}
SECONDS: dict[str, float] = {}  # what the time went to, in this order


@contextmanager
def timed(step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    SECONDS[step] = SECONDS.get(step, 0.0) + time.monotonic() - started


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--box", default="bookworm-6.1", help="which box, as `make box BOX=` names it")
    parser.addoption("--keep", action="store_true", help="leave the boxes running, to look around")
    parser.addoption("--again", action="store_true", help="in the boxes that a run with --keep has left")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order in which they build on each other; the quick start ends before its node is rebooted."""
    items.sort(key=lambda item: MODULES.index(item.path.stem))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what each scenario has come to, for the table of `make vagrant-matrix`."""
    directory = HERE.parent / "build/vagrant" / str(session.config.getoption("--box"))
    directory.mkdir(parents=True, exist_ok=True)
    outcomes = {item.name: OUTCOMES.get(item.nodeid, "not run") for item in session.items}
    (directory / "scenarios.json").write_text(json.dumps(outcomes, indent=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(
        "seconds: " + ", ".join(f"{step} {seconds:.0f}" for step, seconds in SECONDS.items())
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        SECONDS["scenarios"] = SECONDS.get("scenarios", 0.0) + report.duration
    if report.when == "call" or report.outcome == "failed":
        OUTCOMES[report.nodeid] = "ok" if report.outcome == "passed" else report.outcome


def _selected(request: pytest.FixtureRequest, module: str) -> bool:
    """Whether any scenario of a module is to be run."""
    return any(module in item.nodeid for item in request.session.items)


@pytest.fixture(scope="session")
def box_name(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--box"))


@pytest.fixture(scope="session")
def logs(box_name: str) -> Path:
    """Where this run's logs go: build/vagrant/<box> in the checkout."""
    directory = HERE.parent / "build/vagrant" / box_name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def _lab(box_name: str, pytestconfig: pytest.Config) -> Iterator[None]:
    """The namespaces in which the boxes run; they end with us, however we end, unless they are to be kept."""
    keep = bool(pytestconfig.getoption("--keep"))
    if pytestconfig.getoption("--again"):
        yield
        return
    with timed("box"):
        subprocess.run([HERE / "build-box", box_name], check=True, stdout=subprocess.DEVNULL)
    with timed("lab"):
        subprocess.run([LAB, "stop"], check=True)
        watched = [] if keep else ["--until-pid", str(os.getpid())]
        subprocess.run([LAB, "start", box_name, *watched], check=True)
    yield
    if not keep:
        subprocess.run([LAB, "stop"], check=True)


@pytest.fixture(scope="session")
def boxes(
    _lab: None, logs: Path, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> Iterator[dict[str, Box]]:
    """Both nodes."""
    alone = all("test_quick_start" in item.nodeid for item in request.session.items)
    names = [FIRST] if alone else list(ADDRESSES)
    verb = "rsync" if pytestconfig.getoption("--again") else "up"
    with timed("boot"):
        answer = in_lab("vagrant", verb, *names, timeout=UP_SECONDS)
    (logs / f"{verb}.txt").write_text(
        re.sub(r"[^\n]*\r", "", answer.output)
    )  # thousands of lines of progress
    answer.check()
    ssh_config = logs / "ssh_config"
    options = "Host *\n  ControlMaster auto\n  ControlPersist 600\n  ControlPath /run/ssh-%r@%h\n  ServerAliveInterval 5\n"
    ssh_config.write_text(options + in_lab("vagrant", "ssh-config", *names).check())
    nodes = {name: Box(name, ADDRESSES[name], ssh_config) for name in names}
    yield nodes
    for node in nodes.values():
        for name, command in _LOGS.items():
            (logs / f"{node.name}-{name}").write_text(node.run(command).output)


@pytest.fixture(scope="session")
def installed(boxes: dict[str, Box], logs: Path, pytestconfig: pytest.Config) -> dict[str, Box]:
    """Both nodes after README's commands for the service; that of node-a, which nobody asks before it joins, waits."""
    scripts = []
    for box in boxes.values():
        if pytestconfig.getoption("--again"):
            box.run("interceptor down; rm -f /etc/interceptor/config.yaml")
        start = f"systemctl enable {'' if box.name == FIRST else '--now'} interceptor"
        parts = {"install": "make install", "start": start}
        scripts.append(Script.start(box, parts, logs / f"{box.name}-install.txt"))
    for part in ("install", "start"):
        with timed(part):
            for script in scripts:
                script.wait(part).check()
    return boxes


@pytest.fixture(scope="session")
def mesh(installed: dict[str, Box]) -> Mesh:
    """Both nodes joined to one authority, and traffic between them."""
    with timed("join"):
        return Mesh.join(installed["node-a"], installed["node-b"], "launch code 4712")


@pytest.fixture(scope="session")
def quick_start(boxes: dict[str, Box], logs: Path, pytestconfig: pytest.Config) -> Iterator[Script]:
    """README's first commands on node-a, and then the integration tests; started, not waited for."""
    parts = {"demo": "make demo", "doctor": ".venv/bin/interceptor doctor", "hooks": HOOKS}
    if "smoke" not in str(pytestconfig.getoption("-m")):
        parts |= {"dependencies": "make deps-test", "integration": f"{PYTEST} {' '.join(INTEGRATION)}"}
    script = Script.start(boxes[FIRST], parts, logs / "node-a-quick-start.txt")
    yield script
    script.stop()


@pytest.fixture(autouse=True)
def _everything_at_once(request: pytest.FixtureRequest) -> None:
    """What takes long on one node goes on while the other one is looked at."""
    if _selected(request, "test_quick_start"):
        request.getfixturevalue("quick_start")


@pytest.fixture
def node_a(boxes: dict[str, Box]) -> Box:
    return boxes["node-a"]


@pytest.fixture
def node_b(boxes: dict[str, Box]) -> Box:
    return boxes["node-b"]
