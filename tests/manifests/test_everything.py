"""What is applied to a cluster: an API server takes it, its parts fit together, and it says what was chosen."""

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from interceptor.cluster.head import ObjectKey
from interceptor.config import parse_config
from interceptor.errors import UsageError
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.manifests.everything import everything, json_list, yaml_documents
from interceptor.manifests.values import Definitions, PullPolicy, Values
from interceptor.pod_admission.token_review import AUDIENCE
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.shared_authority.names import SharedAuthority
from interceptor.workload import Endpoint
from tests.manifests.api_rules import CLUSTER_WIDE, NAMESPACED, problems

GOLDEN = Path(__file__).with_name("golden.yaml")
VALUES = Values((ip_network("10.244.0.0/16"), ip_network("10.96.0.0/12")))
OTHERS = Values(
    (ip_network("fd00:10:244::/56"), ip_network("fd00:10:96::/112")),
    namespace="mesh",
    image="registry.example:5000/interceptor@sha256:0123",
    image_pull_policy=PullPolicy.ALWAYS,
    trust_domain=TrustDomain("prod.example"),
    mode=MtlsMode.PERMISSIVE,
    privileged=True,
    authority_replicas=3,
    metrics_address=Endpoint.parse("[::1]:15021"),
    cgroup=Path("/sys/fs/cgroup/unified"),
    pods_cgroup=Path("/sys/fs/cgroup/unified/kubepods"),
    crds=Definitions.INCLUDE,
)


def objects_of(values=VALUES):
    return json_list(everything(values))["items"]


def one(kind, values=VALUES, name=None):
    (found,) = [
        each
        for each in objects_of(values)
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return found


def agent_container(values=VALUES):
    (container,) = one("DaemonSet", values)["spec"]["template"]["spec"]["containers"]
    return container


def test_whole_output_is_as_it_was_reviewed():
    """Written anew by `interceptor kubernetes manifests` with the networks above, version 1.2.3 and its image."""
    values = replace(VALUES, image="localhost/interceptor:1.2.3")
    assert yaml_documents(everything(values, "1.2.3")) == GOLDEN.read_text()


@pytest.mark.parametrize("values", [VALUES, OTHERS, replace(VALUES, crds=Definitions.ONLY)])
def test_objects_are_such_as_the_api_takes(values):
    assert problems(objects_of(values)) == []


@pytest.mark.parametrize("values", [VALUES, OTHERS])
def test_yaml_and_json_say_the_same_in_the_same_order(values):
    objects = everything(values)
    assert list(yaml.safe_load_all(yaml_documents(objects))) == json_list(objects)["items"]
    assert yaml_documents(objects) == yaml_documents(everything(values))


def test_namespace_is_first_and_agents_are_last():
    kinds = [each["kind"] for each in objects_of(OTHERS)]
    assert kinds[:3] == ["CustomResourceDefinition", "CustomResourceDefinition", "Namespace"]
    assert kinds[-1] == "DaemonSet"
    assert set(kinds) == {*NAMESPACED, *CLUSTER_WIDE}


@pytest.mark.parametrize("values", [VALUES, OTHERS])
def test_everything_has_the_same_label_and_namespace(values):
    for each in objects_of(values):
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "interceptor"
        assert each["metadata"].get("namespace", values.namespace) == values.namespace


@pytest.mark.parametrize("values", [VALUES, OTHERS])
def test_bindings_lead_from_accounts_that_are_there_to_roles_that_are_there(values):
    objects = objects_of(values)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    bindings = [each for each in objects if each["kind"].endswith("RoleBinding")]
    assert len(bindings) == 4
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert ("ServiceAccount", subject["name"]) in there
            assert subject["namespace"] == values.namespace
    for kind in ("Deployment", "DaemonSet"):
        assert (
            "ServiceAccount",
            one(kind, values)["spec"]["template"]["spec"]["serviceAccountName"],
        ) in there


@pytest.mark.parametrize("values", [VALUES, OTHERS])
def test_agent_may_write_one_condition_of_its_own_pods_and_the_api_server_sees_to_it(values):
    policy = one("ValidatingAdmissionPolicy", values)
    binding = one("ValidatingAdmissionPolicyBinding", values)
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    (condition,) = policy["spec"]["matchConditions"]
    account = f"system:serviceaccount:{values.namespace}:interceptor-agent"
    assert condition["expression"] == f"request.userInfo.username == '{account}'"
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["pods/status"], ["UPDATE"])
    said = " ".join(each["expression"] for each in policy["spec"]["validations"])
    for field in ("status.?podIPs", "status.?podIP", "status.?phase", "metadata.?labels"):
        assert f"object.{field} == oldObject.{field}" in said
    assert (
        "request.userInfo.extra['authentication.kubernetes.io/node-name'] == [object.spec.nodeName]" in said
    )


