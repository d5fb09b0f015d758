"""The group of commands, and where each is."""

from __future__ import annotations

import click

from interceptor.cli.ca.beliefs import (
    alias,
    federate,
    revocations,
    revoke,
    unalias,
    unfederate,
    unrevoke,
)
from interceptor.cli.ca.members import node, nodes, token
from interceptor.cli.ca.overview import bundle, init, status
from interceptor.cli.ca.rotate import rotate
from interceptor.cli.ca.serve import serve


@click.group()
def ca() -> None:
    """Make, serve, watch and rotate a certificate authority.

    Every command works on the authority in --dir, also while it is served or embedded in an
    agent: changes reach the nodes within seconds.

    \b
    Examples:
      sudo interceptor ca init
      sudo interceptor ca serve --listen 10.0.0.1:15012
      sudo interceptor ca token create --node b --allow 'ns/*/sa/*'   prints what to run on b
      sudo interceptor ca rotate status
    """


for command in (
    init,
    serve,
    status,
    bundle,
    token,
    nodes,
    node,
    rotate,
    revoke,
    unrevoke,
    revocations,
    federate,
    unfederate,
    alias,
    unalias,
):
    ca.add_command(command)
