"""The settings of an agent as frozen values; the defaults are written here and nowhere else."""

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final

import yaml

from interceptor.authority.address import AuthorityAddress
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.policy.documents import ROOT_NAMESPACE
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import AddressCheck
from interceptor.workload import Endpoint, IPNetwork

MEBIBYTE: Final = 1024 * 1024


# Immutable, so that sharing them between instances is safe.
_BRIDGE_IPV4: Final = IPv4Interface("10.215.0.1/16")
_BRIDGE_IPV6: Final = IPv6Interface("fd15:8::1/64")
_TRUST_DOMAIN: Final = TrustDomain("cluster.local")
_METRICS_ADDRESS: Final = Endpoint(IPv4Address("127.0.0.1"), 15020)


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """The bridge that `interceptor run` joins its workloads to, with the node's own addresses on it."""

    name: str = "interceptor0"
    ipv4: IPv4Interface = _BRIDGE_IPV4
    ipv6: IPv6Interface = _BRIDGE_IPV6


@dataclass(frozen=True, slots=True)
class CertificatesConfig:
    """How long certificates live, and for how long a connection may outlive its peer's."""

    lifetime: timedelta = timedelta(hours=24)
    expired_peer_grace: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Where this agent keeps things; another agent on the same machine needs other paths.

    `cgroup` None means the first cgroup-v2 mount, `kernel_headers` None means to look for the installed ones.
    """

    state_dir: Path = Path("/var/lib/interceptor")
    run_dir: Path = Path("/run/interceptor")
    bpf_dir: Path = Path("/sys/fs/bpf/interceptor")
    cgroup: Path | None = None
    kernel_headers: Path | None = None
    policies: Path = Path("/etc/interceptor/policies")
    audit: Path = Path("/var/lib/interceptor/audit.jsonl")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How long and how much before a connection is refused."""

    unknown_destination_wait: timedelta = timedelta(
        seconds=2
    )  # a registry learns of a new workload within it
    handshake_timeout: timedelta = timedelta(seconds=10)
    connect_timeout: timedelta = timedelta(seconds=10)
    connections_per_workload: int = 10_000
    pending_handshakes: int = 1_000
    connection_max_age: timedelta | None = None  # None: as long as both ends like
    drain_time: timedelta = timedelta(minutes=5)  # for what is open when another agent has taken over


@dataclass(frozen=True, slots=True)
class RecordsConfig:
    """Where connection records go; beyond `max_bytes` the file is rotated, and one rotated file is kept."""

    path: Path = PathsConfig().state_dir / "connections.jsonl"
    max_bytes: int = 16 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What the policy documents do not say themselves."""

    root_namespace: str = ROOT_NAMESPACE
    address_mismatch: AddressCheck = AddressCheck.REFUSE


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """A node of a cluster, whose pods are the workloads.

    Without `server` the API is asked as every pod does; without `pods_cgroup` and `kubelet_cgroup` they are looked for
    below the root of cgroup v2. The two files together make the token with which the node joins its authority.
    `pod_conditions` says whether the status of its pods tells how they stand.
    """

    join_token_file: Path = Path("/var/run/secrets/interceptor/token")
    root_file: Path = Path("/etc/interceptor-root/root.sha256")
    server: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    pods_cgroup: Path | None = None
    kubelet_cgroup: Path | None = None
    pod_conditions: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set; `node` has no default, since only the caller knows the host's name."""

    node: str
    trust_domain: TrustDomain = _TRUST_DOMAIN
    mode: MtlsMode = MtlsMode.STRICT
    mesh_cidrs: tuple[IPNetwork, ...] = (_BRIDGE_IPV4.network, _BRIDGE_IPV6.network)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    certificates: CertificatesConfig = field(default_factory=CertificatesConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    records: RecordsConfig = field(default_factory=RecordsConfig)
    metrics_address: Endpoint = _METRICS_ADDRESS
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    authority_address: AuthorityAddress | None = None  # None: the authority is embedded in this agent
    kubernetes: KubernetesConfig | None = None  # None: this host is no node of a cluster

    def to_yaml(self) -> str:
        """Every setting with its value in force; `parse_config` of the text gives an equal Config."""
        paths, limits = self.paths, self.limits
        return yaml.safe_dump(
            {
                "node": self.node,
                "trustDomain": str(self.trust_domain),
                "mode": self.mode.value,
                "mesh": {"cidrs": [str(cidr) for cidr in self.mesh_cidrs]},
                "bridge": {
                    "name": self.bridge.name,
                    "ipv4": str(self.bridge.ipv4),
                    "ipv6": str(self.bridge.ipv6),
                },
                "authority": {"address": str(self.authority_address) if self.authority_address else None},
                "certificates": {
                    "lifetime": _duration(self.certificates.lifetime),
                    "expiredPeerGrace": _duration(self.certificates.expired_peer_grace),
                },
                "paths": {
                    "state": str(paths.state_dir),
                    "run": str(paths.run_dir),
                    "bpf": str(paths.bpf_dir),
                    "cgroup": str(paths.cgroup) if paths.cgroup else None,
                    "kernelHeaders": str(paths.kernel_headers) if paths.kernel_headers else None,
                    "records": str(self.records.path),
                    "policies": str(paths.policies),
                    "audit": str(paths.audit),
                },
                "limits": {
                    "unknownDestinationWait": _duration(limits.unknown_destination_wait),
                    "handshakeTimeout": _duration(limits.handshake_timeout),
                    "connectTimeout": _duration(limits.connect_timeout),
                    "connectionsPerWorkload": limits.connections_per_workload,
                    "pendingHandshakes": limits.pending_handshakes,
                    "connectionMaxAge": (
                        _duration(limits.connection_max_age) if limits.connection_max_age else None
                    ),
                    "drainTime": _duration(limits.drain_time),
                    "recordsBytes": self.records.max_bytes,
                },
                "metrics": {"address": str(self.metrics_address)},
                "policy": {
                    "rootNamespace": self.policy.root_namespace,
                    "addressMismatch": self.policy.address_mismatch.value,
                },
                **({"kubernetes": _shown_cluster(self.kubernetes)} if self.kubernetes else {}),
            },
            sort_keys=False,
        )


def _shown_cluster(cluster: KubernetesConfig) -> dict[str, str | None]:
    return {
        "podConditions": "write" if cluster.pod_conditions else "omit",
        "joinTokenFile": str(cluster.join_token_file),
        "rootFile": str(cluster.root_file),
        "server": cluster.server,
        "tokenFile": str(cluster.token_file) if cluster.token_file else None,
        "caFile": str(cluster.ca_file) if cluster.ca_file else None,
        "podsCgroup": str(cluster.pods_cgroup) if cluster.pods_cgroup else None,
        "kubeletCgroup": str(cluster.kubelet_cgroup) if cluster.kubelet_cgroup else None,
    }


def _duration(value: timedelta) -> str:
    """A duration in the largest unit that says it exactly; none is shorter than a millisecond."""
    milliseconds = value // timedelta(milliseconds=1)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
