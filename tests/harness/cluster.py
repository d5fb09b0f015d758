"""A cluster without Kubernetes: an API server made for tests, the authority, and nodes whose pods are namespaces in cgroups.

The test is scheduler, kubelet and network plugin: what it makes on a node it says in the API, or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.cluster.cluster import Kind
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.pod_admission.token_review import AUDIENCE
from tests.cluster import api_objects
from tests.harness import slot as slots
from tests.harness.authority import Authority
from tests.harness.fabric import Fabric, FabricNode
from tests.harness.namespace import Namespace
from tests.harness.process import Program, Result, run, wait_until
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.certificates import write_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.harness.slot import Slot

T = TypeVar("T")
API_TOKEN = "api-token-of-everybody"
AGENTS = "mesh/agent"
_JOIN = 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"'


class ClusterApi:
    """The API server, in a thread inside the fabric's namespace; its objects are changed by calls from the test."""

    def __init__(self, fabric: Fabric) -> None:
        directory = fabric.slot.directory / "api"
        self.ca_file, certificate, key = write_certificates(directory, fabric.authority_address)
        self.token_file = directory / "token"
        self.token_file.write_text(API_TOKEN)
        self._api = ApiServer(token=API_TOKEN, bookmark_seconds=0.5, host=fabric.authority_address)
        self._fabric = fabric
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(certificate, key), name="API server")
        self._thread.start()
        assert self._started.wait(20), "the API server runs"

    def _run(self, certificate: Path, key: Path) -> None:
        with self._fabric.netns.entered():  # for this thread's whole life
            trio.run(self._serve, certificate, key)

    async def _serve(self, certificate: Path, key: Path) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            await nursery.start(self._api.serve, certificate, key)
            self._started.set()

    @property
    def url(self) -> str:
        return self._api.url

    def do(self, change: Callable[[ApiServer], T]) -> T:
        """Do something with the server, in its thread."""
        return trio.from_thread.run_sync(change, self._api, trio_token=self._token)

    def put(self, kind: Kind, value: dict[str, Any]) -> None:
        """Add or change an object."""
        self.do(lambda api: api.put(kind, value))

    def delete(self, kind: Kind, key: str) -> None:
        """Remove the object `namespace/name`."""
        self.do(lambda api: api.delete(kind, key))

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Have a namespace with these labels; in the mesh unless others are given."""
        self.put(
            Kind.NAMESPACE,
            api_objects.namespace(name, labels=api_objects.MESH if labels is None else labels),
        )

    def close(self) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(20)


class ClusterNode(FabricNode):
    """A node of the cluster; its agent is told of the API and of the authority by `join`."""

    driver = "cgroupfs"

    def __init__(self, slot: Slot, fabric: Fabric, number: int, **options: Any) -> None:
        super().__init__(slot, fabric, number, **options)
        self._next = iter(range(10, 200))
        self._made: list[Pod] = []
        (slot.cgroup / ("kubepods" if self.driver == "cgroupfs" else "kubepods.slice")).mkdir()
        self.kubelet_cgroup = slot.cgroup / "kubelet.service"
        self.kubelet_cgroup.mkdir()
        with self.netns.entered():
            netlink.ensure_bridge("cni0", slot.bridge_ipv4, slot.bridge_ipv6)

    def join(self, api: ClusterApi, authority: Authority) -> None:
        """Write what a DaemonSet would mount, and start the agent."""
        root = x509.load_pem_x509_certificate(next(authority.directory.rglob("root.pem")).read_bytes())
        fingerprint = hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
        (self.directory / "root.sha256").write_text(f"{fingerprint}\n")
        (self.directory / "token").write_text(f"token.of-agent_{self.name}\n")
        agent = api_objects.pod(
            f"mesh/agent-{self.name}", self.address, account="agent", node=self.name, host_network=True
        )
        api.put(Kind.POD, agent)
        api.do(
            lambda server: server.bind_token(
                f"token.of-agent_{self.name}",
                f"mesh/agent-{self.name}",
                account="agent",
                node=self.name,
                audience=AUDIENCE,
            )
        )
        self.write_config(
            {
                **self.config,
                "authority": {"address": authority.address},
                "kubernetes": {
                    "server": api.url,
                    "tokenFile": str(api.token_file),
                    "caFile": str(api.ca_file),
                    "joinTokenFile": str(self.directory / "token"),
                    "rootFile": str(self.directory / "root.sha256"),
                    "kubeletCgroup": str(self.kubelet_cgroup),
                },
            }
        )
        self.up().check()

    def start_pod(self, path: str, *, host: int | None = None, uid: str | None = None, **spec: Any) -> Pod:
        """What a kubelet makes of a pod `namespace/name`: a namespace, a cgroup, and a process that holds both."""
        uid = uid or str(uuid.uuid4())
        number = next(self._next) if host is None else host
        made = Pod(self, path, uid, number, spec, self.pod_cgroup(uid))
        self._made.append(made)
        return made

    def start_stranger(self, name: str) -> Pod:
        """The same outside of all that Kubernetes knows of: not below the pods' cgroup."""
        uid = str(uuid.uuid4())
        cgroup = self.slot.cgroup / "system.slice" / uid
        made = Pod(self, f"nowhere/{name}", uid, next(self._next), {}, cgroup)
        self._made.append(made)
        return made

    def pod_cgroup(self, uid: str) -> Path:
        """In the spelling of the node's cgroup driver."""
        if self.driver == "cgroupfs":
            return self.slot.cgroup / "kubepods" / "burstable" / f"pod{uid}" / ("ab" * 32)
        name = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        parents = self.slot.cgroup / "kubepods.slice" / "kubepods-burstable.slice"
        return parents / name / f"cri-containerd-{'cd' * 32}.scope"

    def as_kubelet(self, *command: str | Path) -> Result:
        """Run a program as the kubelet does: in its cgroup, and in the node's network namespace."""
        inside = ["sh", "-c", _JOIN, "sh", str(self.kubelet_cgroup)]
        return run([*inside, "nsenter", f"--net={self.netns_path}", "--", *map(str, command)])

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods as the agent's status shows them, by namespace and name."""
        return {f"{each['namespace']}/{each['name']}": each for each in self.status()["kubernetes"]["pods"]}

    def enrolled(self) -> dict[str, dict[str, Any]]:
        """What is enrolled, by namespace and name."""
        return {f"{each['namespace']}/{each['name']}": each for each in self.workloads()}

    def close_namespaces(self) -> None:
        for pod in reversed(self._made):
            pod.close()
        self._made.clear()
        super().close_namespaces()


