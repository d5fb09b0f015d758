"""What can be chosen of what is applied to a cluster, by options or in a file with the same names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from interceptor import __version__
from interceptor.config.document import read_mapping
from interceptor.config.values import (
    parse_count,
    parse_listen_address,
    parse_mesh_cidr,
    parse_path,
    parse_pod_conditions,
)
from interceptor.errors import ConfigError, InvalidInput, UsageError, quoted
from interceptor.identity.spiffe_id import TrustDomain, validate_name
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.strict_yaml import (
    ListNode,
    Node,
    ScalarNode,
    kind_of,
)
from interceptor.workload import Endpoint, IPNetwork

MAX_CHARACTERS: Final = 64 * 1024
MAX_DEPTH: Final = 4
MAX_IMAGE: Final = 500
_IMAGE_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:@")

_Choice = TypeVar("_Choice", bound=StrEnum)


class Definitions(StrEnum):
    """Whether the definitions of Istio's two policies are among what is printed, left out, or all of it."""

    INCLUDE = "include"
    OMIT = "omit"
    ONLY = "only"


class PullPolicy(StrEnum):
    """As Kubernetes has them."""

    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"
    NEVER = "Never"


def _one_of(choices: type[_Choice]) -> Callable[[str], _Choice]:
    """A parser of one word of a closed set, which raises InvalidInput."""

    def parse(text: str) -> _Choice:
        try:
            return choices(text)
        except ValueError:
            raise InvalidInput(f"{quoted(text)} is not one of {', '.join(choices)}") from None

    return parse


@dataclass(frozen=True, slots=True)
class Values:
    """Everything that can be chosen; `mesh_cidrs` are the networks of all pods and services, which only the caller knows.

    `cgroup` is where nodes have cgroup v2, `pods_cgroup` that of all pods where the agent cannot find it by itself;
    `pod_conditions` says whether the status of pods tells how they stand.
    """

    mesh_cidrs: tuple[IPNetwork, ...] = ()
    namespace: str = "interceptor"
    image: str = f"localhost/interceptor:{__version__}"
    image_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    trust_domain: TrustDomain = field(default_factory=lambda: TrustDomain("cluster.local"))
    mode: MtlsMode = MtlsMode.STRICT
    privileged: bool = False
    authority_replicas: int = 2
    metrics_address: Endpoint = field(default_factory=lambda: Endpoint.parse("0.0.0.0:15020"))
    cgroup: Path = Path("/sys/fs/cgroup")
    pods_cgroup: Path | None = None
    crds: Definitions = Definitions.OMIT
    pod_conditions: bool = True

    def require_complete(self) -> None:
        """Raise UsageError when something is left out that has no default."""
        if not self.mesh_cidrs and self.crds is not Definitions.ONLY:
            raise UsageError(
                "give the networks of all pods and of services, with --mesh-cidr, such as --mesh-cidr 10.244.0.0/16 "
                "--mesh-cidr 10.96.0.0/12: nothing else is captured"
            )


def parse_image(text: str) -> str:
    """The name of a container image; raises InvalidInput."""
    if not 0 < len(text) <= MAX_IMAGE or not set(text) <= _IMAGE_CHARACTERS or not text[0].isalnum():
        raise InvalidInput(
            f"{quoted(text)} is not the name of an image, such as registry.example/interceptor:1.0"
        )
    return text


def parse_flag(text: str) -> bool:
    """Raises InvalidInput."""
    if text not in ("true", "false"):
        raise InvalidInput(f"{quoted(text)} is not true or false")
    return text == "true"


PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "meshCidrs": parse_mesh_cidr,  # of each
    "namespace": lambda text: validate_name("namespace", text),
    "image": parse_image,
    "imagePullPolicy": _one_of(PullPolicy),
    "trustDomain": TrustDomain.parse,
    "mode": MtlsMode.parse,
    "privileged": parse_flag,
    "authorityReplicas": lambda text: parse_count(text, 1, 10),
    "metricsAddress": parse_listen_address,
    "cgroup": parse_path,
    "podsCgroup": parse_path,
    "crds": _one_of(Definitions),
    "podConditions": parse_pod_conditions,
}


def field_of(key: str) -> str:
    """The field of Values that a key of the file sets."""
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in key)


def parse_values(text: str, name: str) -> dict[str, Any]:
    """The fields that a file sets; `name` is its name for messages.  Raises ConfigError with file, line and key."""
    root = read_mapping(text, name, max_characters=MAX_CHARACTERS, max_depth=MAX_DEPTH)
    if root is None:
        return {}
    found = {}
    for key, (key_node, node) in root.entries.items():
        if key not in PARSERS:
            close = get_close_matches(key, PARSERS, 1)
            hint = f", did you mean {close[0]!r}?" if close else f", known are {', '.join(PARSERS)}"
            raise ConfigError(f"{name}:{key_node.line}: unknown key {quoted(key)}{hint}")
        found[field_of(key)] = _value(key, node, name)
    return found


def _value(key: str, node: Node, name: str) -> object:
    is_list = key == "meshCidrs"
    if isinstance(node, ListNode) and is_list:
        return tuple(_parsed(key, item, name) for item in node.items)
    value = _parsed(key, node, name)
    return (value,) if is_list else value


def _parsed(key: str, node: Node, name: str) -> object:
    if not isinstance(node, ScalarNode) or node.is_null:
        raise ConfigError(f"{name}:{node.line}: {key}: expected a single value, not {kind_of(node)}")
    try:
        return PARSERS[key](node.text)
    except InvalidInput as error:
        raise ConfigError(f"{name}:{node.line}: {key}: {error}") from None


assert {field_of(key) for key in PARSERS} == {each.name for each in fields(Values)}
