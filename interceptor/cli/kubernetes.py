"""The group of commands about a Kubernetes cluster, and where each is."""

from __future__ import annotations

import click

from interceptor.cli.agent_started import agent_started
from interceptor.cli.cluster_policies import policies
from interceptor.cli.inventory import inventory
from interceptor.cli.manifests import manifests
from interceptor.cli.resolve import resolve


@click.group()
def kubernetes() -> None:
    """Make a Kubernetes cluster a mesh, and see it as the mesh would.

    'manifests' prints what is applied, and asks nobody; 'agent-started' is what the agent's pod is asked. The others read the API: in a pod they ask the API that the pod is given; elsewhere, beside 'kubectl proxy'.

    \b
    Examples:
      kubectl proxy &
      interceptor kubernetes inventory --server http://127.0.0.1:8001
    """


for command in (agent_started, manifests, inventory, resolve, policies):
    kubernetes.add_command(command)
