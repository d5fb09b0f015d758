"""A node whose kubelet is `podman kube play`: a Debian of its own, in namespaces that end with the process that made them.

Nothing of it is in the machine's network, cgroups (but directories with the slot's name), mounts or container storage.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.kernel import netns as kernel_netns
from tests.harness.process import Program, Result, run
from tests.kube_play import cgroups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness.fabric import Fabric
    from tests.harness.slot import Slot

HERE = Path(__file__).parent
IMAGES = "/var/lib/images"
UID = "uid.test.interceptor.io"  # the annotation by which as-kubelet knows a pod
_HOOK = {
    "version": "1.0.0",
    "hook": {"path": "/etc/containers/oci/hooks.d/as-kubelet"},
    "when": {"annotations": {f"^{UID}$": "."}},
    "stages": ["createRuntime"],
}
# Only leaves of cgroup v2 may have processes, so the first one moves into one once it has seen the root from the inside.
_INIT = """
set -eu
hostname "$1"
cat >/etc/containers/storage.conf <<END
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = ["$2"]
END
shift 2
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
if [ $# -gt 1 ]; then mount -t tmpfs tmpfs /sys/fs/cgroup; fi
for each; do
    mkdir -p "${each#*:}"
    if [ "${each%%:*}" = cgroup2 ]; then
        mount -t cgroup2 cgroup2 "${each#*:}"
        mkdir -p "${each#*:}/init"
        echo 1 >"${each#*:}/init/cgroup.procs"
    else
        mount -t cgroup -o "${each%%:*}" cgroup "${each#*:}"
    fi
done
mount --make-rshared /
touch /run/is-up
exec sleep infinity
"""
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
# Without systemd nobody asks a container how it is.
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DISABLE_HC_SYSTEMD=true",
    "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
)


class PlayNode:
    """`podman` runs one of podman's commands on it; `name` is the node's, `address` its own on the fabric."""

    def __init__(self, slot: Slot, fabric: Fabric, number: int, cache: Path) -> None:
        self.slot, self.name = slot, slot.name
        self.address, self.ipv6_address = str(fabric.ipv4(number)), str(fabric.ipv6(number))
        self.netns_path = slot.directory / "netns" / "node"
        self.netns = kernel_netns.create_named(self.netns_path)
        fabric.plug_in(self, number)
        self._hierarchies = cgroups.hierarchies()
        self._places = [cgroups.make(each, slot.name) for each in self._hierarchies]
        self._init = self._start(cache)
        (child,) = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._target = f"--target={child}"

    @property
    def cgroup(self) -> Path:
        """Where the node sees cgroup v2."""
        return next(each.mount for each in self._hierarchies if each.is_v2)

    def podman(self, *arguments: str | Path, timeout: float = 60, input_bytes: bytes = b"") -> Result:
        return self.run("podman", *arguments, timeout=timeout, input_bytes=input_bytes)

    def run(self, *command: str | Path, timeout: float = 60, input_bytes: bytes = b"") -> Result:
        """Run a program on the node, beside its containers, to its end."""
        return run(self._enter(command), timeout=timeout, input_bytes=input_bytes)

    def processes(self) -> list[str]:
        """The command lines of everything that runs on it, but its first process."""
        found = self.run("sh", "-c", "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$each; echo; done").stdout
        return [line for line in found.splitlines() if line and not line.startswith(("sleep infinity", "sh -c"))]

    def close(self) -> None:
        """End everything on it at once, and remove it."""
        self._init.signal(signal.SIGKILL)
        self._init.wait()
        for each in self._hierarchies:
            cgroups.remove(each, self.slot.name)
        self.netns.close()
        kernel_netns.remove_named(self.netns_path)

    def _start(self, cache: Path) -> Program:
        directory = self.slot.directory
        hooks, storage, working = (directory / name for name in ("hooks", "storage", "working"))
        for path in (hooks, storage, working):
            path.mkdir()
        shutil.copy(HERE / "as-kubelet", hooks)
        (hooks / "as-kubelet.json").write_text(json.dumps(_HOOK))
        binds = {
            hooks: "/etc/containers/oci/hooks.d",
            storage: "/var/lib/containers/storage",
            cache / "storage": IMAGES,
            Path("/dev"): "/dev",
        }
        seen = [f"{source}:{target}" for source, target in binds.items()]
        within = [HERE / "private", cache / "root", working, *seen, "--", "sh", "-c", _INIT, "sh", self.name, IMAGES]
        within += [each.to_mount for each in self._hierarchies]
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup"]
        command = [*_join(self._places), "nsenter", f"--net={self.netns_path}", "--", "unshare", *namespaces, "--"]
        init = Program(["setpriv", "--pdeathsig", "KILL", *command, *within], directory / "init", self.slot.journal)
        init.wait_until((working / "changed/run/is-up").exists, "is up")
        # Only leaves of cgroup v2 may have processes; the node's first process knows that too.
        self._places = [cgroups.leaf(each, self.slot.name) for each in self._hierarchies]
        for place in self._places:
            (place / "cgroup.procs").write_text(str(init.pid))
        return init

    def _enter(self, command: Sequence[str | Path]) -> list[str | Path]:
        namespaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"]
        inside = ["nsenter", self._target, *namespaces, "--", "env", "-i", *_ENVIRONMENT]
        return [*_join(self._places), *inside, *command]


def _join(places: Sequence[Path]) -> list[str | Path]:
    """What makes a command line run in these cgroups."""
    return ["sh", "-c", _JOIN, "sh", *places, "--"]
