"""The configuration of a second agent beside a node's: everything is its own, but for what a test says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests.harness.process import CLI

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.node import Node


def twin(node: Node, directory: Path, shared: str) -> list[str]:
    """The beginning of the command lines of an agent that has this one setting in common with the node's.

    Its directories are in `directory`.
    """
    config = {
        **node.config,
        "paths": {
            "state": str(directory / "state"),
            "run": str(directory / "run"),
            "bpf": f"{node.bpf_dir}-2",
        },
        "bridge": {**node.config["bridge"], "name": f"{node.bridge}-2"},  # type: ignore[dict-item]
        "metrics": {"address": f"127.0.0.1:{node.slot.metrics_port + 1000}"},
    }
    section, _, key = shared.partition(".")
    config[section][key] = setting(node, shared)
    path = directory / "twin.yaml"
    path.write_text(yaml.safe_dump(config))
    return [str(CLI), "--config", str(path)]


def setting(node: Node, name: str) -> str:
    """A setting of two words ("paths.bpf") as the node has it."""
    section, _, key = name.partition(".")
    return str(node.config[section][key])  # type: ignore[index]
