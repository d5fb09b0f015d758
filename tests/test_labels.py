"""Labels are Kubernetes' own, and an instance never changes."""

import pytest

from interceptor.errors import InvalidInput
from interceptor.labels import MAX_LABELS, NO_LABELS, Labels


def test_labels_are_an_immutable_hashable_mapping() -> None:
    given = {"tier": "front", "app": "web", "example.com/team": ""}
    labels = Labels(given)
    given["app"] = "other"
    assert dict(labels) == {"app": "web", "example.com/team": "", "tier": "front"}
    assert (len(labels), labels["app"], labels.get("none")) == (3, "web", None)
    assert str(labels) == "app=web,example.com/team=,tier=front"
    assert "app" in repr(labels)
    assert {labels: 1}[Labels(dict(labels))] == 1
    assert labels != {"app": "web"}
    assert Labels({}) == NO_LABELS


def test_labels_of_texts() -> None:
    assert Labels.parse(("app=web", "empty=", "x=a.b")) == Labels({"app": "web", "empty": "", "x": "a.b"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("app",), "'app' is not a label, expected KEY=VALUE such as app=web"),
        (("app=a", "app=b"), "label 'app' is there twice, remove one"),
        (("=a",), "label key '' is not valid"),
        (("-a=b",), "label key '-a' is not valid"),
        (("a" * 64 + "=b",), "is not valid, use at most 63"),
        (("/a=b",), "label key '/a' has no DNS name before the '/'"),
        (("Upper.com/a=b",), "has no DNS name before the '/'"),
        (("a." * 126 + "aa/a=b",), "has no DNS name before the '/'"),
        (("app=a b",), "label 'app' has the value 'a b', use at most 63"),
        (("app=" + "a" * 64,), "label 'app' has the value"),
        (("app=a\n",), "label 'app' has the value"),
        (tuple(f"k{n}=v" for n in range(MAX_LABELS + 1)), "there are 65 labels, at most 64 are allowed"),
    ],
)
def test_labels_that_kubernetes_would_not_take_are_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Labels.parse(texts)
    assert message in str(caught.value)