class SystemdNode(ClusterNode):
    """One whose kubelet lets systemd make its cgroups."""

    driver = "systemd"


class Pod(Namespace):
    """A pod that runs: programs in it are in its network namespace and its cgroup."""

    def __init__(
        self, node: ClusterNode, path: str, uid: str, number: int, spec: dict[str, Any], cgroup: Path
    ) -> None:
        self.node, self.path, self.uid, self.spec = node, path, uid, spec
        slot = node.slot
        self.cgroup = cgroup
        self.cgroup.mkdir(parents=True)
        ipv4, ipv6 = slot.mesh_ipv4[number], slot.mesh_ipv6[number]
        netns_path = slot.directory / "netns" / f"pod-{uid}"
        interfaces = (
            IPv4Interface((ipv4, slot.mesh_ipv4.prefixlen)),
            IPv6Interface((ipv6, slot.mesh_ipv6.prefixlen)),
        )
        gateways = (slot.bridge_ipv4.ip, slot.bridge_ipv6.ip)
        link = f"veth{uid[:8]}"
        with kernel_netns.create_named(netns_path) as netns, node.netns.entered():
            netlink.attach_to_bridge("cni0", netns, link, interfaces, gateways)
        self.namespace, _, name = path.partition("/")
        super().__init__(
            name, netns_path, link, [ip_address(ipv4), ip_address(ipv6)], node.files, slot.journal
        )
        stem = node.files / f"pause-{uid}"
        self._pause = Program(self.enter(["sleep", "infinity"]), stem, slot.journal)
        self._is_closed = False

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        return ["sh", "-c", _JOIN, "sh", str(self.cgroup), *super().enter(command)]

    def json(self, **changes: Any) -> dict[str, Any]:
        """The pod as the API shows it."""
        options = {"account": "default", "uid": self.uid, "node": self.node.name, **self.spec, **changes}
        addresses = options.pop("addresses", (self.ipv4, self.ipv6))
        probed = options.pop("probed", ())
        shown = api_objects.pod(self.path, *addresses, **options)
        probes = [{"readinessProbe": {"tcpSocket": {"port": port}}} for port in probed]
        return {**shown, "spec": {**shown["spec"], "containers": probes}}

    def kill(self) -> None:
        """End everything in it, as a kubelet does; its namespace stays as long as anybody holds it."""
        self.stop_programs()
        self._pause.stop()

    def close(self) -> None:
        """End and remove it; the API is not told."""
        if self._is_closed:
            return
        self._is_closed = True
        self.kill()
        super().close()
        wait_until(lambda: not (self.cgroup / "cgroup.procs").read_text(), "the cgroup is empty")
        for path in (self.cgroup, self.cgroup.parent):
            path.rmdir()

    def _strangers(self) -> tuple[int, ...]:
        # By the cgroup: an agent is in the network namespace for a moment now and then.
        pids = map(int, (self.cgroup / "cgroup.procs").read_text().split())
        return tuple(pid for pid in pids if pid != self._pause.pid)


