"""What is sent to the API: paths and bodies.

A pod's condition goes by a strategic merge patch, as the kubelet's own do: conditions are merged by their type in the
server, so nothing that others write is read, sent back or lost. The UID in it is a precondition: a pod that took over
the name is not told of another's state (kubernetes.io, "API Concepts"; kubelet, `PatchPodStatus`).

For policies there is no such merge, custom resources know only JSON merge patches, which replace the whole list. So the
list is read, and sent back with the version that it had: who was faster wins, and we look again.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Final

from interceptor.cluster.condition import POD_CONDITION, POLICY_CONDITION, Condition, Told, one_line, told
from interceptor.cluster.fields import Fields
from interceptor.cluster.head import MAX_UID, ObjectKey
from interceptor.cluster.policy_object import MAX_GENERATION
from interceptor.cluster.wire import parse_json
from interceptor.cluster_status.events import NewEvent, Repetition, Subject
from interceptor.cluster_status.policy_status import PolicyState
from interceptor.errors import InvalidInput

STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
JSON_MERGE: Final = "application/merge-patch+json"
FIELD_MANAGER: Final = "fieldManager=interceptor"
MAX_INSTANCE: Final = 128
MAX_CONDITIONS: Final = 50
MAX_OTHERS: Final = 64 * 1024  # characters
_CLUSTER_WIDE: Final = "default"  # where Events about what is in no namespace are
_MAX_NAME: Final = 200


def pod_status_path(key: ObjectKey) -> str:
    """Of the status of a pod, and of nothing else of it."""
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}/status?{FIELD_MANAGER}"


def pod_status_patch(uid: str, condition: Condition, before: Told | None, now: datetime) -> bytes:
    """Changes our condition and nothing else; since when it holds stays, if it held before."""
    is_turn = before is None or before.condition.holds is not condition.holds
    since = {"lastTransitionTime": _second(now)} if is_turn else {}
    stated = {**_stated(POD_CONDITION, condition), **since}
    return _json({"metadata": {"uid": uid}, "status": {"conditions": [stated]}})


def policy_path(plural: str, key: ObjectKey) -> str:
    """Of one object of security.istio.io/v1."""
    return f"/apis/security.istio.io/v1/namespaces/{key.namespace}/{plural}/{key.name}"


def policy_status_patch(state: PolicyState, answer: bytes, now: datetime) -> bytes | None:
    """Changes our condition in the object that the API has answered with, and sends the others back as they are.

    None when nothing is to be changed: it says so already, or it is not the object any more that `state` is about.
    InvalidInput for what is no such object.
    """
    value = parse_json("the policy", answer)
    metadata = Fields("the policy", value).part("metadata")
    generation = metadata.number("generation", 0, MAX_GENERATION) or 0
    version = metadata.text("resourceVersion")
    is_it = (
        generation == state.generation
        if state.generation is not None
        else version == str(state.head.version)  # of one that cannot be read nothing else is known
    )
    present = told(value, POLICY_CONDITION)
    if metadata.text("uid", MAX_UID) != state.head.uid or not is_it:
        return None
    if present is not None and (present.condition, present.generation) == (state.condition, generation):
        return None
    since = present.since if present is not None and present.condition.holds is state.condition.holds else ""
    stated = {
        **_stated(POLICY_CONDITION, state.condition),
        "observedGeneration": generation,
        "lastTransitionTime": since or _second(now),
    }
    others = [each for each in _conditions(value) if each.get("type") != POLICY_CONDITION]
    return _json({"metadata": {"resourceVersion": version}, "status": {"conditions": [*others, stated]}})


def events_path(subject: Subject) -> str:
    """Where an Event about something is created."""
    return f"/apis/events.k8s.io/v1/namespaces/{subject.namespace or _CLUSTER_WIDE}/events"


def event_name(event: NewEvent | Repetition, salt: str) -> str:
    """The name of an Event, the same for its repetitions; `salt` tells this agent's from those of the one before."""
    subject = event.happening.subject
    digest = hashlib.sha256(f"{salt} {event.number} {subject.uid}".encode()).hexdigest()[:16]
    return f"{subject.name[:_MAX_NAME].rstrip('-.')}.{digest}"


def event_body(event: NewEvent, salt: str, controller: str, instance: str, now: datetime) -> bytes:
    """To create one; `instance` is who of the controllers says it."""
    happening = event.happening
    subject = happening.subject
    regarding = {
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "name": subject.name,
        "uid": subject.uid,
        **({"namespace": subject.namespace} if subject.namespace else {}),
    }
    return _json(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": event_name(event, salt),
                "namespace": subject.namespace or _CLUSTER_WIDE,
            },
            "eventTime": _microsecond(now),
            "reportingController": controller,
            "reportingInstance": instance[:MAX_INSTANCE],
            "action": happening.action,
            "reason": happening.reason,
            "type": "Warning" if happening.is_warning else "Normal",
            "regarding": regarding,
            "note": one_line(event.note),
        }
    )


def repetition_body(repetition: Repetition, now: datetime) -> bytes:
    """To count one that is there."""
    return _json({"series": {"count": repetition.count, "lastObservedTime": _microsecond(now)}})


def _conditions(value: object) -> list[dict[str, Any]]:
    listed = Fields("the policy", value).part("status").objects("conditions", MAX_CONDITIONS)
    found = [each for each in listed if isinstance(each, dict)]
    if len(found) != len(listed) or len(json.dumps(found)) > MAX_OTHERS:
        raise InvalidInput("the policy's status has conditions that cannot be kept, so none is added")
    return found


def _stated(sort: str, condition: Condition) -> dict[str, str]:
    return {
        "type": sort,
        "status": "True" if condition.holds else "False",
        "reason": condition.reason,
        "message": condition.message,
    }


def _second(now: datetime) -> str:
    """metav1.Time."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _microsecond(now: datetime) -> str:
    """metav1.MicroTime."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json(value: object) -> bytes:
    return json.dumps(value).encode("ascii")
