"""Which pod a cgroup is, by its name, in the spellings of the kubelet's two cgroup drivers.

cgroupfs: `kubepods/burstable/pod<uid>`. systemd: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`,
where a `-` in the UID is a `_`, since systemd takes it for a level of the hierarchy (systemd.slice(5)); below a cgroup of
the kubelet's choice (`--cgroup-root`) the names begin with that. Source: kubelet, `pkg/kubelet/cm/pod_container_manager`.
"""

import re
from typing import Final

# The names of the cgroup of all pods, of both drivers.
PARENTS: Final = ("kubepods.slice", "kubepods")
_UID = "[0-9a-f]{8}([-_])[0-9a-f]{4}\\2[0-9a-f]{4}\\2[0-9a-f]{4}\\2[0-9a-f]{12}"
_CGROUPFS = re.compile("pod([0-9a-f-]{36})")
_SYSTEMD = re.compile("[A-Za-z0-9_.-]*-pod([0-9a-f_]{36})\\.slice")
_POD = re.compile(f"({_UID})")
_STATIC = re.compile("(?:pod[0-9a-f]{32}|[A-Za-z0-9_.-]*-pod[0-9a-f]{32}\\.slice)")
_CLASS = re.compile("(?:[A-Za-z0-9_.-]*-)?(?:burstable|besteffort|guaranteed)(?:\\.slice)?")


def uid_of_pod_cgroup(name: str) -> str | None:
    """The UID of the pod whose cgroup has this name, in the API's spelling; None for every other cgroup.

    Static pods have another name there (`is_static_pod_cgroup`).
    """
    found = _CGROUPFS.fullmatch(name) or _SYSTEMD.fullmatch(name)
    if found is None or _POD.fullmatch(found[1]) is None:
        return None
    return found[1].replace("_", "-")


def is_static_pod_cgroup(name: str) -> bool:
    """Whether it is that of a static pod: named by a hash of its file, which is no UID that the API knows."""
    return _STATIC.fullmatch(name) is not None


def is_class_cgroup(name: str) -> bool:
    """Whether it is that of a class of pods (kubernetes.io, "Quality of Service classes"), with pods inside."""
    return _CLASS.fullmatch(name) is not None
