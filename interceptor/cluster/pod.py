"""A pod: where it runs, as whom, and with which addresses."""

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from interceptor.cluster.condition import POD_CONDITION, Told, told
from interceptor.cluster.fields import Fields
from interceptor.cluster.head import Head, parse_labels
from interceptor.cluster.probe_ports import probe_ports
from interceptor.errors import InvalidInput, quoted
from interceptor.labels import Labels
from interceptor.workload import IPAddress, parse_address

WHAT: Final = "pod"
MAX_ADDRESSES: Final = 8  # Kubernetes knows one of each family


class Phase(StrEnum):
    """kubernetes.io, "Pod Lifecycle", "Pod phase"."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod.

    `node` is None until it is scheduled, `service_account` for mirrors of static pods, which have none; `is_deleting`
    says that it was asked to end; `probe_ports` are those that its kubelet connects to; `told` is what an agent of ours
    wrote into its status.
    """

    head: Head
    labels: Labels
    node: str | None
    service_account: str | None
    is_host_network: bool
    phase: Phase
    addresses: tuple[IPAddress, ...]
    is_deleting: bool
    probe_ports: tuple[int, ...] = ()
    told: Told | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended for good: its addresses may be another pod's already."""
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED)

    @property
    def own_addresses(self) -> tuple[IPAddress, ...]:
        """The addresses that mean this pod and nobody else: not its node's, not those that it had."""
        return () if self.is_host_network or self.is_finished else self.addresses


def parse_pod(head: Head, value: object) -> Pod:
    """Raises InvalidInput."""
    what = f"{WHAT} {head.key}"
    fields = Fields(what, value)
    metadata, spec, status = fields.part("metadata"), fields.part("spec"), fields.part("status")
    return Pod(
        head=head,
        labels=parse_labels(what, value),
        node=_shared(spec.optional_text("nodeName")),
        service_account=_shared(spec.optional_text("serviceAccountName")),
        is_host_network=spec.flag("hostNetwork", default=False),
        phase=_phase(what, status.optional_text("phase")),
        addresses=_addresses(status),
        is_deleting=metadata.optional_text("deletionTimestamp") is not None,
        probe_ports=probe_ports(fields.any("spec")),
        told=told(value, POD_CONDITION),
    )


def _phase(what: str, text: str | None) -> Phase:
    try:
        return Phase(text or Phase.PENDING)
    except ValueError:
        raise InvalidInput(f"{what}: status: phase is {quoted(text)}, which is none") from None


def _addresses(status: Fields) -> tuple[IPAddress, ...]:
    texts = [each.text("ip") for each in status.parts("podIPs", MAX_ADDRESSES)]
    if not texts and (only := status.optional_text("podIP")):
        texts = [only]
    return tuple(dict.fromkeys(parse_address(text) for text in texts))


def _shared(text: str | None) -> str | None:
    """One copy of a text that many pods have; an empty one is none."""
    return sys.intern(text) if text else None
