"""What can be chosen, and what is refused, each in one line."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from interceptor.errors import ConfigError, InvalidInput, UsageError
from interceptor.manifests.values import (
    MAX_CHARACTERS,
    PARSERS,
    Definitions,
    PullPolicy,
    Values,
    parse_image,
    parse_values,
)
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.workload import Endpoint

FILE = """\
# of our cluster
meshCidrs: [10.244.0.0/16, "fd00:10::/108"]
namespace: mesh
image: registry.example:5000/interceptor@sha256:0123
imagePullPolicy: Always
trustDomain: prod.example
mode: PERMISSIVE
privileged: true
authorityReplicas: 3
metricsAddress: 127.0.0.1:15020
cgroup: /sys/fs/cgroup/unified
podsCgroup: /sys/fs/cgroup/unified/kubepods
crds: include
podConditions: omit
"""


def test_file_sets_every_value():
    found = parse_values(FILE, "values.yaml")
    values = Values(**found)
    assert len(found) == len(PARSERS)
    assert values.mesh_cidrs == (ip_network("10.244.0.0/16"), ip_network("fd00:10::/108"))
    assert (values.namespace, values.trust_domain.name, values.mode) == (
        "mesh",
        "prod.example",
        MtlsMode.PERMISSIVE,
    )
    assert (values.image, values.image_pull_policy) == (
        "registry.example:5000/interceptor@sha256:0123",
        PullPolicy.ALWAYS,
    )
    assert (values.privileged, values.authority_replicas, values.crds) == (True, 3, Definitions.INCLUDE)
    assert values.metrics_address == Endpoint.parse("127.0.0.1:15020")
    assert not values.pod_conditions
    assert values.pods_cgroup == Path("/sys/fs/cgroup/unified/kubepods")


def test_file_with_nothing_in_it_sets_nothing():
    assert parse_values("# nothing\n", "values.yaml") == {}


def test_single_network_need_not_be_a_list():
    assert parse_values("meshCidrs: 10.0.0.0/8", "v") == {"mesh_cidrs": (ip_network("10.0.0.0/8"),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "v:1: expected 'key: value' lines, not a list"),
        ("a: &x b", "v:1: cannot be read, anchors and aliases are not allowed"),
        ("a\tb: 'x", "v:"),
        ("meshCidr: 10.0.0.0/8", "v:1: unknown key 'meshCidr', did you mean 'meshCidrs'?"),
        ("\nzzz: 1", "v:2: unknown key 'zzz', known are meshCidrs, namespace"),
        ("meshCidrs: [10.0.0.1/8]", "v:1: meshCidrs: "),
        ("meshCidrs: [[10.0.0.0/8]]", "v:1: meshCidrs: expected a single value, not a list"),
        ("namespace: [a]", "v:1: namespace: expected a single value, not a list"),
        ("namespace:", "v:1: namespace: expected a single value"),
        ("namespace: Mesh", "v:1: namespace: "),
        ("image: 'a b'", "v:1: image: 'a b' is not the name of an image"),
        (
            "imagePullPolicy: always",
            "v:1: imagePullPolicy: 'always' is not one of IfNotPresent, Always, Never",
        ),
        ("trustDomain: Prod", "v:1: trustDomain: "),
        ("mode: strict", "v:1: mode: 'strict' is not a mode, use STRICT, PERMISSIVE or DISABLE"),
        ("privileged: yes", "v:1: privileged: 'yes' is not true or false"),
        ("authorityReplicas: 0", "v:1: authorityReplicas: 0 is out of range, expected 1 to 10"),
        ("metricsAddress: 127.0.0.1:15008", "v:1: metricsAddress: port 15008 is the proxy's own"),
        ("cgroup: cgroup", "v:1: cgroup: "),
        ("crds: yes please", "v:1: crds: 'yes please' is not one of include, omit, only"),
        ("#" * (MAX_CHARACTERS + 1), "v: has 65537 characters, at most 65536 are allowed"),
    ],
)
def test_value_that_is_wrong_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_values(text, "v")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_yaml_at_all_has_no_line():
    with pytest.raises(ConfigError, match="v: cannot be read"):
        parse_values('a: "\\UFFFFFFFF"', "v")


@pytest.mark.parametrize("text", ["", "-image", "a" * 501, "image;rm"])
def test_what_is_no_image_is_refused(text):
    with pytest.raises(InvalidInput, match="is not the name of an image"):
        parse_image(text)


def test_networks_have_no_default_but_for_definitions():
    with pytest.raises(UsageError, match="--mesh-cidr"):
        Values().require_complete()
    Values(crds=Definitions.ONLY).require_complete()
    Values((ip_network("10.0.0.0/8"),)).require_complete()