def test_without_conditions_there_is_neither_the_right_nor_its_guard():
    values = replace(VALUES, pod_conditions=False)
    assert not any(each["kind"].startswith("ValidatingAdmission") for each in objects_of(values))
    assert "pods/status" not in str(one("ClusterRole", values, "interceptor:interceptor-agent"))
    text = one("ConfigMap", values)["data"]["config.yaml"]
    config = parse_config(text, "config.yaml", node="the pod", environment=environment(values))
    assert not config.kubernetes.pod_conditions


def test_rights_are_explained_one_by_one():
    text = yaml_documents(everything(VALUES)).splitlines()
    rules = [number for number, line in enumerate(text) if line == "  - apiGroups:"]
    assert len(rules) == 22
    assert all(text[number - 1].strip().startswith("# ") for number in rules)


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget"])
def test_what_stands_around_the_authority_selects_its_pods(kind):
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    spec = one(kind)["spec"]
    selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
    chosen = selector.get("matchLabels", selector).items()
    assert chosen <= labels.items()
    assert not chosen <= one("DaemonSet")["spec"]["template"]["metadata"]["labels"].items()


def environment(values):
    """What the kubelet gives to the agent: what the manifest says, and the services of the namespace."""
    service = one("Service", values)
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    (port,) = service["spec"]["ports"]
    names = {variable["name"] for variable in agent_container(values)["env"]}
    assert "NODE_NAME" in names
    return {
        "NODE_NAME": "node-1",
        f"{prefix}_SERVICE_HOST": "10.96.0.7",
        f"{prefix}_SERVICE_PORT": str(port["port"]),
    }


@pytest.mark.parametrize("values", [VALUES, OTHERS])
def test_configuration_is_one_that_the_agent_takes(values):
    config_map = one("ConfigMap", values)
    text = config_map["data"]["config.yaml"]
    config = parse_config(text, "config.yaml", node="the pod", environment=environment(values))
    assert config.kubernetes is not None
    assert (config.node, str(config.authority_address)) == ("node-1", "10.96.0.7:15012")
    assert (config.trust_domain, config.mode, config.mesh_cidrs) == (
        values.trust_domain,
        values.mode,
        values.mesh_cidrs,
    )
    assert config.metrics_address == values.metrics_address
    mounts = {mount["mountPath"] for mount in agent_container(values)["volumeMounts"]}
    assert str(config.paths.cgroup) in mounts
    files = (config.kubernetes.join_token_file, config.kubernetes.root_file)
    assert {str(path.parent) for path in files} <= mounts
    pods_cgroup = config.kubernetes.pods_cgroup
    assert pods_cgroup == (Path(f"/host{values.pods_cgroup}") if values.pods_cgroup else None)
    # The kubelet makes what is mounted with mode 0755, and the agent insists on directories of its own.
    ours = (config.paths.state_dir, config.paths.run_dir, config.paths.bpf_dir)
    assert {str(path.parent) for path in ours} <= mounts


