"""A pod is recognised by the name of its cgroup, whichever driver made it, and nothing else is."""

import pytest

from interceptor.node_pods.pod_cgroup import is_class_cgroup, is_static_pod_cgroup, uid_of_pod_cgroup

UID = "0b1f8c5e-6a1d-4c57-9a3e-1f2d3c4b5a69"
SYSTEMD = UID.replace("-", "_")


@pytest.mark.parametrize(
    "name",
    [
        f"pod{UID}",
        f"kubepods-pod{SYSTEMD}.slice",
        f"kubepods-burstable-pod{SYSTEMD}.slice",
        f"kubelet-kubepods-besteffort-pod{SYSTEMD}.slice",
    ],
)
def test_cgroup_of_a_pod_leads_to_its_uid(name: str) -> None:
    assert uid_of_pod_cgroup(name) == UID


@pytest.mark.parametrize(
    "name",
    [
        "",
        "kubepods",
        "pod",
        f"pod{SYSTEMD}",
        f"pod{UID.upper()}",
        f"pod{UID}x",
        f"pod{UID[:-1]}-",
        f"x-pod{UID}.slice",
        f"kubepods-pod{SYSTEMD}",
        f"kubepods-pod{'_' * 36}.slice",
        f"cri-containerd-{'ab' * 32}.scope",
        "pod0123456789abcdef0123456789abcdef",  # a static pod's
    ],
)
def test_cgroup_of_something_else_leads_nowhere(name: str) -> None:
    assert uid_of_pod_cgroup(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("burstable", True),
        ("besteffort", True),
        ("kubepods-burstable.slice", True),
        ("kubelet-kubepods-besteffort.slice", True),
        ("user.slice", False),
        (f"kubepods-burstable-pod{SYSTEMD}.slice", False),
    ],
)
def test_cgroup_of_a_class_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_class_cgroup(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"pod{'0a' * 16}", True),
        (f"kubepods-burstable-pod{'0a' * 16}.slice", True),
        (f"pod{UID}", False),
        (f"kubepods-burstable-pod{SYSTEMD}.slice", False),
        (f"pod{'0a' * 16}.slice", False),
    ],
)
def test_cgroup_of_a_static_pod_is_known_by_its_hash(name: str, expected: bool) -> None:
    assert is_static_pod_cgroup(name) is expected
