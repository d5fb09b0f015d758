"""The text of config.yaml to a `Config`: which key has which form, and what must hold between them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

from interceptor.config.document import Document, Items, KeyPath, Scalar, read_document
from interceptor.config.model import (
    MEBIBYTE,
    BridgeConfig,
    CertificatesConfig,
    Config,
    KubernetesConfig,
    LimitsConfig,
    PathsConfig,
    PolicyConfig,
    RecordsConfig,
)
from interceptor.config.values import (
    parse_address_check,
    parse_authority_address,
    parse_bridge_ipv4,
    parse_bridge_ipv6,
    parse_count,
    parse_duration,
    parse_interface_name,
    parse_listen_address,
    parse_mesh_cidr,
    parse_node,
    parse_path,
    parse_pod_conditions,
    parse_run_dir,
)
from interceptor.errors import ConfigError, InvalidInput, quoted
from interceptor.identity.node_id import validate_node_name
from interceptor.identity.spiffe_id import TrustDomain, validate_name
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.workload import IPNetwork

MAX_MESH_CIDRS = (
    256  # the kernel's table of captured prefixes takes many more; a config with more is a mistake
)

T = TypeVar("T")


NODE_VARIABLE = "NODE_NAME"
AUTHORITY_VARIABLES = ("INTERCEPTOR_AUTHORITY_SERVICE_HOST", "INTERCEPTOR_AUTHORITY_SERVICE_PORT")


def parse_config(
    text: str, name: str, *, node: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Config:
    """The text of a config file to a Config; what it does not set has the default, and `node` is that of the node.

    In a cluster the environment says where the authority is and what the node is called: both are known only when the
    pod starts. `name` is the file's name as messages shall show it. Raises ConfigError with file, line, key and remedy for
    whatever is not exactly a valid config: a setting that is mistyped must not silently be the default.
    """
    return _Reader(read_document(text, name), name).config(node, environment)


class _Reader:
    """Takes the values out of a document one by one, and knows at the end which keys nobody asked for."""

    def __init__(self, document: Document, name: str) -> None:
        self._document = document
        self._name = name
        self._known: list[KeyPath] = []

    def config(self, node: str, environment: Mapping[str, str]) -> Config:
        """All settings, checked each and together; the first thing that is wrong is raised."""
        kubernetes = self._kubernetes()
        if kubernetes is not None:
            node = environment.get(NODE_VARIABLE) or node
        defaults = Config(node=node)
        paths = self._paths(defaults.paths)
        config = Config(
            node=self._get("node", parse_node, node),
            trust_domain=self._get("trustDomain", TrustDomain.parse, defaults.trust_domain),
            mode=self._get("mode", MtlsMode.parse, defaults.mode),
            mesh_cidrs=self._mesh_cidrs(defaults.mesh_cidrs),
            bridge=self._bridge(defaults.bridge),
            certificates=self._certificates(defaults.certificates),
            paths=paths,
            limits=self._limits(defaults.limits),
            records=self._records(paths),
            policy=self._policy(defaults.policy),
            metrics_address=self._get("metrics.address", parse_listen_address, defaults.metrics_address),
            authority_address=self._get_or_none("authority.address", parse_authority_address),
            kubernetes=kubernetes,
        )
        self._refuse_unknown_keys()
        if kubernetes is not None:
            config = self._check_cluster(config, environment)
        self._check_node(config)
        self._check_authority(config)
        if kubernetes is None:  # else there is no bridge
            self._check_bridge(config)
        return config

    def _kubernetes(self) -> KubernetesConfig | None:
        """The section, None when it is not there."""
        is_there = any(path[0] == "kubernetes" and len(path) > 1 for path in self._document)
        default = KubernetesConfig()
        section = KubernetesConfig(
            join_token_file=self._get("kubernetes.joinTokenFile", parse_path, default.join_token_file),
            root_file=self._get("kubernetes.rootFile", parse_path, default.root_file),
            server=self._get_or_none("kubernetes.server", str),
            token_file=self._get_or_none("kubernetes.tokenFile", parse_path),
            ca_file=self._get_or_none("kubernetes.caFile", parse_path),
            pods_cgroup=self._get_or_none("kubernetes.podsCgroup", parse_path),
            kubelet_cgroup=self._get_or_none("kubernetes.kubeletCgroup", parse_path),
            pod_conditions=self._get(
                "kubernetes.podConditions", parse_pod_conditions, default.pod_conditions
            ),
        )
        return section if is_there else None

    def _mesh_cidrs(self, default: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        key = "mesh.cidrs"
        items = self._take(key)
        if items is None:
            return default
        if isinstance(items, Scalar):
            raise self._error(items, key, "expected a list, such as [10.215.0.0/16]")
        cidrs = tuple(self._parse(scalar, key, parse_mesh_cidr) for scalar in items.scalars)
        if not 0 < len(cidrs) <= MAX_MESH_CIDRS:
            raise self._error(items, key, f"has {len(cidrs)} entries, expected 1 to {MAX_MESH_CIDRS}")
        for cidr, following in pairwise(sorted(cidrs, key=str)):
            if cidr == following:
                raise self._error(items, key, f"{cidr} is there twice, remove one")
        return cidrs

    def _bridge(self, default: BridgeConfig) -> BridgeConfig:
        return BridgeConfig(
            name=self._get("bridge.name", parse_interface_name, default.name),
            ipv4=self._get("bridge.ipv4", parse_bridge_ipv4, default.ipv4),
            ipv6=self._get("bridge.ipv6", parse_bridge_ipv6, default.ipv6),
        )

    def _certificates(self, default: CertificatesConfig) -> CertificatesConfig:
        # Shorter could not be renewed in time on a busy machine; the authority issues nothing longer.
        parse = _duration(timedelta(seconds=10), timedelta(hours=24))
        grace = _duration(timedelta(0), timedelta(days=30))
        return CertificatesConfig(
            lifetime=self._get("certificates.lifetime", parse, default.lifetime),
            expired_peer_grace=self._get("certificates.expiredPeerGrace", grace, default.expired_peer_grace),
        )

    def _paths(self, default: PathsConfig) -> PathsConfig:
        state_dir = self._get("paths.state", parse_path, default.state_dir)
        return PathsConfig(
            state_dir=state_dir,
            run_dir=self._get("paths.run", parse_run_dir, default.run_dir),
            bpf_dir=self._get("paths.bpf", parse_path, default.bpf_dir),
            cgroup=self._get_or_none("paths.cgroup", parse_path),
            kernel_headers=self._get_or_none("paths.kernelHeaders", parse_path),
            policies=self._get("paths.policies", parse_path, default.policies),
            audit=self._get("paths.audit", parse_path, state_dir / default.audit.name),
        )

    def _limits(self, default: LimitsConfig) -> LimitsConfig:
        wait = _duration(timedelta(0), timedelta(minutes=1))
        timeout = _duration(timedelta(milliseconds=100), timedelta(minutes=5))
        connections, handshakes = default.connections_per_workload, default.pending_handshakes
        return LimitsConfig(
            unknown_destination_wait=self._get(
                "limits.unknownDestinationWait", wait, default.unknown_destination_wait
            ),
            handshake_timeout=self._get("limits.handshakeTimeout", timeout, default.handshake_timeout),
            connect_timeout=self._get("limits.connectTimeout", timeout, default.connect_timeout),
            connections_per_workload=self._get_count(
                "limits.connectionsPerWorkload", 1, 1_000_000, connections
            ),
            pending_handshakes=self._get_count("limits.pendingHandshakes", 1, 100_000, handshakes),
            connection_max_age=self._get_or_none(
                "limits.connectionMaxAge", _duration(timedelta(seconds=1), timedelta(days=365))
            ),
            # A node's certificate lives for a day, and a drained agent has nobody who renews it.
            drain_time=self._get(
                "limits.drainTime", _duration(timedelta(0), timedelta(hours=12)), default.drain_time
            ),
        )

    def _records(self, paths: PathsConfig) -> RecordsConfig:
        default = RecordsConfig()
        return RecordsConfig(
            path=self._get("paths.records", parse_path, paths.state_dir / default.path.name),
            max_bytes=self._get_count(
                "limits.recordsBytes", 64 * 1024, 1024 * 1024 * MEBIBYTE, default.max_bytes
            ),
        )

    def _policy(self, default: PolicyConfig) -> PolicyConfig:
        return PolicyConfig(
            root_namespace=self._get(
                "policy.rootNamespace",
                lambda text: validate_name("namespace", text),
                default.root_namespace,
            ),
            address_mismatch=self._get(
                "policy.addressMismatch", parse_address_check, default.address_mismatch
            ),
        )

    def _check_node(self, config: Config) -> None:
        """The name from the caller is checked too: it is what the host is called, which may be anything."""
        try:
            parse_node(config.node)
        except InvalidInput as error:
            raise ConfigError(f"{self._name}: the name of this host, {error}; set 'node'") from None

    def _check_authority(self, config: Config) -> None:
        """An authority elsewhere knows nodes by their names, which are stricter than those of hosts."""
        if config.authority_address is not None:
            try:
                validate_node_name(config.node)
            except InvalidInput as error:
                raise ConfigError(f"{self._name}: to join authority.address, {error}; set 'node'") from None

    def _check_cluster(self, config: Config, environment: Mapping[str, str]) -> Config:
        """In a cluster addresses are the cluster's, and so is the authority."""
        if self._document.get(("mesh", "cidrs")) is None:
            raise ConfigError(
                f"{self._name}: mesh.cidrs: in a cluster it has no default, give the networks of all pods and of services"
            )
        if config.authority_address is not None:
            return config
        host, port = (environment.get(variable, "") for variable in AUTHORITY_VARIABLES)
        if not host:
            raise ConfigError(
                f"{self._name}: authority.address: in a cluster there must be one, and {AUTHORITY_VARIABLES[0]} is not set: "
                "give it, or make the service interceptor-authority before this pod starts"
            )
        try:
            address = parse_listen_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except InvalidInput as error:
            raise ConfigError(f"{self._name}: {' and '.join(AUTHORITY_VARIABLES)}: {error}") from None
        return replace(config, authority_address=address)

    def _check_bridge(self, config: Config) -> None:
        """The bridge's networks must be captured: between workloads on them, plaintext would pass otherwise."""
        for key, network in (("ipv4", config.bridge.ipv4.network), ("ipv6", config.bridge.ipv6.network)):
            if not any(_contains(cidr, network) for cidr in config.mesh_cidrs):
                where = self._document.get(("bridge", key)) or self._document.get(("mesh", "cidrs"))
                line = where.line if where else 1
                raise ConfigError(
                    f"{self._name}:{line}: bridge.{key}: {network} is not inside any of mesh.cidrs, so connections "
                    "between its workloads would not be encrypted, add it there"
                )

    def _get(self, key: str, parse: Callable[[str], T], default: T) -> T:
        value = self._take(key)
        return default if value is None else self._parse(value, key, parse)

    def _get_or_none(self, key: str, parse: Callable[[str], T]) -> T | None:
        value = self._take(key)
        if value is None or (isinstance(value, Scalar) and value.is_null):
            return None
        return self._parse(value, key, parse)

    def _get_count(self, key: str, smallest: int, largest: int, default: int) -> int:
        value = self._take(key)
        if value is None:
            return default
        return self._parse(
            value, key, partial(parse_count, smallest=smallest, largest=largest), is_number=True
        )

    def _take(self, key: str) -> Scalar | Items | None:
        path = tuple(key.split("."))
        self._known.append(path)
        return self._document.get(path)

    def _parse(
        self, value: Scalar | Items, key: str, parse: Callable[[str], T], *, is_number: bool = False
    ) -> T:
        if isinstance(value, Items):
            raise self._error(value, key, "expected a single value")
        if value.is_null:
            raise self._error(value, key, "has no value, give one or remove the line")
        if not (value.is_text or is_number):
            raise self._error(value, key, f"{quoted(value.text)} is not text to YAML, put it in quotes")
        try:
            return parse(value.text)
        except InvalidInput as error:
            raise self._error(value, key, str(error)) from None

    def _error(self, value: Scalar | Items, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._name}:{value.line}: {key}: {problem}")

    def _refuse_unknown_keys(self) -> None:
        names = [".".join(path) for path in self._known]
        sections = {path[0] for path in self._known if len(path) > 1}
        for path, value in self._document.items():
            if path in self._known:
                continue
            if len(path) == 1 and path[0] in sections:
                if isinstance(value, Scalar) and value.is_null:
                    continue  # a section whose keys are all commented out
                raise self._error(
                    value, path[0], "expected keys inside it, each on an indented line of its own"
                )
            key = ".".join(path)
            raise ConfigError(f"{self._name}:{value.line}: unknown key {quoted(key)}, {_hint(key, names)}")


def _hint(key: str, names: list[str]) -> str:
    """What a person who wrote this unknown key may have meant."""
    if key in names:
        section, _, inner = key.partition(".")
        return f"write {inner!r} on an indented line below '{section}:'"
    close = get_close_matches(key, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(names)}"


def _duration(shortest: timedelta, longest: timedelta) -> Callable[[str], timedelta]:
    return partial(parse_duration, shortest=shortest, longest=longest)


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    """Whether every address of `inner` is in `outer`; `subnet_of` would raise for two IP versions."""
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    return inner.supernet(new_prefix=outer.prefixlen) == outer
