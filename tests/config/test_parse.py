"""A config is what its text says, all of it valid, or an error that names file, line, key and remedy."""

from datetime import timedelta
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.config import (
    BridgeConfig,
    CertificatesConfig,
    Config,
    KubernetesConfig,
    LimitsConfig,
    PathsConfig,
    PolicyConfig,
    RecordsConfig,
    parse_config,
)
from interceptor.errors import ConfigError
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import AddressCheck
from interceptor.workload import Endpoint

DEFAULTS = Config(node="host-1")
FULL_TEXT = """\
node: node-7
trustDomain: example.org
mode: PERMISSIVE
mesh:
  cidrs: [10.20.0.0/16, "fd20::/48", 192.0.2.0/24]
bridge: {name: mesh0, ipv4: 10.20.1.1/24, ipv6: fd20::1/64}
authority: {address: "192.0.2.1:15012"}
certificates: {lifetime: 10s, expiredPeerGrace: 0s}
paths:
  state: /srv/state
  run: /srv/run
  bpf: /sys/fs/bpf/other
  cgroup: /sys/fs/cgroup/unified
  kernelHeaders: /usr/src/linux
  records: /srv/records.jsonl
  policies: /srv/policies
  audit: /srv/audit.jsonl
policy:
  rootNamespace: mesh-config
  addressMismatch: FLAG
limits:
  unknownDestinationWait: 0s
  handshakeTimeout: 100ms
  connectTimeout: 5m
  connectionsPerWorkload: 5
  pendingHandshakes: 6
  connectionMaxAge: 12h
  recordsBytes: 65536
metrics:
  address: "[::1]:9000"
kubernetes:
  joinTokenFile: /srv/token
  rootFile: /srv/root
  server: https://192.0.2.9:6443
  tokenFile: /srv/api-token
  caFile: /srv/ca.crt
  podsCgroup: /sys/fs/cgroup/kubepods.slice
  kubeletCgroup: /sys/fs/cgroup/system.slice/kubelet.service
  podConditions: omit
"""
FULL = Config(
    node="node-7",
    trust_domain=TrustDomain("example.org"),
    mode=MtlsMode.PERMISSIVE,
    mesh_cidrs=(IPv4Network("10.20.0.0/16"), IPv6Network("fd20::/48"), IPv4Network("192.0.2.0/24")),
    bridge=BridgeConfig("mesh0", IPv4Interface("10.20.1.1/24"), IPv6Interface("fd20::1/64")),
    certificates=CertificatesConfig(timedelta(seconds=10), timedelta(0)),
    paths=PathsConfig(
        state_dir=Path("/srv/state"),
        run_dir=Path("/srv/run"),
        bpf_dir=Path("/sys/fs/bpf/other"),
        cgroup=Path("/sys/fs/cgroup/unified"),
        kernel_headers=Path("/usr/src/linux"),
        policies=Path("/srv/policies"),
        audit=Path("/srv/audit.jsonl"),
    ),
    limits=LimitsConfig(
        timedelta(0), timedelta(milliseconds=100), timedelta(minutes=5), 5, 6, timedelta(hours=12)
    ),
    records=RecordsConfig(Path("/srv/records.jsonl"), 65536),
    metrics_address=Endpoint.parse("[::1]:9000"),
    policy=PolicyConfig("mesh-config", AddressCheck.FLAG),
    authority_address=Endpoint.parse("192.0.2.1:15012"),
    kubernetes=KubernetesConfig(
        Path("/srv/token"),
        Path("/srv/root"),
        "https://192.0.2.9:6443",
        Path("/srv/api-token"),
        Path("/srv/ca.crt"),
        Path("/sys/fs/cgroup/kubepods.slice"),
        Path("/sys/fs/cgroup/system.slice/kubelet.service"),
        pod_conditions=False,
    ),
)
IN_CLUSTER = {
    "NODE_NAME": "node-9",
    "INTERCEPTOR_AUTHORITY_SERVICE_HOST": "10.96.0.7",
    "INTERCEPTOR_AUTHORITY_SERVICE_PORT": "15012",
}
NODE_OF_CLUSTER = "mesh: {cidrs: [10.244.0.0/16]}\nkubernetes: {server: }\n"


def parse(text: str) -> Config:
    return parse_config(text, "config.yaml", node="host-1")


def error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mesh:\nbridge:\n  # name: mesh0\n",
        "paths: {cgroup: , kernelHeaders: null}\n",
        "authority: {address: }\nlimits: {connectionMaxAge: null}\n",
    ],
)
def test_config_that_sets_nothing_is_the_default(text: str) -> None:
    assert parse(text) == DEFAULTS


def test_config_with_every_key_sets_everything() -> None:
    assert parse(FULL_TEXT) == FULL


