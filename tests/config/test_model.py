"""The defaults are the documented ones, and every duration can be written down."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
import yaml

from interceptor.config import CertificatesConfig, Config
from interceptor.policy.peer_authentication import MtlsMode


def test_defaults_are_the_documented_ones() -> None:
    config = Config(node="host-1")
    assert str(config.trust_domain) == "cluster.local"
    assert config.mode is MtlsMode.STRICT
    assert config.mesh_cidrs == (IPv4Network("10.215.0.0/16"), IPv6Network("fd15:8::/64"))
    assert (config.bridge.name, str(config.bridge.ipv4), str(config.bridge.ipv6)) == (
        "interceptor0",
        "10.215.0.1/16",
        "fd15:8::1/64",
    )
    assert config.certificates.lifetime == timedelta(hours=24)
    assert config.certificates.expired_peer_grace == timedelta(hours=1)
    assert config.limits.connection_max_age is None
    assert config.authority_address is None
    assert config.kubernetes is None
    assert config.records.path == Path("/var/lib/interceptor/connections.jsonl")
    assert config.records.max_bytes == 16 * 2**20
    assert str(config.metrics_address) == "127.0.0.1:15020"


@pytest.mark.parametrize(
    ("duration", "written"),
    [
        (timedelta(0), "0h"),
        (timedelta(milliseconds=1500), "1500ms"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=5), "5m"),
        (timedelta(hours=24), "24h"),
    ],
)
def test_yaml_durations_use_the_largest_exact_unit(duration: timedelta, written: str) -> None:
    config = replace(Config(node="host-1"), certificates=CertificatesConfig(duration))
    assert yaml.safe_load(config.to_yaml())["certificates"]["lifetime"] == written
