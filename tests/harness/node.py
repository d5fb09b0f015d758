"""One real agent for tests: its own configuration, paths, bridge and networks, so that several fit side by side."""

from __future__ import annotations

import contextlib
import os
import signal
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from interceptor import admin
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.workload import WorkloadKey
from tests.harness import slot as slots
from tests.harness.namespace import EnrolledNamespace, Holder, Namespace, Workload
from tests.harness.process import CLI, Result, has_let_go, run, wait_until
from tests.harness.record_reader import Record, RecordReader
from tests.harness.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.harness.slot import Slot
    from tests.harness.wire import Expectation

__all__ = ["Node", "Record", "prepared_node", "running_node"]

# What must never be in an agent's log: a fault of ours, handled or not.
_FAULTS = ("Traceback (most recent call last)", "internal error")


class Node(RecordReader):
    """An agent and the workloads that a test makes on it.

    slot          numbers and names (networks, metrics port)
    config_path   its configuration file; `config` is the document in it, `write_config` replaces it
    state_dir, run_dir, bpf_dir, log_path, records_path
    """

    def __init__(
        self,
        slot: Slot,
        *,
        mode: str = "STRICT",
        lifetime: str = "24h",
        limits: Mapping[str, object] | None = None,
        **settings: object,
    ) -> None:
        """Write the configuration; `settings` are further top-level keys of config.yaml."""
        self.slot = slot
        self.directory = slot.directory
        self.config_path = slot.directory / "config.yaml"
        self.state_dir = slot.directory / "state"
        self.run_dir = slot.directory / "run"
        self.bpf_dir = slot.bpf_dir
        self.log_path = self.state_dir / "agent.log"
        super().__init__(self.state_dir / "connections.jsonl")
        self.policies_dir = slot.directory / "policies"
        self.bridge = slot.name
        self.name = slot.name
        self.files = slot.directory / "files"  # for the programs of tests
        self.files.mkdir(mode=0o711)
        self._namespaces: list[Namespace] = []
        self._hosts = iter(range(200, 250))
        self.config: dict[str, object] = {}
        self.write_config(
            {
                "node": slot.name,
                "mode": mode,
                "mesh": {"cidrs": [str(slot.mesh_ipv4), str(slot.mesh_ipv6)]},
                "bridge": {
                    "name": self.bridge,
                    "ipv4": str(slot.bridge_ipv4),
                    "ipv6": str(slot.bridge_ipv6),
                },
                "certificates": {"lifetime": lifetime},
                "paths": {
                    "state": str(self.state_dir),
                    "run": str(self.run_dir),
                    "bpf": str(self.bpf_dir),
                    "policies": str(self.policies_dir),
                    **({"cgroup": str(slot.cgroup)} if slot.cgroup.exists() else {}),
                },
                # Records of a whole test fit into one file.
                "limits": {"recordsBytes": 256 * 1024 * 1024, **(limits or {})},
                "metrics": {"address": f"127.0.0.1:{slot.metrics_port}"},
                **settings,
            }
        )

    def write_config(self, document: Mapping[str, object]) -> None:
        """Replace the configuration file; a running agent does not notice."""
        self.config = dict(document)
        self.config_path.write_text(yaml.safe_dump(self.config))

    # The command line.

    def cli(
        self,
        *arguments: str | Path,
        timeout: float = 60,
        input_bytes: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run `interceptor --config <ours> <arguments>`; .status, .stdout, .stderr, .check()."""
        return run([*self.command(), *arguments], timeout=timeout, input_bytes=input_bytes, env=env)

    def command(self) -> list[str]:
        """The beginning of every command line of this node."""
        return [str(CLI), "--config", str(self.config_path)]

    def up(self) -> Result:
        """Start the agent; the result is not checked."""
        result = self.cli("up", timeout=90)
        if result.status == 0:
            self.slot.journal.add(self.agent_pid)
        return result

    def down(self, *options: str) -> Result:
        """Withdraw everything and stop the agent; the result is not checked."""
        return self.cli("down", *options, timeout=150)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the agent by a signal, and wait until its files are closed, too; returns the pid that it had."""
        pid = self.agent_pid
        os.kill(pid, number)
        wait_until(lambda: has_let_go(pid), f"agent {pid} has ended after signal {number}")
        return pid

    # The admin socket, for what need not go through the command line.

    def ask(self, command: str, **arguments: object) -> Any:
        """Ask the agent; AgentError with its message when it answers with an error, or not at all."""
        return admin.ask(self.run_dir / "admin.sock", command, **arguments)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status")
        return status

    @property
    def agent_pid(self) -> int:
        return int(self.status()["pid"])

    def workloads(self) -> list[dict[str, Any]]:
        """As `interceptor workloads -o json`."""
        found: list[dict[str, Any]] = self.ask("workloads")
        return found

    def certificate(self, workload: Workload | EnrolledNamespace) -> dict[str, Any]:
        """One workload's certificate, as `interceptor certificates -o json` has it."""
        return next(c for c in self.ask("certificates") if c["identity"] == workload.identity)

    def open_descriptors(self) -> int:
        """How many file descriptors the agent has."""
        return sum(1 for _ in Path(f"/proc/{self.agent_pid}/fd").iterdir())

    def log(self) -> str:
        """What the agent has logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    # Workloads and others.

    def workload(
        self,
        name: str,
        *,
        service_account: str | None = None,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
    ) -> Workload:
        """A workload made by `interceptor run`; the service account has its name unless another is given.

        Run programs in it by `run` and `spawn`; it ends by `close`, at the latest with the node.
        """
        command = [*self.command(), "run", "--service-account", service_account or name]
        command += ["--name", name, "--namespace", namespace]
        for key, value in (labels or {}).items():
            command += ["--label", f"{key}={value}"]
        command += ["--"]
        holder = Holder(command, self.files / f"{namespace}.{name}.run.err", self.slot.journal)
        facts = next(w for w in self.workloads() if (w["namespace"], w["name"]) == (namespace, name))
        host_link = netlink.host_link_name(f"{self.name}/{WorkloadKey(namespace, name)}")
        made = Workload(name, facts, host_link, holder, self.files, self.slot.journal)
        self._namespaces.append(made)
        return made

    @contextlib.contextmanager
    def workload_for_a_while(self, name: str, **options: Any) -> Iterator[Workload]:
        """A workload that ends with the `with` statement; `options` are those of `workload`."""
        made = self.workload(name, **options)
        try:
            yield made
        finally:
            made.close()

    def facts_of(self, enrolled: Workload | EnrolledNamespace) -> dict[str, Any]:
        """One workload as the agent sees it now: state, problems, addresses, connections, ..."""
        key = (enrolled.namespace, enrolled.name)
        return next(w for w in self.workloads() if (w["namespace"], w["name"]) == key)

    def plain_namespace(self, name: str, *, inside: bool = True) -> Namespace:
        """A namespace on the bridge that is not enrolled, with addresses inside or outside of the mesh's CIDRs.

        One outside has the mesh's addresses on its link; to be reached by a workload it needs `reach` there.
        """
        made = Namespace(*self._make_namespace(name, inside=inside), self.files, self.slot.journal)
        self._namespaces.append(made)
        return made

    def reach(self, workload: Namespace) -> None:
        """Let a workload send to the namespaces outside of the mesh's CIDRs: it has them on its link then."""
        workload.add_route(self.slot.outside_ipv4)
        workload.add_route(self.slot.outside_ipv6)

    def enrolled_namespace(
        self,
        name: str,
        *,
        service_account: str | None = None,
        namespace: str = "default",
        existing: Namespace | None = None,
    ) -> EnrolledNamespace:
        """A namespace that the test made and that is then enrolled, as `interceptor enrol --netns` does.

        `existing` is a plain namespace to be enrolled instead of a new one.
        """
        plain = existing or self.plain_namespace(name)
        facts = self.ask(
            "enrol",
            netns=str(plain.netns_path),
            pid=None,
            service_account=service_account or name,
            namespace=namespace,
            name=name,
        )
        plain.__class__ = EnrolledNamespace
        assert isinstance(plain, EnrolledNamespace)
        plain.identity, plain.namespace, plain.facts = facts["identity"], namespace, facts
        return plain

    def _make_namespace(self, name: str, *, inside: bool) -> Any:
        number = next(self._hosts)
        slot = self.slot
        ipv4 = (slot.mesh_ipv4 if inside else slot.outside_ipv4)[number]
        ipv6 = (slot.mesh_ipv6 if inside else slot.outside_ipv6)[number]
        ipv4_prefix = slot.mesh_ipv4.prefixlen if inside else slot.wide_ipv4_prefix
        ipv6_prefix = slot.mesh_ipv6.prefixlen if inside else slot.wide_ipv6_prefix
        path = slot.directory / "netns" / name
        host_link = f"{slot.name}-{number}"
        netlink.ensure_bridge(self.bridge, slot.bridge_ipv4, slot.bridge_ipv6)
        with kernel_netns.create_named(path) as netns:
            interfaces = (IPv4Interface((ipv4, ipv4_prefix)), IPv6Interface((ipv6, ipv6_prefix)))
            netlink.attach_to_bridge(self.bridge, netns, host_link, interfaces, ())
        return name, path, host_link, (ipv4, ipv6)

    def wire(self, *namespaces: Namespace, marker: bytes, expect: Expectation = "encrypted") -> Wire:
        """Sniff the host's ends of these namespaces' links (see Wire); use it in a `with` statement."""
        return Wire([namespace.host_link for namespace in namespaces], marker, expect)

    # The end.

    def close_namespaces(self) -> None:
        """End and remove every workload and namespace that was made here and is still there."""
        for namespace in reversed(self._namespaces):
            if namespace.netns.fd >= 0:
                namespace.close()
        self._namespaces.clear()

    def close(self) -> None:
        """Take everything down; AssertionError if `down` fails or leaves something, or the agent's log has a fault of ours."""
        try:
            self.close_namespaces()
        finally:
            log = self.log()
            result = self.down("--remove-audit")
        result.check()
        left = [
            path
            for path in (self.run_dir, self.bpf_dir, Path("/sys/class/net", self.bridge))
            if path.exists()
        ]
        assert not left, f"`down` left {left}"
        faults = [line for line in log.splitlines() if any(fault in line for fault in _FAULTS)]
        assert not faults, f"the agent's log tells of faults:\n{log[-8000:]}"


@contextlib.contextmanager
def prepared_node(**options: Any) -> Iterator[Node]:
    """A node whose agent was not started yet; `options` are those of Node."""
    slot = slots.acquire()
    try:
        node = Node(slot, **options)
        try:
            yield node
        finally:
            node.close()
    finally:
        slot.release()


@contextlib.contextmanager
def running_node(**options: Any) -> Iterator[Node]:
    """A node whose agent is ready; `options` are those of Node (mode, lifetime, limits, ...)."""
    with prepared_node(**options) as node:
        node.up().check()
        yield node
