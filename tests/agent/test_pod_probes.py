"""Who is taken for the kubelet: never a cgroup that the pods are in too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interceptor.agent.pod_probes import PodProbes

ROOT = Path("/cgroup")


class ProbesOfTests:
    """Remembers who was taken for the kubelet last."""

    def __init__(self) -> None:
        self.kubelet: Path | None = ROOT

    def recognise(self, cgroup: Path | None) -> None:
        self.kubelet = cgroup


def test_cgroup_in_which_the_pods_are_too_is_not_the_kubelets() -> None:
    probes: Any = ProbesOfTests()
    own = ROOT / "kubelet.slice"
    kept = PodProbes(probes, ROOT, own)
    kept.recognise(own / "kubelet-kubepods.slice")
    assert probes.kubelet is None
    assert kept.problem is not None
    assert "is below the kubelet's" in kept.problem
    kept.recognise(ROOT / "kubepods.slice")
    assert (probes.kubelet, kept.problem) == (own, None)
