"""One running node: the tasks under its nursery, from taking over to stopping."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import trio

from interceptor.admin import AdminServer, open_listener
from interceptor.agent.clock import wall_clock
from interceptor.agent.enroller import CutOff, Enroller
from interceptor.agent.hosts import HostsFiles
from interceptor.agent.records import Records
from interceptor.agent.requests import Requests
from interceptor.agent.service_manager import READY, STOPPING, tell_service_manager
from interceptor.agent.signer import EmbeddedSigner
from interceptor.agent.state import StateFile
from interceptor.agent.workload_context import Shared
from interceptor.credentials import Credentials
from interceptor.enrolment.registry import Registry
from interceptor.errors import InterceptorError, KernelError
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.kernel.capture import Capture
from interceptor.metrics_server import MetricsServer
from interceptor.policy.policy_set import PolicySet
from interceptor.proxy.snapshot import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.agent.enroller import Enrolled
    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config
    from interceptor.identity.authority import Authority
    from interceptor.identity.svid import X509Svid
    from interceptor.kernel.bpf_program import Programs
    from interceptor.workload import Workload, WorkloadKey

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 1.0
AUTHORITY_DIRECTORY = "authority"


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
            Shared(config, self.capture, self.records, self.policy, self.registry, wall_clock),
            self.credentials,
            StateFile(config.paths.run_dir),
            TrustBundles({authority.trust_domain: authority.trust_bundle}),
        )
        self.hosts = HostsFiles(config.paths.run_dir / "hosts")
        self._cgroup = cgroup
        self._restored = restored
        self.ready = trio.Event()  # everything of the last agent is taken over, and the programs are in force
        self._stop = trio.Event()

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
            nursery.start_soon(self.records.run)
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(MetricsServer(self.records.metrics.expose, self.missing).serve, metrics)
            nursery.start_soon(AdminServer(Requests(self, nursery).commands).serve, admin)
            await self._take_over(nursery)
            nursery.start_soon(self._reconcile_for_ever, nursery)
            nursery.start_soon(self._write_hosts_for_ever)
            self.ready.set()
            log.info(
                "ready: node %s, trust domain %s, mode %s",
                self.config.node,
                self.config.trust_domain,
                self.config.mode,
            )
            tell_service_manager(READY)
            await self._stop.wait()
            tell_service_manager(STOPPING)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def missing(self) -> list[str]:
        """What keeps the agent from being ready; empty when it is."""
        missing = [] if self.ready.is_set() else ["taking over the workloads of the last agent"]
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
        await self.enroller.take_over(self._restored, nursery)
        # Only now: the programs of the last agent were in force until here.
        self.capture.activate(self._cgroup)
        everything: tuple[Enrolled | CutOff, ...] = (*self.enroller.enrolled, *self.enroller.cut_off)
        self.capture.forget_others(found.state.reference.cookie for found in everything)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping on %s; enrolled workloads stay captured", signal.Signals(number).name)
                self.stop()

    async def _reconcile_for_ever(self, nursery: trio.Nursery) -> None:
        complaints: dict[WorkloadKey, str] = {}
        while True:
            await trio.sleep(RECONCILE_SECONDS)
            before, complaints = complaints, {}
            everything: tuple[Enrolled | CutOff, ...] = (*self.enroller.enrolled, *self.enroller.cut_off)
            for found in everything:
                try:
                    await self._reconcile(found, nursery)
                except (InterceptorError, OSError) as error:
                    # Nothing that a workload does to its namespace may end the agent, nor fill its log.
                    key = found.state.key
                    complaints[key] = str(error)
                    if before.get(key) != str(error):
                        log.warning("%s: %s", key, error)
                await trio.lowlevel.checkpoint()

    async def _reconcile(self, found: Enrolled | CutOff, nursery: trio.Nursery) -> None:
        key = found.state.key
        if self._has_ended(found):
            log.info("%s has ended", key)
            await self.enroller.drain(key)
            await self.enroller.withdraw(key)
        elif isinstance(found, CutOff):
            await self.enroller.restore(found.state, nursery)

    @staticmethod
    def _has_ended(found: Enrolled | CutOff) -> bool:
        if found.state.run is not None:
            return not found.state.run.owner.is_alive()
        if isinstance(found, CutOff):
            return False  # whether its namespace is there is seen when it is opened again
        return not found.state.reference.is_alive() and not found.netns.has_processes()

    async def _write_hosts_for_ever(self) -> None:
        registry = self.registry.value
        while True:
            self.hosts.write(registry)
            registry = await self.registry.wait_changed()
