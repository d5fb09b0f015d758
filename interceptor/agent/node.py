"""One running node: the tasks under its nursery, and what the admin socket can ask of it."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from interceptor.admin import AdminServer, open_listener
from interceptor.agent.clock import wall_clock
from interceptor.agent.enroller import Enroller, Request
from interceptor.agent.hosts import HostsFiles
from interceptor.agent.records import Records
from interceptor.agent.reference import NamespaceReference, Process
from interceptor.agent.state import RunDetails, StateFile
from interceptor.agent.views import Views
from interceptor.authority_store import load_or_create
from interceptor.credentials import Credentials
from interceptor.enrolment.address_pool import next_addresses
from interceptor.enrolment.registry import Registry
from interceptor.errors import EnrolmentError, InterceptorError, KernelError, UsageError
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.capture import Capture
from interceptor.metrics_server import MetricsServer
from interceptor.policy.policy_set import PolicySet
from interceptor.proxy.snapshot import Snapshot
from interceptor.workload import WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from cryptography import x509

    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config
    from interceptor.identity.authority import Authority
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.identity.svid import X509Svid
    from interceptor.kernel.bpf_program import Programs
    from interceptor.workload import Workload

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 1.0
STOP_OWNER_SECONDS = 5.0
DEFAULT_NAMESPACE = "default"
AUTHORITY_DIRECTORY = "authority"


class EmbeddedSigner:
    """The authority in this process, behind the interface of one that is elsewhere."""

    def __init__(self, authority: Authority, directory: Path) -> None:
        self.authority = authority
        self._directory = directory

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        now = wall_clock()
        if self.authority.needs_intermediate(now):
            self.authority = load_or_create(self._directory, self.authority.trust_domain, now)
        return self.authority.sign(request, spiffe_id, lifetime, now)


class Node:
    """The agent while it runs."""

    def __init__(
        self,
        config: Config,
        authority: Authority,
        programs: Programs,
        cgroup: Path,
        restored: list[EnrolledState],
    ) -> None:
        self.config = config
        self.records = Records(config.records)
        self.signer = EmbeddedSigner(authority, config.paths.state_dir / AUTHORITY_DIRECTORY)
        self.credentials = Credentials(self.signer, config.certificates.lifetime, wall_clock, observer=self)
        self.capture = Capture(programs, config.paths.bpf_dir)
        self.registry = Snapshot(Registry.empty())
        self.policy = Snapshot(PolicySet(config.mode))
        self.started_at = wall_clock()
        self.enroller = Enroller(
            config,
            self.capture,
            self.records,
            self.credentials,
            StateFile(config.paths.run_dir),
            TrustBundles({authority.trust_domain: authority.trust_bundle}),
            policy=self.policy,
            registry=self.registry,
            now=wall_clock,
        )
        self._hosts = HostsFiles(config.paths.run_dir / "hosts")
        self._cgroup = cgroup
        self._restored = restored
        self._views = Views(self)
        self._ready = False
        self._stop = trio.Event()
        self._nursery: trio.Nursery | None = None

    # Told by the credentials.

    def renewed(self, workload: Workload, svid: X509Svid) -> None:
        """A workload has a new certificate."""
        self.records.metrics.renewal("success")
        self.records.metrics.set_certificate(workload.key, workload.identity, svid.not_after.timestamp())

    def renewal_failed(self, workload: Workload, error: str) -> None:
        """A workload's certificate could not be renewed; the credentials try again."""
        del workload, error  # the credentials keep and log them
        self.records.metrics.renewal("failure")

    # The life of the agent.

    async def run(self) -> None:
        """Until a signal or `down`; captured workloads stay captured, unless they were withdrawn."""
        admin = open_listener(self.config.paths.run_dir / "admin.sock")
        metrics = await self._open_metrics()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.records.run)
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(MetricsServer(self.records.metrics.expose, self.missing).serve, metrics)
            nursery.start_soon(AdminServer(self._commands()).serve, admin)
            await self._take_over(nursery)
            nursery.start_soon(self._reconcile_for_ever, nursery)
            nursery.start_soon(self._write_hosts_for_ever)
            self._ready = True
            log.info(
                "ready: node %s, trust domain %s, mode %s",
                self.config.node,
                self.config.trust_domain,
                self.config.mode,
            )
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def missing(self) -> list[str]:
        """What keeps the agent from being ready; empty when it is."""
        missing = [] if self._ready else ["taking over the workloads of the last agent"]
        missing += [
            f"no certificate for {enrolled.workload.key}"
            for enrolled in self.enroller.enrolled
            if enrolled.proxy.context.tls.value is None
        ]
        return missing

    async def _open_metrics(self) -> trio.SocketListener:
        address = self.config.metrics_address
        try:
            listeners = await trio.open_tcp_listeners(address.port, host=str(address.address))
        except OSError as error:
            raise KernelError(
                f"cannot listen on {address} for metrics ({error.strerror}): set metrics.address to a free port"
            ) from error
        return listeners[0]

    async def _take_over(self, nursery: trio.Nursery) -> None:
        for state in self._restored:
            await self.enroller.restore(state, nursery)
        # Only now: the programs of the last agent were in force until here.
        self.capture.activate(self._cgroup)
        if not self.enroller.cut_off:
            self.capture.forget_others(enrolled.cookie for enrolled in self.enroller.enrolled)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping on %s; enrolled workloads stay captured", signal.Signals(number).name)
                self._stop.set()

    async def _reconcile_for_ever(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(RECONCILE_SECONDS)
            for enrolled in self.enroller.enrolled:
                try:
                    if self._has_ended(enrolled.state, enrolled.netns):
                        log.info("%s has ended", enrolled.workload.key)
                        await self.enroller.withdraw(enrolled.workload.key)
                    else:
                        await self.enroller.refresh_addresses(enrolled)
                except InterceptorError as error:
                    log.warning("%s: %s", enrolled.workload.key, error)
                await trio.lowlevel.checkpoint()
            for cut_off in self.enroller.cut_off:
                await self.enroller.restore(cut_off.state, nursery)

    @staticmethod
    def _has_ended(state: EnrolledState, netns: kernel_netns.NetworkNamespace) -> bool:
        if state.run is not None:
            return not state.run.owner.is_alive()
        return not state.reference.is_alive() and not netns.has_processes()

    async def _write_hosts_for_ever(self) -> None:
        registry = self.registry.value
        while True:
            self._hosts.write(registry)
            registry = await self.registry.wait_changed()

    # What the admin socket can ask.

    def _commands(self) -> dict[str, Any]:
        return {
            "enrol": self._enrol,
            "run": self._run,
            "withdraw": self._withdraw,
            "down": self._down,
            "workloads": self._views.workloads,
            "connections": self._views.connections,
            "certificates": self._views.certificates,
            "status": self._views.status,
            "explain": self._views.explain,
        }

    async def _enrol(self, request: Mapping[str, Any]) -> object:
        assert self._nursery is not None
        if (request.get("netns") is None) == (request.get("pid") is None):
            raise UsageError("give either the name or path of a network namespace, or a pid")
        if request.get("pid") is not None:
            reference, netns = NamespaceReference.by_pid(_integer(request, "pid"))
        else:
            reference, netns = NamespaceReference.by_path(_text(request, "netns"))
        with ExitStack() as undo:
            undo.callback(netns.close)
            namespace, account = self._names(request)
            name = _text(request, "name") if request.get("name") else self._free_name(namespace, account)
            wanted = Request(namespace, name, account, reference)
            undo.pop_all()
        enrolled = await self.enroller.enrol(wanted, netns, self._nursery)
        return self._views.workload(enrolled)

    async def _run(self, request: Mapping[str, Any]) -> object:
        """Make a network namespace on the bridge for a command that process `pid` is about to run."""
        assert self._nursery is not None
        owner = Process.find(_integer(request, "pid"))
        namespace, account = self._names(request)
        name = _text(request, "name") if request.get("name") else self._free_name(namespace, account)
        key = WorkloadKey(namespace, name)
        bridge = self.config.bridge
        netlink.ensure_bridge(bridge.name, bridge.ipv4, bridge.ipv6)
        path = self.config.paths.run_dir / "netns" / f"{namespace}.{name}"
        host_link = netlink.host_link_name(f"{self.config.node}/{key}")
        if self.enroller.get(key) is not None:
            raise EnrolmentError(f"workload {key} is enrolled already: choose another --name")
        with ExitStack() as undo:
            netns = kernel_netns.create_named(path)
            undo.callback(kernel_netns.remove_named, path)
            with ExitStack() as close:
                close.callback(netns.close)
                interfaces = next_addresses(bridge.ipv4, bridge.ipv6, self._taken_addresses())
                netlink.attach_to_bridge(
                    bridge.name, netns, host_link, interfaces, (bridge.ipv4.ip, bridge.ipv6.ip)
                )
                undo.callback(netlink.remove_link, host_link)
                close.pop_all()
            reference = NamespaceReference(str(path), None, netns.device, netns.inode)
            wanted = Request(namespace, name, account, reference, RunDetails(owner, host_link))
            enrolled = await self.enroller.enrol(wanted, netns, self._nursery)
            undo.pop_all()
        self._hosts.write(self.registry.value)
        return {
            **self._views.workload(enrolled),
            "netns_path": str(path),
            "hosts_path": str(self._hosts.path(namespace)),
        }

    async def _withdraw(self, request: Mapping[str, Any]) -> object:
        key = self.registry.value.find(_text(request, "name")).key
        await self.enroller.withdraw(key)
        return {"withdrawn": str(key)}

    async def _down(self, request: Mapping[str, Any]) -> object:
        del request
        withdrawn = []
        for enrolled in self.enroller.enrolled:
            if enrolled.state.run is not None:
                await _end_process(enrolled.state.run.owner)
            if self.enroller.get(enrolled.workload.key) is enrolled:
                await self.enroller.withdraw(enrolled.workload.key)
            withdrawn.append(str(enrolled.workload.key))
        self._stop.set()
        return {"withdrawn": withdrawn}

    def _names(self, request: Mapping[str, Any]) -> tuple[str, str]:
        namespace = _text(request, "namespace") if request.get("namespace") else DEFAULT_NAMESPACE
        return namespace, _text(request, "service_account")

    def _free_name(self, namespace: str, account: str) -> str:
        """The service account's name, with a number when somebody has it already."""
        base = account.replace(".", "-")[:60]
        taken = {w.name for w in self.registry.value.workloads if w.namespace == namespace}
        number, name = 1, base
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        return name

    def _taken_addresses(self) -> set[Any]:
        return {address for workload in self.registry.value.workloads for address in workload.addresses}


async def _end_process(process: Process) -> None:
    """Ask a process to end, and make it after a while; one that has ended is no error."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not process.is_alive():
            return
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
        with trio.move_on_after(STOP_OWNER_SECONDS):
            while process.is_alive():  # noqa: ASYNC110 - a process that is not our child has no event
                await trio.sleep(0.02)


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key} is missing in the request")
    return value


def _integer(request: Mapping[str, Any], key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UsageError(f"{key} must be a positive number, not {str(value)[:32]!r}")
    return value
