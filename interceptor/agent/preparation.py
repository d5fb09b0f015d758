"""The steps that put a network namespace into the mesh, each with how it is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.agent.claims import own_addresses
from interceptor.agent.listeners import adopt_listeners, open_listeners, steering_slots
from interceptor.agent.members import Enrolled
from interceptor.agent.state import EnrolledState
from interceptor.agent.workload_context import workload_context
from interceptor.identity.spiffe_id import SpiffeId, validate_name
from interceptor.kernel.abi import INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT, OUTBOUND_PORT
from interceptor.kernel.return_path import current_sysctls, install_return_path, remove_return_path
from interceptor.proxy.workload_proxy import WorkloadProxy
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    import socket
    from contextlib import ExitStack

    from interceptor.agent.claims import Claims
    from interceptor.agent.members import Members, Request
    from interceptor.agent.workload_context import Shared
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import IPAddress


class Preparation:
    """The first half of an enrolment: at its end everything is captured and listened on, and nobody is served."""

    def __init__(self, shared: Shared, members: Members, claims: Claims) -> None:
        self._shared = shared
        self._config = shared.config
        self._capture = shared.capture
        self._members = members
        self._claims = claims
        # Listening sockets of the agent before this one, by netns cookie; connections may be waiting in them.
        self.handed_over: dict[int, list[socket.socket]] = {}

    def prepare(
        self,
        request: Request,
        netns: NetworkNamespace,
        undo: ExitStack,
        *,
        previous: EnrolledState | None = None,
    ) -> Enrolled:
        """Take a namespace in, or in again (`previous`); `undo` gets what takes it out after a failure."""
        workload = self._permitted(request, netns, previous)
        key = workload.key
        state = self._write_down(workload, request, netns, undo) if previous is None else previous
        install_return_path(netns)
        cookie = netns.cookie()
        listeners = adopt_listeners(self.handed_over.pop(cookie, ()), netns, undo)
        listeners = listeners or open_listeners(netns, undo)
        proxy = WorkloadProxy(
            workload_context(workload, netns, self._shared),
            outbound_listeners=listeners[OUTBOUND_PORT],
            plaintext_listeners=listeners[INBOUND_PLAINTEXT_PORT],
            tunnel_listeners=listeners[INBOUND_TUNNEL_PORT],
        )
        enrolled = Enrolled(
            state, netns, cookie, proxy, trio.CancelScope(), workload.addresses, _claim(request, previous)
        )
        self._members.enrolled[key] = enrolled
        undo.callback(self._members.enrolled.pop, key)
        undo.callback(lambda: self._capture.set_prefixes(self._members.captured_networks(without=key)))
        self._capture.set_prefixes(self._members.captured_networks())
        if previous is None:
            undo.callback(self._capture.withdraw, cookie)
        self._capture.note_listeners(cookie, listeners[OUTBOUND_PORT])
        self._capture.enrol(
            netns,
            cookie,
            workload.addresses,
            steering_slots(listeners),
            everything=self._shared.policy.value.capturing(key.namespace, workload.labels),
        )
        return enrolled

    def _permitted(
        self, request: Request, netns: NetworkNamespace, previous: EnrolledState | None
    ) -> Workload:
        """What is asked for as a workload; EnrolmentError when it may not have its name, namespace or addresses."""
        key = WorkloadKey(request.namespace, request.name)
        account = validate_name("service account", request.service_account)
        identity = SpiffeId(self._config.trust_domain, key.namespace, account)
        self._claims.require_new(key, netns, previous=previous)
        addresses = own_addresses(netns, lambda a: self._is_own(request, previous, a))
        workload = Workload(key, identity, addresses, self._config.node, request.labels)
        self._claims.require_free(workload)
        if previous is None:
            self._claims.require_local(workload)
        return workload

    def _is_own(self, request: Request, previous: EnrolledState | None, address: IPAddress) -> bool:
        if previous is not None:
            return self._claims.may_keep(previous, address)
        return request.pod is None or address.is_link_local or address in request.pod.addresses

    def _write_down(
        self, workload: Workload, request: Request, netns: NetworkNamespace, undo: ExitStack
    ) -> EnrolledState:
        """Note in the state file what is about to be changed, so that it is undone also if we die on the way."""
        key, sysctls = workload.key, current_sysctls(netns)
        state = EnrolledState(
            key,
            request.service_account,
            request.reference,
            workload.addresses,
            sysctls,
            request.run,
            request.labels,
            request.pod.uid if request.pod else None,
        )
        self._members.pending[key] = state
        undo.callback(self._members.forget, key)
        self._members.save()
        undo.callback(remove_return_path, netns, sysctls)
        return state


def _claim(request: Request, previous: EnrolledState | None) -> frozenset[IPAddress] | None:
    """What a pod's API said last; of one that is taken over, what it had of it."""
    if previous is not None:
        return frozenset(previous.addresses) if previous.pod_uid is not None else None
    return frozenset(request.pod.addresses) if request.pod is not None else None
