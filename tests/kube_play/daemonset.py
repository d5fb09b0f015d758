"""`make test-manifest`: the shipped DaemonSet and the shipped image, under a container runtime.

What `interceptor kubernetes manifests` prints is played by podman 5's `kube play`, which knows DaemonSets, hostPID,
capabilities, mounts and mount propagation as a kubelet does, with the image of `make image`. There is no controller, no
kubelet that probes, and no API server but the one made for tests.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.cluster.cluster import Kind
from interceptor.manifests.names import AGENT
from interceptor.pod_admission.token_review import AUDIENCE
from tests.cluster import api_objects
from tests.harness import slot as slots
from tests.harness.cluster import API_TOKEN, ClusterApi, ClusterAuthority
from tests.harness.fabric import Fabric
from tests.harness.process import CLI, Program, run, wait_until
from tests.harness.wire import Wire
from tests.kube_play import documents
from tests.kube_play.node import HERE, PlayNode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(300)]

NAMESPACE = "interceptor"
IMAGE = "localhost/interceptor:played"
POD, CONTAINER = f"{AGENT}-pod", f"{AGENT}-pod-agent"
MARKER = "what goes between two containers"
PORT = 7000
SERVER = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
socketserver.ThreadingTCPServer(("", {PORT}), Echo).serve_forever()
"""
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as sock:
        sock.sendall(sys.argv[3].encode())
        print("answered" if sock.recv(1000) == sys.argv[3].encode() else "ended", flush=True)
except OSError as error:
    print("refused", error, flush=True)
