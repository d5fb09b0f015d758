"""kubernetes manifests: print what is applied to a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interceptor.cli.output import print_data
from interceptor.errors import ConfigError, InvalidInput, UsageError
from interceptor.manifests.everything import everything, json_list, yaml_documents
from interceptor.manifests.values import PARSERS, Definitions, PullPolicy, Values, field_of, parse_values
from interceptor.policy.peer_authentication import MtlsMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DEFAULTS = Values()


def _parsed(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """What an option says, read by the same rules as in a file; None when it is not given."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:  # noqa: ANN401
        try:
            if isinstance(value, tuple):
                return tuple(map(PARSERS[key], value)) or None
            return None if value is None else PARSERS[key](value)
        except InvalidInput as error:
            raise UsageError(f"{_option(key)}: {error}") from None

    return callback


def _option(key: str) -> str:
    name = "mesh_cidr" if key == "meshCidrs" else field_of(key)
    return f"--{name.replace('_', '-')}"


def _value(
    key: str, metavar: str, explanation: str, *, choices: Iterable[str] = (), default: object = None
) -> Any:  # noqa: ANN401
    shown = f"  [default: {default}]" if default is not None else ""
    listed = list(choices)
    return click.option(
        _option(key),
        field_of(key),
        metavar="|".join(listed) or metavar,
        multiple=key == "meshCidrs",
        callback=_parsed(key),
        help=f"{explanation}{shown}",
    )


_OPTIONS = (
    _value("meshCidrs", "CIDR", "Networks of all pods and of services; repeat it, they have no default."),
    _value("namespace", "NAME", "Where everything is put.", default=_DEFAULTS.namespace),
    _value("image", "IMAGE", "What 'make image' made.", default=_DEFAULTS.image),
    _value(
        "imagePullPolicy", "", "When it is pulled.", choices=PullPolicy, default=_DEFAULTS.image_pull_policy
    ),
    _value("trustDomain", "DOMAIN", "The naming root of all identities.", default=_DEFAULTS.trust_domain),
    _value("mode", "", "What a pod of the mesh takes.", choices=MtlsMode, default=_DEFAULTS.mode),
    _value("authorityReplicas", "NUMBER", "1 to 10 replicas.", default=_DEFAULTS.authority_replicas),
    _value("metricsAddress", "ADDRESS:PORT", "Of the agents' metrics.", default=_DEFAULTS.metrics_address),
    _value("cgroup", "PATH", "Where nodes have cgroup v2.", default=_DEFAULTS.cgroup),
    _value("podsCgroup", "PATH", "The cgroup of all pods.  [default: found by the agent]"),
    _value(
        "podConditions",
        "",
        "Whether pods' status tells how they stand; needs Kubernetes 1.30.",
        choices=("write", "omit"),
        default="write",
    ),
    _value("crds", "", "Definitions of Istio's policies.", choices=Definitions, default=_DEFAULTS.crds),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_with_options
@click.option(
    "--privileged/--no-privileged",
    default=None,
    help="Run the agent as a privileged container, where capabilities are not enough.  [default: no]",
)
@click.option(
    "--values",
    "values_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the same, such as 'meshCidrs: [10.244.0.0/16]'; options come before it.",
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def manifests(values_file: Path | None, output: str, **options: Any) -> None:  # noqa: ANN401
    """Print what makes a cluster a mesh, for 'kubectl apply -f -'.

    The agents are a DaemonSet, the authority is a Deployment whose state is in a Secret that
    it makes itself. The mesh then is the pods of each namespace with the label
    interceptor.io/mesh=enabled. 'kubectl delete -f -' of the same withdraws everything.

    The definitions of PeerAuthentication and AuthorizationPolicy are apart, since a cluster
    with Istio has its own: 'kubectl create' leaves those as they are, and deleting the mesh
    does not delete policies.

    \b
    Examples:
      interceptor kubernetes manifests --crds only | kubectl create -f -
      interceptor kubernetes manifests --mesh-cidr 10.244.0.0/16 --mesh-cidr 10.96.0.0/12 | kubectl apply -f -
      interceptor kubernetes manifests --values values.yaml > mesh.yaml
    """
    from_file = {} if values_file is None else _read(values_file)
    given = {name: value for name, value in options.items() if value is not None}
    objects = everything(Values(**{**from_file, **given}))
    if output == "json":
        print_data(json_list(objects), output)
    else:
        click.echo(yaml_documents(objects), nl=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    return parse_values(text, str(path))