class Cluster:
    """Everything: `fabric`, `api`, `authority`, and `nodes`, whose agents run."""

    def __init__(
        self, fabric: Fabric, api: ClusterApi, authority: Authority, nodes: list[ClusterNode]
    ) -> None:
        self.fabric = fabric
        self.api = api
        self.authority = authority
        self.nodes = nodes

    def run_pod(self, node: ClusterNode, path: str, **options: Any) -> Pod:
        """Start a pod, tell the API, and wait until it is enrolled with a certificate."""
        pod = node.start_pod(path, **options)
        self.api.put(Kind.POD, pod.json())
        self.wait_enrolled(pod)
        return pod

    def wait_enrolled(self, pod: Pod) -> None:
        def is_ready() -> bool:
            found = pod.node.enrolled().get(pod.path)
            return found is not None and found["pod_uid"] == pod.uid and found["state"] == "ready"

        try:
            wait_until(is_ready, f"{pod.path} is enrolled", 15, poll=0.05)
        except TimeoutError as error:
            raise AssertionError(
                f"{error}: {pod.node.pods()} {pod.node.enrolled()}\n{pod.node.log()[-3000:]}"
            ) from None


class ClusterAuthority(Authority):
    """`interceptor ca serve` that admits by the pods of the API; `agents` is the nodes' service account."""

    def __init__(self, fabric: Fabric, api: ClusterApi, agents: str = AGENTS) -> None:
        super().__init__(fabric)
        self._api, self._agents = api, agents

    def command(self) -> list[str | Path]:
        options = ["--kubernetes", self._api.url, "--agents", self._agents]
        files = ["--kubernetes-token-file", self._api.token_file, "--kubernetes-ca-file", self._api.ca_file]
        return [*super().command(), *options, *files]


@contextlib.contextmanager
def cluster_of(count: int, **options: Any) -> Iterator[Cluster]:
    """A cluster of `count` nodes whose agents run; every second one has systemd as its kubelet's cgroup driver."""
    with contextlib.ExitStack() as stack:
        taken = [slots.acquire() for _ in range(count + 1)]
        for slot in taken:
            stack.callback(slot.release)
        own, *others = taken
        fabric = Fabric(own)
        stack.callback(fabric.close)
        api = ClusterApi(fabric)
        stack.callback(api.close)
        authority = ClusterAuthority(fabric, api)
        cidrs = [str(cidr) for slot in taken for cidr in (slot.mesh_ipv4, slot.mesh_ipv6)]
        nodes = []
        for number, slot in enumerate(others, start=1):
            sort = (SystemdNode, ClusterNode)[number % 2]
            node = sort(slot, fabric, number, mesh={"cidrs": cidrs}, **options)
            stack.callback(node.close)
            fabric.join(node)
            nodes.append(node)
        authority.start()
        stack.callback(authority.stop)
        for node in nodes:
            stack.callback(node.close_namespaces)
            node.join(api, authority)
        yield Cluster(fabric, api, authority, nodes)