"""
EARLY = f"{ASK}\nimport time\ntime.sleep(3600)"


class Played:
    """The node, the API and the authority; the agent is played by the first test."""

    def __init__(self, fabric: Fabric, api: ClusterApi, authority: ClusterAuthority, node: PlayNode) -> None:
        self.fabric, self.api, self.authority, self.node = fabric, api, authority, node
        self.texts: dict[str, str] = {}  # what was played, by its name
        network = str(node.slot.mesh_ipv4)
        node.podman("network", "create", "--disable-dns", "--subnet", network, "pods").check()

    def play(self, name: str, text: str, *options: str) -> None:
        self.texts[name] = text
        self.node.podman("kube", "play", *options, "-", input_bytes=text.encode()).check()

    def down(self, name: str) -> None:
        text = self.texts.pop(name)
        self.node.podman("kube", "down", "-", input_bytes=text.encode()).check()

    def agent_documents(self) -> str:
        """Printed by the command that operators use, for a cluster whose API is ours."""
        command = [CLI, "kubernetes", "manifests", "--image", IMAGE, "--mesh-cidr", str(self.node.slot.mesh_ipv4)]
        printed = run([*command, "--cgroup", self.node.cgroup]).check().stdout
        root = x509.load_pem_x509_certificate(next(self.authority.directory.rglob("root.pem")).read_bytes())
        account = {"token": API_TOKEN.encode(), "ca.crt": self.api.ca_file.read_bytes()}
        return documents.agent(
            printed,
            node=self.node.name,
            root_fingerprint=hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest(),
            account=account,
            join_token="token.of-the_agent",
            services={
                "KUBERNETES": self.api.url.removeprefix("https://"),
                "INTERCEPTOR_AUTHORITY": self.authority.address,
            },
        )

    def show_agent(self) -> None:
        """As a cluster's API shows the DaemonSet's pod on this node."""
        path = f"{NAMESPACE}/{POD}"
        shown = api_objects.pod(path, self.node.address, account=AGENT, node=self.node.name, host_network=True)
        self.api.put(Kind.POD, shown)

        def know(server: Any) -> None:
            server.bind_token("token.of-the_agent", path, account=AGENT, node=self.node.name, audience=AUDIENCE)
            server.daemonsets[AGENT] = {"metadata": {"name": AGENT, "namespace": NAMESPACE, "uid": "uid-daemonset"}}

        self.api.do(know)

    def agent_says(self, *command: str) -> Any:
        """Ask the agent by its command line, in its container."""
        inside = ("exec", CONTAINER, "interceptor", "--config", "/etc/interceptor/config.yaml", *command)
        return json.loads(self.node.podman(*inside, "-o", "json").check().stdout)

    def start_pod(self, name: str, *command: str) -> tuple[str, str]:
        """Play a pod of `shop`, and say nothing to the API; its UID and its address."""
        uid = str(uuid.uuid4())
        self.play(name, documents.pod(name, uid, IMAGE, "/usr/bin/python3", "-c", *command), "--network=pods")
        found = json.loads(self.node.podman("pod", "inspect", name).check().stdout)
        infra = (found[0] if isinstance(found, list) else found)["InfraContainerID"]
        (inspected,) = json.loads(self.node.podman("inspect", infra).check().stdout)
        return uid, str(ip_address(inspected["NetworkSettings"]["Networks"]["pods"]["IPAddress"]))

    def show_pod(self, name: str, uid: str, address: str) -> None:
        """Tell the API, and wait until the agent has it, with a certificate."""
        self.api.put(Kind.POD, api_objects.pod(f"shop/{name}", address, account=name, node=self.node.name, uid=uid))

        def is_enrolled() -> bool:
            found = [each for each in self.agent_says("workloads") if each["name"] == name]
            return [(each["pod_uid"], each["state"]) for each in found] == [(uid, "ready")]

        wait_until(is_enrolled, f"{name} is enrolled", 30, poll=0.2)

    def ask(self, name: str, address: str) -> str:
        """What a program in a pod is answered."""
        command = ("/usr/bin/python3", "-c", ASK, address, str(PORT), MARKER)
        return self.node.podman("exec", f"{name}-main", *command).check().stdout.strip()

    def link_of(self, name: str) -> str:
        """The node's end of a pod's link."""
        inside = self.node.podman("exec", f"{name}-main", "cat", "/sys/class/net/eth0/iflink").check().stdout
        found = self.node.run("ip", "-json", "link").check().stdout
        return next(str(link["ifname"]) for link in json.loads(found) if link["ifindex"] == int(inside))

    def is_ready(self) -> bool:
        port = "15020"
        asked = run(["nsenter", f"--net={self.node.netns_path}", "--", "curl", "-s", f"127.0.0.1:{port}/ready"])
        return asked.status == 0 and "ready" in asked.stdout.split()


@pytest.fixture(scope="module")
def played(_swept: None) -> Iterator[Played]:
    cache = Path(run([HERE / "build"], timeout=1800).check().stdout.splitlines()[-1])
    own, other = slots.acquire(), slots.acquire()
    try:
        fabric = Fabric(own)
        api = ClusterApi(fabric)
        authority = ClusterAuthority(fabric, api, f"{NAMESPACE}/{AGENT}")
        authority.start()
        node = PlayNode(other, fabric, 1, cache)
        try:
            yield Played(fabric, api, authority, node)
        finally:
            node.close()
            authority.stop()
            api.close()
            fabric.close()
    finally:
        other.release()
        own.release()


def test_shipped_daemonset_starts_enrols_pods_and_leaves_nothing(played: Played) -> None:
    node = played.node
    played.api.namespace(NAMESPACE, {})
    played.api.namespace("shop")
    played.show_agent()
    played.play("agent", played.agent_documents())
    wait_until(played.is_ready, "the agent is ready", 60, poll=0.2)

    server = played.start_pod("server", SERVER)
    played.show_pod("server", *server)
    with Wire([played.link_of("server")], MARKER.encode(), netns=node.netns):
        client = played.start_pod("client", EARLY, server[1], str(PORT), MARKER)
        played.show_pod("client", *client)
        wait_until(lambda: "answered" in node.podman("logs", "client-main").stdout, "it is answered", poll=0.2)
        assert played.ask("client", server[1]) == "answered"
    records = played.agent_says("connections")
    assert {(each["source_identity"], each["destination_identity"], each["tls_version"]) for each in records} == {
        ("spiffe://cluster.local/ns/shop/sa/client", "spiffe://cluster.local/ns/shop/sa/server", "TLSv1.3")
    }
    outside = run(["nsenter", f"--net={node.netns_path}", "--", "/usr/bin/python3", "-c", ASK, server[1], str(PORT), MARKER])
    assert outside.stdout.startswith("refused")

    for name in ("client", "server"):
        played.down(name)
        played.api.delete(Kind.POD, f"shop/{name}")
    played.api.do(lambda api: api.daemonsets.clear())  # `kubectl delete` has been heard of
    played.down("agent")
    print(node.processes(), node.podman("ps", "-a").stdout, node.run("sh","-c","ls -R /sys/fs/bpf /run/interceptor /var/lib/interceptor; ip -br a; ls /run/netns; podman volume ls; podman secret ls").stdout)
