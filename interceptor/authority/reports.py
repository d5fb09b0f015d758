"""What a node tells the authority: what it believes, which roots its certificates lead to, which workloads it has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.node_id import validate_node_name
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.strict_json import Fields, Json, canonical, instant_text, parse
from interceptor.labels import Labels
from interceptor.workload import IPAddress, Workload, WorkloadKey, parse_address

MAX_REPORT_BYTES: Final = 1024 * 1024
MAX_WORKLOADS: Final = 10_000  # of one node; the bytes end earlier
MAX_ADDRESSES: Final = 32  # of one workload
MAX_LABELS: Final = 64
MAX_REASON: Final = 300
MAX_ISSUERS: Final = 16
_LABEL_CHARACTERS: Final = 317  # prefix/name of a Kubernetes label
_NAME_CHARACTERS: Final = 253
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RegisteredWorkload:
    """A workload as other nodes must know it; names and addresses are valid by construction."""

    namespace: str
    name: str
    service_account: str
    addresses: tuple[IPAddress, ...]
    node: str
    labels: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raise InvalidInput for a name that is none."""
        validate_node_name(self.node)
        self.workload(TrustDomain("any"))

    @classmethod
    def of(cls, workload: Workload, labels: Mapping[str, str]) -> Self:
        """What is to be reported of a workload on this node."""
        key = workload.key
        account = workload.service_account
        return cls(key.namespace, key.name, account, workload.addresses, workload.node, dict(labels))

    @property
    def key(self) -> WorkloadKey:
        return WorkloadKey(self.namespace, self.name)

    def workload(self, trust_domain: TrustDomain) -> Workload:
        """The workload in the form in which registry and policy have it."""
        identity = SpiffeId(trust_domain, self.namespace, self.service_account)
        return Workload(self.key, identity, self.addresses, self.node, Labels(self.labels))

    def to_document(self) -> Json:
        return {
            "addresses": [str(address) for address in self.addresses],
            "labels": dict(self.labels),
            "name": self.name,
            "namespace": self.namespace,
            "node": self.node,
            "service_account": self.service_account,
        }

    @classmethod
    def from_document(cls, value: object) -> Self:
        """Read what `to_document` made; raises InvalidInput."""
        fields = Fields(
            "workload", value, "addresses", "labels", "name", "namespace", "node", "service_account"
        )
        return cls(
            fields.text("namespace", _NAME_CHARACTERS),
            fields.text("name", _NAME_CHARACTERS),
            fields.text("service_account", _NAME_CHARACTERS),
            tuple(parse_address(address) for address in fields.texts("addresses", MAX_ADDRESSES, 45)),
            fields.text("node", _NAME_CHARACTERS),
            fields.mapping("labels", MAX_LABELS, _LABEL_CHARACTERS),
        )


@dataclass(frozen=True, slots=True)
class NodeReport:
    """The state of one node at `at`, by its own clock.

    `bundle_hash` and `document_hash` are those of the trust document in use. `issuers` are the fingerprints of the
    roots that the certificates of the node and of its workloads lead to. A node that cannot keep the document in use,
    and would lose it by a restart, says in `unkept` why, and gives the hashes of the one that it has kept.
    """

    bundle_hash: str
    document_hash: str
    issuers: tuple[str, ...]
    workloads: tuple[RegisteredWorkload, ...]
    at: datetime
    unkept: str = ""

    def __post_init__(self) -> None:
        """Sort; raise InvalidInput for what is no hash or fingerprint, and a workload that is there twice."""
        for value in (self.bundle_hash, self.document_hash):
            if not _HASH.fullmatch(value):
                raise InvalidInput(
                    f"report: {quoted(value)} is not a hash such as sha256:<64 hexadecimal digits>"
                )
        for issuer in self.issuers:
            if not _FINGERPRINT.fullmatch(issuer):
                raise InvalidInput(f"report: {quoted(issuer)} is not a fingerprint of 64 hexadecimal digits")
        if len({workload.key for workload in self.workloads}) != len(self.workloads):
            raise InvalidInput("report: a workload is there twice")
        object.__setattr__(self, "issuers", tuple(sorted(set(self.issuers))))
        object.__setattr__(self, "workloads", tuple(sorted(self.workloads, key=lambda each: each.key)))

    def to_json(self) -> bytes:
        return canonical(
            {
                "at": instant_text(self.at),
                "bundle_hash": self.bundle_hash,
                "document_hash": self.document_hash,
                "issuers": list(self.issuers),
                "workloads": [workload.to_document() for workload in self.workloads],
                **({"unkept": self.unkept} if self.unkept else {}),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` made; raises InvalidInput."""
        value = parse("report", data, MAX_REPORT_BYTES)
        names = ("at", "bundle_hash", "document_hash", "issuers", "workloads")
        fields = Fields("report", value, *names, optional=("unkept",))
        return cls(
            fields.text("bundle_hash", 71),
            fields.text("document_hash", 71),
            fields.texts("issuers", MAX_ISSUERS, 64),
            tuple(
                RegisteredWorkload.from_document(entry) for entry in fields.array("workloads", MAX_WORKLOADS)
            ),
            fields.instant("at"),
            fields.optional_text("unkept", MAX_REASON),
        )
