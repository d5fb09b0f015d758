"""The shipped documents as `podman kube play` can have them, and pods for it.

It is no kubelet: it knows neither its node's name nor namespaces, makes no service account's tokens and no variables that lead to services,
and has no API that others put ConfigMaps into. That is added here, and nothing else is changed.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import yaml

from interceptor.manifests.names import AGENT, ROOTS
from tests.kube_play.node import UID

Json = dict[str, Any]
_ACCOUNT, _ACCOUNT_PLACE = "account", "/var/run/secrets/kubernetes.io/serviceaccount"
_JOIN = "join"


def agent(
    printed: str, *, node: str, root_fingerprint: str, account: dict[str, bytes], join_token: str, services: dict[str, str]
) -> str:
    """Of what `interceptor kubernetes manifests` printed the agent's ConfigMap and DaemonSet.

    node              its name
    root_fingerprint  what the authority puts into its ConfigMap
    account           the files of the pod's service account
    join_token        its other token, for the authority
    services          HOST:PORT of each service, by the beginning of its variables
    """
    documents = [each for each in yaml.safe_load_all(printed) if each["metadata"]["name"] == AGENT]
    config, daemonset = (
        next(each for each in documents if each["kind"] == kind) for kind in ("ConfigMap", "DaemonSet")
    )
    spec = daemonset["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    token = next(each for each in spec["volumes"] if "projected" in each)
    del token["projected"]
    token["secret"] = {"secretName": _JOIN}
    spec["volumes"].append({"name": _ACCOUNT, "secret": {"secretName": _ACCOUNT}})
    container["volumeMounts"].append({"name": _ACCOUNT, "mountPath": _ACCOUNT_PLACE, "readOnly": True})
    known = {"spec.nodeName": node, "metadata.namespace": daemonset["metadata"]["namespace"]}
    for variable in container["env"]:
        if "valueFrom" in variable:
            variable["value"] = known[variable.pop("valueFrom")["fieldRef"]["fieldPath"]]
    for name, address in services.items():
        for part, value in zip(("HOST", "PORT"), address.rsplit(":", 1), strict=True):
            container["env"].append({"name": f"{name}_SERVICE_{part}", "value": value})
    roots = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ROOTS},
        "data": {"root.sha256": root_fingerprint},
    }
    secrets = [_secret(_ACCOUNT, account), _secret(_JOIN, {"token": join_token.encode()})]
    return "---\n".join(f"{json.dumps(each)}\n" for each in (roots, *secrets, config, daemonset))


def pod(name: str, uid: str, image: str, *command: str) -> str:
    """A pod with one container."""
    container = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": list(command)}
    metadata = {"name": name, "labels": {"app": name}, "annotations": {UID: uid}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def _secret(name: str, files: dict[str, bytes]) -> Json:
    data = {key: b64encode(value).decode() for key, value in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
