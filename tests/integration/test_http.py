"""curl to nginx: HTTP/1.1 and HTTP/2, small and large, over IPv4 and IPv6."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import FAMILIES, family_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of the web page: 5be1c7"
GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20
HTTP2_PORT = 8082

CONFIGURATION = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    sendfile on;
    access_log {directory}/access.log combined;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 80;
        listen [::]:80;
        listen {http2_port} http2;
        listen [::]:{http2_port} http2;
        root {directory}/www;
    }}
}}
"""


class Web:
    """nginx in a workload of its own, and what it serves."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        self.workload = workload
        self.directory = directory
        self.root = directory / "www"

    def requests_from(self, address: str) -> list[str]:
        """The lines of its access log with this client address."""
        lines = (self.directory / "access.log").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{address} ")]


@pytest.fixture(scope="module")
def web(shared_node: Node) -> Iterator[Web]:
    workload = shared_node.workload("web")
    directory = shared_node.files / "nginx"
    served = Web(workload, directory)
    served.root.mkdir(parents=True)
    (served.root / "page").write_bytes(MARKER)
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, http2_port=HTTP2_PORT))
    workload.spawn("nginx", "-c", configuration, ready_port=HTTP2_PORT)
    yield served
    workload.close()


@pytest.fixture(scope="module")
def gibibyte(web: Web) -> Iterator[str]:
    """The SHA-256 of the file `gibibyte`: a number, and the marker, in every mebibyte, and nothing between them."""
    digest = hashlib.sha256()
    path = web.root / "gibibyte"
    with path.open("wb") as file:
        for number in range(GIBIBYTE // MEBIBYTE):
            begin = number.to_bytes(8, "big") + MARKER
            digest.update(begin.ljust(MEBIBYTE, b"\0"))
            file.seek(number * MEBIBYTE)
            file.write(begin)
        file.truncate(GIBIBYTE)
    yield digest.hexdigest()
    path.unlink()


@each_family
@pytest.mark.parametrize(("version", "port"), [("--http1.1", 80), ("--http2-prior-knowledge", HTTP2_PORT)])
def test_page_arrives_encrypted_and_the_access_log_has_the_clients_address(
    shared_node: Node, shared_client: Workload, web: Web, family: int, version: str, port: int
) -> None:
    since = shared_node.mark()
    before = len(web.requests_from(shared_client.address(family)))
    url = web.workload.url(family, "/page", port)
    with shared_node.wire(shared_client, web.workload, marker=MARKER):
        result = shared_client.run("curl", "-sS", version, "-w", " %{http_code} %{http_version}", url).check()
    expected = "2" if port == HTTP2_PORT else "1.1"
    assert result.stdout_bytes == MARKER + f" 200 {expected}".encode()
    assert_mutual_tls(shared_node.wait_for_pair(since=since), shared_client, web.workload)
    requests = web.requests_from(shared_client.address(family))[before:]
    assert len(requests) == 1
    assert re.search(
        rf'"GET /page HTTP/{2.0 if port == HTTP2_PORT else 1.1}" 200 {len(MARKER)} ', requests[0]
    )


def test_request_is_encrypted_too(shared_node: Node, shared_client: Workload, web: Web) -> None:
    marker = b"marker-of-the-request-91d2"
    with shared_node.wire(shared_client, web.workload, marker=marker):
        shared_client.run(
            "curl", "-sS", "-H", f"X-Secret: {marker.decode()}", web.workload.url(FAMILIES[0], "/page")
        ).check()


def test_server_is_found_by_its_name(shared_client: Workload, web: Web) -> None:
    del web
    for address in ("-4", "-6"):
        result = shared_client.run("curl", "-sS", address, "http://web.default/page").check()
        assert result.stdout_bytes == MARKER


def test_many_requests_share_one_kept_connection(
    shared_node: Node, shared_client: Workload, web: Web
) -> None:
    since = shared_node.mark()
    url = web.workload.url(FAMILIES[0], "/page")
    result = shared_client.run("curl", "-sS", *[url] * 50).check()
    assert result.stdout_bytes == MARKER * 50
    outbound, _ = shared_node.wait_for_pair(since=since)
    assert outbound["bytes_received"] > 50 * len(MARKER)
    assert len([r for r in shared_node.records(since) if r["direction"] == "outbound"]) == 1


def test_parallel_requests_are_all_answered(shared_client: Workload, web: Web) -> None:
    url = web.workload.url(FAMILIES[1], "/page")
    result = shared_client.run("curl", "-sS", "--http1.1", "-Z", "--parallel-max", "20", *[url] * 40).check()
    assert result.stdout_bytes == MARKER * 40


@pytest.mark.timeout(90)
@each_family
def test_download_of_one_gibibyte_has_the_right_hash(
    shared_node: Node, shared_client: Workload, web: Web, gibibyte: str, family: int
) -> None:
    since = shared_node.mark()
    url = web.workload.url(family, "/gibibyte")
    with shared_node.wire(web.workload, marker=MARKER) as wire:
        result = shared_client.run("sh", "-c", f"curl -sS '{url}' | sha256sum", timeout=80).check()
    assert result.stdout.split()[0] == gibibyte
    assert wire.tcp_payload_bytes > GIBIBYTE
    outbound, inbound = shared_node.wait_for_pair(since=since)
    assert_mutual_tls((outbound, inbound), shared_client, web.workload)
    assert outbound["bytes_received"] == inbound["bytes_received"] > GIBIBYTE
