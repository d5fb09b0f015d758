"""doctor network-policy: which NetworkPolicies change their meaning in a mesh, and what to put beside them."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interceptor.cli.manifest_files import read_manifests
from interceptor.cli.output import coloured, line_width, output_option, print_data, yaml_text
from interceptor.errors import InvalidInput, PolicyError
from interceptor.identity.spiffe_id import validate_name
from interceptor.network_policy.analysis import Effect, analyse
from interceptor.network_policy.companions import companions
from interceptor.network_policy.mesh_view import PRIVATE_NETWORKS, SYSTEM_NAMESPACES, MeshView
from interceptor.network_policy.model import BlockPeer
from interceptor.network_policy.parse import parse_manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.network_policy.analysis import Finding
    from interceptor.network_policy.companions import Companion
    from interceptor.network_policy.parse import Manifests
    from interceptor.workload import IPNetwork

_LEVELS = {Effect.STOPS_MATCHING: "failure", Effect.EVERY_PORT: "warning"}
_INDENT = " " * 9


def _checked(check: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that turns InvalidInput and ValueError of any value into wrong usage."""

    def callback(_context: click.Context, _parameter: click.Parameter, values: Any) -> Any:  # noqa: ANN401
        try:
            return tuple(map(check, values)) if isinstance(values, tuple) else check(values)
        except (InvalidInput, ValueError) as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _namespace(text: str) -> str:
    return validate_name("namespace", text)


@click.command("network-policy")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--enrol",
    multiple=True,
    metavar="NAMESPACE",
    callback=_checked(_namespace),
    help="Count this namespace as being in the mesh; can be repeated.",
)
@click.option(
    "--pod-cidr",
    "pod_cidrs",
    multiple=True,
    metavar="CIDR",
    callback=_checked(ip_network),
    help="Where pods have their addresses; can be repeated.  [default: all private networks]",
)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    metavar="NAMESPACE",
    callback=_checked(_namespace),
    help="Namespace of policies that name none.",
)
@click.option(
    "--companions", "wants_companions", is_flag=True, help="Print policies to apply beside them, as YAML."
)
@output_option
def network_policy(
    paths: tuple[Path, ...],
    enrol: tuple[str, ...],
    pod_cidrs: tuple[IPNetwork, ...],
    namespace: str,
    wants_companions: bool,
    output: str,
) -> None:
    """Say which NetworkPolicies change their meaning in the mesh; exit status 1 if one stops matching.

    \b
    Between pods of the mesh, every TCP connection goes to port 15008 of the other pod. A
    rule with other ports no longer matches it. PATHS are files, directories, or - for
    standard input, and may hold Namespaces too: their labels (interceptor.io/mesh=enabled,
    istio.io/dataplane-mode=ambient) say who is in the mesh. Without any, and without
    --enrol, all namespaces count, but Kubernetes's own. Nothing is changed, nobody is asked.

    \b
    Examples:
      kubectl get networkpolicy,namespace -A -o yaml | interceptor doctor network-policy -
      interceptor doctor network-policy --enrol shop manifests/
      interceptor doctor network-policy --companions manifests/ | kubectl apply -f -
    """
    manifests = _read(paths, namespace)
    mesh = MeshView.of(manifests.namespaces, enrol, pod_cidrs)
    findings = analyse(manifests.policies, mesh)
    if wants_companions:
        _print_companions(companions(findings, manifests.policies, mesh))
        return
    if output == "table":
        _print_lines(findings, manifests, mesh)
    else:
        print_data(_data(findings, manifests, mesh), output)
    if any(finding.effect is Effect.STOPS_MATCHING for finding in findings):
        sys.exit(1)


def _read(paths: tuple[Path, ...], namespace: str) -> Manifests:
    try:
        return parse_manifests(read_manifests(paths), namespace)
    except PolicyError as error:
        for problem in error.problems[1:]:
            click.echo(f"interceptor: {problem}", err=True)
        raise PolicyError(error.problems[0]) from None


def _print_companions(found: Sequence[Companion]) -> None:
    if not found:
        click.echo("# nothing to apply: no rule changes its meaning")
    for companion in found:
        if companion.document is not None:
            click.echo("---")
        for remark in companion.remarks:
            click.echo("\n".join(textwrap.wrap(remark, 110, initial_indent="# ", subsequent_indent="# ")))
        if companion.document is not None:
            click.echo(yaml_text(companion.document), nl=False)


def _print_lines(findings: Sequence[Finding], manifests: Manifests, mesh: MeshView) -> None:
    for finding in findings:
        level = _LEVELS[finding.effect]
        click.echo(
            f"{coloured(level)}{_INDENT[len(level) :]}{finding.policy} {finding.name}  {finding.place}"
        )
        for line in _wrapped(f"{_what(finding)}: {finding.effect.explanation}"):
            click.echo(_INDENT + line)
    for remark in _remarks(findings, manifests, mesh):
        click.echo(remark)
    click.echo(_conclusion(findings, manifests))


def _what(finding: Finding) -> str:
    ports = ", ".join(map(str, finding.ports))
    peers = "; ".join(map(str, finding.peers)) or "anybody"
    return f"{ports} {'from' if finding.side == 'ingress' else 'to'} {peers}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, line_width() - len(_INDENT), break_long_words=False, break_on_hyphens=False)


def _remarks(findings: Sequence[Finding], manifests: Manifests, mesh: MeshView) -> list[str]:
    remarks = []
    if mesh.enrolled is None:
        system = ", ".join(sorted(SYSTEM_NAMESPACES))
        remarks.append(f"no namespace was given: all count as being in the mesh, but {system}")
    else:
        remarks.append(f"in the mesh: {', '.join(sorted(mesh.enrolled)) or 'no namespace'}")
    has_blocks = any(isinstance(peer, BlockPeer) for finding in findings for peer in finding.peers)
    if has_blocks and mesh.networks == PRIVATE_NETWORKS:
        remarks.append("every private address counts as a pod's: --pod-cidr says where they really are")
    if manifests.related:
        listed = ", ".join(f"{count} {kind}" for kind, count in manifests.related.items())
        remarks.append(f"{coloured('warning')}: not looked at, though they decide too: {listed}")
    return remarks


def _conclusion(findings: Sequence[Finding], manifests: Manifests) -> str:
    read = f"{_count(len(manifests.policies), 'NetworkPolicy', 'NetworkPolicies')} read"
    if not findings:
        return f"{read}, none changes its meaning"
    effects = Counter(finding.effect for finding in findings)
    rules = [
        f"{_count(effects[effect], 'rule', 'rules')} {words}"
        for effect, words in ((Effect.STOPS_MATCHING, "lost"), (Effect.EVERY_PORT, "opened too far"))
        if effects[effect]
    ]
    return f"{read}: {', '.join(rules)}; --companions prints what can be applied beside them"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _data(findings: Sequence[Finding], manifests: Manifests, mesh: MeshView) -> dict[str, object]:
    return {
        "namespaces": None if mesh.enrolled is None else sorted(mesh.enrolled),
        "policies": len(manifests.policies),
        "not_looked_at": dict(manifests.related),
        "other_documents": manifests.others,
        "findings": [_finding(finding) for finding in findings],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "level": _LEVELS[finding.effect],
        "namespace": finding.policy.namespace,
        "name": finding.policy.name,
        "rule": finding.name,
        "effect": finding.effect.value,
        "explanation": finding.effect.explanation,
        "ports": [str(port) for port in finding.ports],
        "peers": [str(peer) for peer in finding.peers],
        "file": finding.policy.file,
        "line": finding.rule.line,
    }
