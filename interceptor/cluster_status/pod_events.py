"""Which Event tells of a change of a pod's condition."""

from typing import Final

from interceptor.cluster.condition import Condition
from interceptor.cluster.head import ObjectKey
from interceptor.cluster_status.events import Happening, Subject
from interceptor.cluster_status.pod_condition import PodReason, is_worth_a_warning

ACTION: Final = "Enrol"
ENROLLED: Final = "Enrolled"
DEGRADED: Final = "Degraded"
NOT_ENROLLED: Final = "NotEnrolled"


def pod_subject(key: ObjectKey, uid: str) -> Subject:
    """A pod as what an Event is about."""
    return Subject("v1", "Pod", key.namespace, key.name, uid)


def pod_happening(subject: Subject, condition: Condition, *, was_well: bool) -> Happening:
    """What to tell of a pod that has this condition now; the note is the condition's message."""
    is_warning = is_worth_a_warning(condition.reason)
    if condition.holds and condition.reason == PodReason.ENROLLED:
        word = ENROLLED
    else:
        word = DEGRADED if is_warning and (was_well or condition.holds) else NOT_ENROLLED
    return Happening(subject, is_warning, word, ACTION)