def test_config_of_a_node_of_a_cluster_takes_name_and_authority_from_the_environment() -> None:
    config = parse_config(NODE_OF_CLUSTER, "config.yaml", node="host-1", environment=IN_CLUSTER)
    assert (config.node, str(config.authority_address)) == ("node-9", "10.96.0.7:15012")
    assert config.kubernetes == KubernetesConfig()
    assert parse_config(config.to_yaml(), "config.yaml", node="elsewhere") == config
    said = f"{NODE_OF_CLUSTER}node: said\nauthority: {{address: '192.0.2.1:1'}}\n"
    config = parse_config(said, "config.yaml", node="host-1", environment=IN_CLUSTER)
    assert (config.node, str(config.authority_address)) == ("said", "192.0.2.1:1")


def test_config_outside_of_a_cluster_takes_nothing_from_the_environment() -> None:
    assert parse_config("", "config.yaml", node="host-1", environment=IN_CLUSTER) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("kubernetes: {server: }", {}, "config.yaml: mesh.cidrs: in a cluster it has no default"),
        (NODE_OF_CLUSTER, {}, "config.yaml: authority.address: in a cluster there must be one"),
        (
            NODE_OF_CLUSTER,
            {"INTERCEPTOR_AUTHORITY_SERVICE_HOST": "fd00::7"},
            "'[fd00::7]:' has no port number",
        ),
        (
            NODE_OF_CLUSTER,
            {**IN_CLUSTER, "NODE_NAME": "Node_9"},
            "to join authority.address",
        ),
    ],
)
def test_config_of_a_cluster_that_lacks_something_says_what(
    text: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.yaml", node="host-1", environment=environment)
    assert message in str(caught.value)


def test_config_records_follow_the_state_directory() -> None:
    assert parse("paths: {state: /srv/a}\n").records.path == Path("/srv/a/connections.jsonl")
    assert parse("paths: {state: /srv/a}\n").paths.audit == Path("/srv/a/audit.jsonl")


@pytest.mark.parametrize("config", [DEFAULTS, FULL])
def test_config_printed_as_yaml_parses_to_itself(config: Config) -> None:
    assert parse_config(config.to_yaml(), "config.yaml", node="elsewhere") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mesh:\n\n  cidr: []\n", "config.yaml:3: unknown key 'mesh.cidr', did you mean 'mesh.cidrs'?"),
        ("trustdomain: a\n", "config.yaml:1: unknown key 'trustdomain', did you mean 'trustDomain'?"),
        ("mode: STRICT\nzzz: 1\n", "config.yaml:2: unknown key 'zzz', the keys are "),
        (
            "mesh.cidrs: [10.0.0.0/8]\n",
            "config.yaml:1: unknown key 'mesh.cidrs', write 'cidrs' on an indented line below 'mesh:'",
        ),
        ("node: {a: 1}\n", "config.yaml:1: unknown key 'node.a', did you mean"),
        ("bridge: mesh0\n", "config.yaml:1: bridge: expected keys inside it"),
        ("bridge: [mesh0]\n", "config.yaml:1: bridge: expected keys inside it"),
        (
            "policy: {addressMismatch: refuse}\n",
            "config.yaml:1: policy.addressMismatch: 'refuse' is neither REFUSE nor FLAG",
        ),
        (
            "policy: {rootNamespace: A}\n",
            "config.yaml:1: policy.rootNamespace: namespace 'A' is not a valid name",
        ),
        ("mode: strict\n", "config.yaml:1: mode: 'strict' is not a mode, use STRICT, PERMISSIVE or DISABLE"),
        ("mode: {}\n", "config.yaml:1: mode: expected a single value"),
        ("mode: [STRICT]\n", "config.yaml:1: mode: expected a single value"),
        ("mode:\n", "config.yaml:1: mode: has no value, give one or remove the line"),
        ("node: 7\n", "config.yaml:1: node: '7' is not text to YAML, put it in quotes"),
        ("node: yes\n", "config.yaml:1: node: 'yes' is not text to YAML, put it in quotes"),
        ("node: a b\n", "config.yaml:1: node: 'a b' is not a node name"),
        ("trustDomain: Example.org\n", "config.yaml:1: trustDomain: trust domain 'Example.org' is not valid"),
        ("mesh: {cidrs: 10.0.0.0/8}\n", "config.yaml:1: mesh.cidrs: expected a list"),
        ("mesh: {cidrs: []}\n", "config.yaml:1: mesh.cidrs: has 0 entries, expected 1 to 256"),
        (
            "mesh:\n  cidrs: [" + ", ".join(f"10.{n // 256}.{n % 256}.0/24" for n in range(257)) + "]\n",
            "config.yaml:2: mesh.cidrs: has 257 entries, expected 1 to 256",
        ),
        (
            "mesh:\n  cidrs:\n    - 10.215.0.0/16\n    - 10.0.0.1/8\n",
            "config.yaml:4: mesh.cidrs: '10.0.0.1/8' has bits set beyond its prefix, did you mean 10.0.0.0/8?",
        ),
        (
            "mesh: {cidrs: [10.215.0.0/16, 'fd15:8::/64', 10.215.0.0/16]}\n",
            "config.yaml:1: mesh.cidrs: 10.215.0.0/16 is there twice, remove one",
        ),
        (
            "bridge:\n  ipv4: 10.1.0.1/16\n",
            "config.yaml:2: bridge.ipv4: 10.1.0.0/16 is not inside any of mesh.cidrs",
        ),
        (
            "bridge:\n  ipv6: fd15::1/16\n",
            "config.yaml:2: bridge.ipv6: fd15::/16 is not inside any of mesh.cidrs",
        ),
        (
            "mode: STRICT\nmesh: {cidrs: [10.215.0.0/16]}\n",
            "config.yaml:2: bridge.ipv6: fd15:8::/64 is not inside any of mesh.cidrs",
        ),
        ("bridge: {name: a/b}\n", "config.yaml:1: bridge.name: 'a/b' is not an interface name"),
        (
            "certificates: {lifetime: 9s}\n",
            "config.yaml:1: certificates.lifetime: 9s is out of range, expected 10s to",
        ),
        ("certificates: {lifetime: 25h}\n", "config.yaml:1: certificates.lifetime: 25h is out of range"),
        ("paths: {state: lib}\n", "config.yaml:1: paths.state: 'lib' is not an absolute path"),
        ("paths: {cgroup: x}\n", "config.yaml:1: paths.cgroup: 'x' is not an absolute path"),
        ("paths: {state: }\n", "config.yaml:1: paths.state: has no value"),
        ("limits: {connectTimeout: 10}\n", "config.yaml:1: limits.connectTimeout: '10' is not text to YAML"),
        (
            "limits: {connectTimeout: 10 s}\n",
            "config.yaml:1: limits.connectTimeout: '10 s' is not a duration",
        ),
        ("limits: {pendingHandshakes: 0}\n", "config.yaml:1: limits.pendingHandshakes: 0 is out of range"),
        ("limits: {recordsBytes: 16M}\n", "config.yaml:1: limits.recordsBytes: '16M' is not a whole number"),
        (
            "authority: {address: ca.example.org}\n",
            "config.yaml:1: authority.address: 'ca.example.org' is not an address and port",
        ),
        (
            "authority: {address: 'ca.example.org:15008'}\n",
            "config.yaml:1: authority.address: port 15008 is the proxy's own",
        ),
        (
            "node: Host_1\nauthority: {address: '192.0.2.1:15012'}\n",
            "config.yaml: to join authority.address, node name 'Host_1' is not valid",
        ),
        ("limits: {connectionMaxAge: 0s}\n", "config.yaml:1: limits.connectionMaxAge: 0s is out of range"),
        (
            "certificates: {expiredPeerGrace: 721h}\n",
            "config.yaml:1: certificates.expiredPeerGrace: 721h is out of range",
        ),
        (
            "metrics: {address: localhost}\n",
            "config.yaml:1: metrics.address: 'localhost' is not an address and port",
        ),
        (
            "metrics: {address: '127.0.0.1:15001'}\n",
            "config.yaml:1: metrics.address: port 15001 is the proxy's own",
        ),
    ],
)
def test_config_invalid_is_refused_with_line_key_and_remedy(text: str, message: str) -> None:
    assert error(text).startswith(message)