def test_agent_finds_the_root_that_the_authority_publishes_and_shows_a_token_for_it_alone():
    volumes = {each["name"]: each for each in one("DaemonSet")["spec"]["template"]["spec"]["volumes"]}
    (authority,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in authority["env"]}
    namespace, _, name = environment["INTERCEPTOR_CA_SECRET"].partition("/")
    shared = SharedAuthority(VALUES.trust_domain, ObjectKey(namespace, name))
    assert volumes["root"]["configMap"]["name"] == shared.roots.name
    (source,) = volumes["token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    assert environment["INTERCEPTOR_CA_AGENTS"] == "interceptor/interceptor-agent"
    named = {name for rule in one("Role", name=name)["rules"] for name in rule.get("resourceNames", [])}
    assert named == {shared.secret.name, shared.roots.name, shared.nodes.name}


def test_agent_has_capabilities_unless_it_is_to_be_privileged():
    assert agent_container()["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in agent_container()["securityContext"]
    privileged = agent_container(OTHERS)["securityContext"]
    assert privileged == {"privileged": True, "readOnlyRootFilesystem": True}


def test_authority_has_no_privilege_at_all():
    pod = one("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("address", "host", "is_scraped"),
    [
        ("0.0.0.0:15020", "127.0.0.1", True),
        ("[::]:15020", "::1", True),
        ("192.0.2.7:15020", "192.0.2.7", True),
        ("127.0.0.1:15020", "127.0.0.1", False),
    ],
)
def test_agent_is_probed_where_it_listens_and_scraped_if_that_can_be(address, host, is_scraped):
    values = replace(VALUES, metrics_address=Endpoint.parse(address))
    container = agent_container(values)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert (container[probe]["httpGet"]["host"], container[probe]["httpGet"]["port"]) == (host, 15020)
    annotations = one("DaemonSet", values)["spec"]["template"]["metadata"]["annotations"]
    assert ("prometheus.io/scrape" in annotations) is is_scraped


def test_authority_is_scraped_where_it_listens_and_may_be_reached():
    (container,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
    annotations = one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert f"0.0.0.0:{annotations['prometheus.io/port']}" in container["args"]
    reachable = {
        str(port["port"]) for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]
    }
    assert reachable == {str(port["containerPort"]) for port in container["ports"]}
    assert annotations["prometheus.io/port"] in reachable


def test_agents_start_anew_with_another_configuration_only():
    def digest(values):
        return one("DaemonSet", values)["spec"]["template"]["metadata"]["annotations"][
            "interceptor.io/config"
        ]

    assert digest(VALUES) == digest(replace(VALUES, image="other"))
    assert digest(VALUES) != digest(replace(VALUES, mode=MtlsMode.PERMISSIVE))


def test_definitions_keep_what_only_our_own_parser_can_refuse():
    definitions = objects_of(replace(VALUES, crds=Definitions.ONLY))
    assert [each["metadata"]["name"] for each in definitions] == [
        "peerauthentications.security.istio.io",
        "authorizationpolicies.security.istio.io",
    ]

    def closed(schema, path):
        if schema["type"] == "array":
            yield from closed(schema["items"], f"{path}[]")
        elif schema["type"] == "object" and "properties" in schema:
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield path
            for name, each in schema["properties"].items():
                yield from closed(each, f"{path}.{name}")
        elif "additionalProperties" in schema:
            yield from closed(schema["additionalProperties"], f"{path}[*]")

    for definition in definitions:
        spec = definition["spec"]
        assert definition["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
        (version,) = spec["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        assert list(closed(schema["properties"]["spec"], "spec")) == []
        assert (version["served"], version["storage"]) == (True, True)


def test_definitions_are_left_out_unless_they_are_wanted():
    assert not any(each["kind"] == "CustomResourceDefinition" for each in objects_of())


def test_networks_must_be_given():
    with pytest.raises(UsageError, match="--mesh-cidr"):
        everything(Values())


def test_broken_object_would_be_found():
    """The rules above find what they are for."""
    objects = objects_of()
    daemonset = objects[-1]["spec"]["template"]["spec"]
    daemonset["volumes"].pop()
    daemonset["hostPid"] = True
    objects[0]["metadata"]["labels"]["a"] = "not valid"
    objects[1]["metadata"]["name"] = "Agent"
    assert len(problems(objects)) == 4
