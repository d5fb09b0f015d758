"""What an API server grants to a service account, by the roles of our manifests; and what of it was never used."""

from __future__ import annotations

import re
from typing import Any

_PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/v1/(?:namespaces/(?P<namespace>[^/]+)/)?(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?P<part>/status)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
Right = tuple[str, str, str, str, str]  # namespace or *, group, resource, name or *, verb


class Rights:
    """`forbids` is what ApiServer asks."""

    def __init__(self, objects: list[dict[str, Any]], account: str) -> None:
        self.granted = set(_granted(objects, account))
        self.used: set[Right] = set()
        self.refused: list[str] = []

    def forbids(self, method: str, path: str, query: str) -> str | None:
        parts = _PATH.fullmatch(path)
        assert parts is not None, path
        verb = _VERBS.get(method) or (
            "watch" if "watch=true" in query else "get" if parts["name"] else "list"
        )
        group, resource = parts["group"] or "", parts["resource"] + (parts["part"] or "")
        for right in self.granted:
            namespace, granted_group, granted_resource, name, granted_verb = right
            if (
                (granted_group, granted_resource, granted_verb) == (group, resource, verb)
                and namespace in ("*", parts["namespace"])
                and name in ("*", parts["name"])
            ):
                self.used.add(right)
                return None
        self.refused.append(f"{verb} {path}")
        return f"cannot {verb} resource {resource} in API group {group!r}"

    @property
    def unused(self) -> set[Right]:
        return self.granted - self.used


def _granted(objects: list[dict[str, Any]], account: str) -> list[Right]:
    roles = {
        (each["kind"], each["metadata"]["name"]): each for each in objects if each["kind"].endswith("Role")
    }
    rights = []
    for binding in (each for each in objects if each["kind"].endswith("RoleBinding")):
        if all(subject["name"] != account for subject in binding["subjects"]):
            continue
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        rights += [
            (role["metadata"].get("namespace", "*"), group, resource, name, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", ["*"])
            for verb in rule["verbs"]
        ]
    return rights