def test_config_host_name_that_is_no_node_name_asks_for_node() -> None:
    with pytest.raises(
        ConfigError, match=r"the name of this host, 'my host' is not a node name.*; set 'node'"
    ):
        parse_config("", "config.yaml", node="my host")
    assert parse_config("node: node-1\n", "config.yaml", node="my host").node == "node-1"


keys = st.sampled_from(
    [line.partition(":")[0].strip() for line in FULL_TEXT.splitlines()] + ["cidr", "mesh.cidrs", "<<", "7"]
)
scalars = st.one_of(
    st.sampled_from(
        ["STRICT", "10s", "24h", "7", "10.215.0.1/16", "fd15:8::/64", "/srv", "127.0.0.1:1", "null"]
    ),
    st.text(max_size=8),
)
trees = st.dictionaries(
    keys,
    st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(keys, scalars, max_size=4)),
    max_size=4,
)


@given(trees)
def test_config_any_tree_is_a_config_or_config_error(tree: dict[str, object]) -> None:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {inner}: {scalar}" for inner, scalar in value.items())]
        else:
            lines.append(f"{key}: {value}")
    message = "config.yaml: one line"
    try:
        config = parse("\n".join(lines))
    except ConfigError as refused:
        message = str(refused)
    else:
        assert parse(config.to_yaml()) == config
    assert message.startswith("config.yaml:")
    assert len(message.splitlines()) == 1


@given(st.data())
def test_config_with_any_line_damaged_is_a_config_or_config_error(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FULL_TEXT)))
    cut = data.draw(st.integers(0, 4))
    damaged = FULL_TEXT[:at] + data.draw(st.text(max_size=4)) + FULL_TEXT[at + cut :]
    message = "one line"
    try:
        parse(damaged)
    except ConfigError as refused:
        message = str(refused)
    assert len(message.splitlines()) == 1
